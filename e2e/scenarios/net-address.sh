# --ip and --mac-address are the guest's, and two containers on a bridge hear each other's multicast.
# limit: 240
nerdctl network create --subnet 10.78.0.0/24 "$NAME"
look() {
    nerdctl run "${flags[@]}" --net "$NAME" --rm --ip 10.78.0.9 --mac-address 02:42:0a:4e:00:09 busybox sh -c '
        cat /sys/class/net/eth0/address
        ip -4 -o address show dev eth0 | sed -E "s/^[0-9]+: //"
        ip route
        ping -c 1 -W 5 10.78.0.1 | grep -o "1 packets received"'
}
flags=()
look >theirs
flags=(--snapshotter $snapshotter --runtime $runtime)
look >ours
diff theirs ours || fail 'the address differs (< runc, > ours)'

# All hosts of the link answer a multicast ping, if they are told to answer such.
nerdctl run --net "$NAME" "${flags[@]}" --detach --name "$NAME" --sysctl net.ipv4.icmp_echo_ignore_broadcasts=0 busybox sleep 1000
address=$(nerdctl inspect --format "{{(index .NetworkSettings.Networks \"$NAME\").IPAddress}}" "$NAME") || address=
[ -n "$address" ] || address=$(nerdctl exec "$NAME" ip -4 -o address show dev eth0 | sed -E 's/.*inet ([0-9.]+).*/\1/')
heard=$(nerdctl run --net "$NAME" "${flags[@]}" --rm busybox ping -c 3 -W 5 -I eth0 224.0.0.1)
assert_contains "$heard" "bytes from $address"
nerdctl rm --force "$NAME"
nerdctl network rm "$NAME"
