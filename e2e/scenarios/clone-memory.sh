# What a container was given and has written is in its own VM's memory and in no other's: not in that of a clone of the
# bake which it had made, and not in the bake.
# limit: 300
memory=io.supermachine.config.vm.memory=144M
marker() { head -c 24 /dev/urandom | base64 | tr -d '+/=\n'; }
of_environment=E$(marker) of_arguments=A$(marker) of_file=F$(marker) of_volume=V$(marker)
search='
import re, sys
pid, marks = sys.argv[1], [mark.encode() for mark in sys.argv[2:]]
found = set()
with open(f"/proc/{pid}/mem", "rb", 0) as memory:
    for line in open(f"/proc/{pid}/maps"):
        start, end, rights = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
        start, end, carry = int(start, 16), int(end, 16), b""
        # Neither is memory that could be read twice the same.
        if rights[0] != "r" or "[vvar" in line or "[vsyscall]" in line:
            continue
        while start < end:
            memory.seek(start)
            try:
                block = memory.read(min(end - start, 1 << 20))
            except OSError:
                break
            start += len(block)
            found.update(mark for mark in marks if mark in carry + block)
            carry = block[-64:]
print(*sorted(mark.decode() for mark in found))
'
marks=("$of_environment" "$of_arguments" "$of_file" "$of_volume")
found_in() { python3 -c "$search" "$(vmm_pid "$1")" "${marks[@]}"; }
mkdir volume
echo "$of_volume" >volume/secret
hold() {
    ctr_run --detach --null-io --annotation $memory --env "SECRET=$of_environment" \
        --mount "type=bind,src=$PWD/volume,dst=/volume,options=rbind:rw" $busybox "$1" \
        sh -c "echo $of_file >/kept; secret=\$(cat /volume/secret); touch /volume/$1; sleep 1000; : \$secret" "$of_arguments"
}
end() { ctr tasks delete --force "$1" && ctr containers delete "$1"; }

# The first boots, and has bakes made while it runs: of the machine, and of the image.
hold "$NAME-first"
assert_eq cold "$(last_start_mode)"
wait_until 60 test -e "volume/$NAME-first"
wait_until 120 bakes_exist 1 image 144
hold "$NAME-second"
assert_eq 'restored(image)' "$(last_start_mode)"
wait_until 60 test -e "volume/$NAME-second"
# A search that finds nothing anywhere would prove nothing.
all=$(printf '%s\n' "${marks[@]}" | LC_ALL=C sort | xargs)
assert_eq "$all" "$(found_in "$NAME-second")" 'found where it belongs'

ctr_run --detach --null-io --annotation $memory $busybox "$NAME-clone" sleep 1000
assert_eq 'restored(image)' "$(last_start_mode)"
assert_eq '' "$(found_in "$NAME-clone")" 'found in a clone'
for mark in "${marks[@]}"; do
    ! grep -rqF "$mark" $bakes || fail "$mark is in a bake"
done
for container in first second clone; do end "$NAME-$container"; done
remove_bakes 144
