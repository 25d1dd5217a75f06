# The host's network, another container's, and more interfaces than a machine has cards are refused,
# each with what to do instead, and nothing is left of the attempt.
# limit: 300
expect_fail nerdctl run --net host --snapshotter $snapshotter --runtime $runtime --name "$NAME" busybox true
assert_contains "$output" "the host's network can't be a VM's"
assert_contains "$output" -p
nerdctl rm --force "$NAME"

nerdctl_bridge --detach --name "$NAME-other" busybox sleep 1000
expect_fail nerdctl run --net "container:$NAME-other" --snapshotter $snapshotter --runtime $runtime --name "$NAME" busybox true
assert_contains "$output" 'interface eth0 belongs to another VM'
assert_contains "$output" 'one network'
nerdctl rm --force "$NAME"
# The other one goes on.
nerdctl exec "$NAME-other" ping -c 1 -W 5 10.4.0.1
nerdctl rm --force "$NAME-other"

ip netns add "$NAME"
for number in 1 2 3; do
    ip -n "$NAME" link add "one$number" type veth peer name "two$number"
    ip -n "$NAME" link set "one$number" up
    ip -n "$NAME" link set "two$number" up
done
expect_fail ctr_run --rm --with-ns "network:/run/netns/$NAME" $busybox "$NAME" true
assert_contains "$output" 'has 6 interfaces'
ip netns delete "$NAME"
expect_fail ctr_run --rm --with-ns "network:/run/netns/$NAME" $busybox "$NAME" true
assert_contains "$output" "network namespace /run/netns/$NAME"
