# Segments are left to whoever needs them: a stream between guest and host crosses the wire in
# frames far above the MTU, both ways, and arrives whole.
# limit: 240
bytes=33554432
nerdctl_bridge --detach --name "$NAME" busybox sh -c "
    head -c $bytes /dev/zero | nc -l -p 9001
    nc -l -p 9002 | wc -c >/received
    sleep 1000"
address=$(nerdctl inspect --format '{{.NetworkSettings.IPAddress}}' "$NAME")
id=$(nerdctl inspect --format '{{.Id}}' "$NAME")
# Usage: frames rx|tx: frames that the guest's card has seen so far.
frames() { nerdctl exec "$NAME" cat "/sys/class/net/eth0/statistics/$1_packets"; }
listens() { nerdctl exec "$NAME" grep -qi ":$1 .* 0A " /proc/net/tcp /proc/net/tcp6; }
few=$((bytes / 4000))

wait_until 20 listens 2329
before=$(frames tx)
assert_eq $bytes "$(busybox nc "$address" 9001 </dev/null | wc -c)" 'from the guest'
sent=$(($(frames tx) - before))
[ $sent -lt $few ] || fail "the guest sent $bytes bytes in $sent frames"

wait_until 20 listens 232A
before=$(frames rx)
head -c $bytes /dev/zero | busybox nc "$address" 9002
received() { nerdctl exec "$NAME" grep -qx $bytes /received; }
wait_until 20 received
got=$(($(frames rx) - before))
[ $got -lt $few ] || fail "the guest received $bytes bytes in $got frames"
nerdctl rm --force "$NAME"
