# limit: 300
# Of a container that was started cold and of one that was restored, `supermachine` tells which it was and why, and
# whose every moment was from the request to the first output.
run() {
    ctr_run --detach --log-uri "file://$PWD/$1.log" --annotation io.supermachine.config.vm.memory=176M $busybox "$1" \
        sh -c 'echo hello; exec sleep 1000'
}
end() {
    ctr tasks delete --force "$1"
    ctr containers delete "$1"
}
trace() { supermachine trace "$1" --json; }
has_output() { trace "$1" | jq -e 'any(.phases[]; .name == "first output")' >/dev/null; }
of() { supermachine ls --json | jq -r --arg id "$1" ".machines[] | select(.id == \$id) | $2"; }
# As its clients see it: a label, and the event that tells of it.
label() { ctr containers info "$1" | jq -r ".Labels[\"io.supermachine.start$2\"]"; }
shows() { [ "$(label "$1" '')" = "$2" ]; }
was_told() { grep /containers/update events | grep -qF "\"io.supermachine.start\":\"$1\""; }
took() { trace "$1" | jq --arg name "$2" '.phases[] | select(.name == $name) | .took_us'; }

# Every moment has an owner, and what a start consists of is there.
check_trace() {
    local name traced
    wait_until 20 has_output "$1"
    traced=$(trace "$1")
    jq -e '.phases as $p | all(range(1; $p | length); $p[.].began_us == $p[. - 1].began_us + $p[. - 1].took_us)' \
        <<<"$traced" >/dev/null || fail "there are gaps: $traced"
    jq -e '.phases[0].began_us == 0 and .total_us == ([.phases[].took_us] | add)' <<<"$traced" >/dev/null ||
        fail "it doesn't add up: $traced"
    for name in 'bundle read' 'disks found' 'host prepared' 'bake looked up' 'VMM spawned' opened mapped wired running \
        'agent answered' 'cgroup entered' 'network connected' 'container made' 'Create answered' 'Start received' \
        'process started' 'first output'; do
        jq -e --arg name "$name" 'any(.phases[]; .name == $name)' <<<"$traced" >/dev/null || fail "no \"$name\" in $traced"
    done
    supermachine trace "$1"
}

watch_events
starts() { supermachine metrics | awk -v name="supermachine_starts_total{mode=\"$1\",level=\"$2\"}" '$1 == name { print $2 }'; }
before=$(starts cold '') restored=$(starts restored image)
run "$NAME-cold"
check_trace "$NAME-cold"
assert_eq cold "$(of "$NAME-cold" .mode)"
assert_eq "$(last_start_reason)" "$(of "$NAME-cold" .reason)"
wait_until 20 shows "$NAME-cold" cold
wait_until 5 was_told cold
assert_eq "$(last_start_reason)" "$(label "$NAME-cold" .reason)"
assert_contains "$(supermachine ls)" 'no bake for this machine key yet'
assert_eq null "$(of "$NAME-cold" .bake)"
assert_eq "$(vmm_pid "$NAME-cold")" "$(of "$NAME-cold" .pid)"

wait_until 120 bakes_exist 1 image 176
key=$(bake_keys image 176)
run "$NAME-restored"
check_trace "$NAME-restored"
assert_eq restored "$(of "$NAME-restored" .mode)"
assert_eq image "$(of "$NAME-restored" .level)"
wait_until 20 shows "$NAME-restored" 'restored(image)'
assert_eq "$key" "$(of "$NAME-restored" .bake)"
slow=$(took "$NAME-cold" 'agent answered') fast=$(took "$NAME-restored" 'agent answered')
[ "$slow" -gt "$fast" ] || fail "restored took $fast us to the agent's answer, cold $slow"

assert_eq $((before + 1)) "$(starts cold '')" 'cold starts counted'
assert_eq $((restored + 1)) "$(starts restored image)" 'restored starts counted'
supermachine metrics | grep -q '^supermachine_machines [1-9]' || fail 'no machine is counted'

bake=$(supermachine inspect "${key:0:16}" --json)
assert_eq "true default/$NAME-restored" "$(jq -r '"\(.fits) \(.machines[0])"' <<<"$bake")" 'the bake'
assert_eq "$(uname -r)" "$(jq -r .manifest.facts.host_kernel <<<"$bake")"
assert_contains "$(supermachine inspect "$NAME-restored")" "bake           $key"

# One that joins the machine of its pod has its own account, as long as it is there.
pod=(--detach --null-io --annotation io.kubernetes.cri.sandbox-id="$NAME" $busybox)
ctr_run "${pod[@]}" "$NAME-pod" sleep 1000
ctr_run "${pod[@]}" "$NAME-joined" sleep 1000
is_traced() { trace "$NAME-joined" >/dev/null; }
wait_until 20 is_traced
trace "$NAME-joined" | jq -e '.joined and any(.phases[]; .name == "disks attached")' >/dev/null || fail 'it did not join'
assert_eq "$(of "$NAME-pod" .pid)" "$(trace "$NAME-joined" | jq .pid)" 'the VMM of both'
assert_eq '' "$(of "$NAME-joined" .pid)" 'a machine of its own'
wait_until 20 shows "$NAME-joined" joined
end "$NAME-joined"
expect_status 1 supermachine trace "$NAME-joined"
end "$NAME-pod"

end "$NAME-cold"
end "$NAME-restored"
expect_status 1 supermachine trace "$NAME-cold"
assert_contains "$output" "no machine called \`$NAME-cold\` runs"
remove_bakes 176
