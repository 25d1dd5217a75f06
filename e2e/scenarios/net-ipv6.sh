# A network with IPv6: addresses and routes as under runc and usable at once, published
# ports on the host's addresses, neighbours and a multicast ping.
# limit: 300
nerdctl network create --ipv6 --subnet 10.79.0.0/24 --subnet fd00:79::/64 "$NAME"
look() {
    nerdctl run "${flags[@]}" --net "$NAME" --rm busybox sh -c '
        ping6 -c 1 -W 5 fd00:79::1 | grep -o "1 packets received"
        ip -6 -o address show dev eth0 scope global | sed -E "s/^[0-9]+: //; s/fd00:79::[0-9a-f]+/ADDRESS/; s/ (nodad|flags [0-9]+) / /"
        ip -6 -o address show dev eth0 scope link | wc -l
        ip -6 route | grep -v -e ^ff00 | sed -E "s/ (pref|expires) [a-z0-9]+//g"'
}
flags=()
look >theirs
flags=(--snapshotter $snapshotter --runtime $runtime)
look >ours
diff theirs ours || fail 'IPv6 differs (< runc, > ours)'

nerdctl run --net "$NAME" "${flags[@]}" --detach --name "$NAME" -p '[::]:8082:80' busybox sh -c '
    mkdir /www; echo over IPv6 >/www/index.html; httpd -f -p "[::]:80" -h /www'
address=$(nerdctl exec "$NAME" ip -6 -o address show dev eth0 scope global | sed -E 's,.*inet6 ([0-9a-f:]+)/.*,\1,')
fetch() { busybox wget -q -T 5 -O - "http://$1/"; }
wait_until 20 fetch "[$address]"
assert_eq 'over IPv6' "$(fetch "[$address]")"
# The bridge's own address: nerdctl gives containers no IPv6 route to any other.
assert_eq 'over IPv6' "$(fetch '[fd00:79::1]:8082')" 'published port'
heard=$(nerdctl run --net "$NAME" "${flags[@]}" --rm busybox ping6 -c 2 -W 5 ff02::1%eth0)
assert_contains "$heard" 'bytes from fe80'
nerdctl rm --force "$NAME"
nerdctl network rm "$NAME"
