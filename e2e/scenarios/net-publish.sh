# Ports published with -p reach the container, TCP and UDP, from the host by any of its addresses.
# limit: 240
fetch() { busybox wget -q -T 5 -O - "http://$1/"; }
nerdctl_bridge --detach --name "$NAME" -p 8080:80 -p 127.0.0.1:8081:80 -p 9000:9000/udp busybox sh -c '
    mkdir /www; echo published >/www/index.html
    httpd -h /www
    nc -l -u -p 9000 -e cat'
ip link add "$NAME" type dummy
ip address add 192.0.2.1/24 dev "$NAME"
ip link set "$NAME" up
wait_until 20 fetch 127.0.0.1:8080
assert_eq published "$(fetch 127.0.0.1:8080)"
assert_eq published "$(fetch 127.0.0.1:8081)"
assert_eq published "$(fetch 192.0.2.1:8080)"
expect_fail fetch 192.0.2.1:8081
answer() { [ "$(echo echoed | busybox timeout 3 nc -u -w 1 "$1" 9000)" = echoed ]; }
wait_until 20 answer 192.0.2.1
assert_contains "$(nerdctl port "$NAME")" '80/tcp -> 0.0.0.0:8080'
# What restarts is published again.
nerdctl restart "$NAME"
wait_until 20 fetch 127.0.0.1:8080
nerdctl rm --force "$NAME"
expect_fail fetch 127.0.0.1:8080
ip link delete "$NAME"
