# nerdctl's default bridge: the guest has the address, MTU and routes that a process under
# runc has, and reaches the gateway, the host and another container, and is reached by both.
# limit: 400
look() {
    nerdctl run "${flags[@]}" --rm busybox sh -c '
        ip -o link show dev eth0 | sed -E "s/^[0-9]+: //; s/@if[0-9]+//; s/link-netnsid [0-9]+//; s/(eth0: <)[^>]*/\1/; s/qdisc .*//"
        ip -4 -o address show dev eth0 | sed -E "s/^[0-9]+: //; s/10\.4\.0\.[0-9]+/ADDRESS/"
        ip route | sed -E "s/src [0-9.]+/src ADDRESS/"
        ls /sys/class/net | grep -v -e tunl -e sit -e gre -e erspan -e vti -e ip6
        ip -o link show dev lo | grep -o LOOPBACK,UP
        ping -c 2 -W 5 10.4.0.1 | grep -o "2 packets received"
        ping -c 1 -s 8000 -W 5 10.4.0.1 | grep -o "1 packets received"'
}
same_on_bridge look

nerdctl_bridge --detach --name "$NAME" busybox sh -c 'mkdir /www; echo from the container >/www/index.html; httpd -f -h /www'
address=$(nerdctl inspect --format '{{.NetworkSettings.IPAddress}}' "$NAME")
fetch() { busybox wget -q -T 5 -O - "http://$1/"; }
wait_until 20 fetch "$address"
assert_eq 'from the container' "$(fetch "$address")" 'host to container'
busybox ping -c 1 -W 5 "$address"

mkdir www
echo from the host >www/index.html
busybox httpd -f -p 10.4.0.1:8000 -h www &
server=$!
said=$(nerdctl_bridge --rm busybox sh -c "wget -q -O - http://10.4.0.1:8000/; wget -q -O - http://$address/")
kill $server
assert_eq "$(printf 'from the host\nfrom the container')" "$said" 'container to host, and to container'

# An interface of a container under runc on the same bridge is found as well.
nerdctl run --detach --name "$NAME-runc" busybox sh -c 'mkdir /www; echo from runc >/www/index.html; httpd -f -h /www'
other=$(nerdctl inspect --format '{{.NetworkSettings.IPAddress}}' "$NAME-runc")
wait_until 20 fetch "$other"
assert_eq 'from runc' "$(nerdctl_bridge --rm busybox wget -q -O - "http://$other/")"
nerdctl rm --force "$NAME" "$NAME-runc"
