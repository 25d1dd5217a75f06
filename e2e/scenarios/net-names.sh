# In a network of one's own containers find each other by name; --dns, --add-host and
# --hostname are as under runc, and so is what the container finds in /etc.
# limit: 300
nerdctl network create --subnet 10.77.0.0/24 "$NAME"
nerdctl run --net "$NAME" --snapshotter $snapshotter --runtime $runtime --detach --name "$NAME-server" \
    busybox sh -c 'mkdir /www; echo found by name >/www/index.html; httpd -f -h /www'
said=$(nerdctl run --net "$NAME" --snapshotter $snapshotter --runtime $runtime --rm \
    busybox wget -q -O - "http://$NAME-server/")
assert_eq 'found by name' "$said"
nerdctl rm --force "$NAME-server"
nerdctl network rm "$NAME"

look() {
    nerdctl run "${flags[@]}" --rm --name "$NAME" --hostname inside --dns 192.0.2.53 --dns-search example.test \
        --dns-option timeout:1 --add-host other:192.0.2.7 busybox sh -c '
        hostname; cat /etc/hostname /etc/resolv.conf; sed -E "s/10\.4\.0\.[0-9]+/ADDRESS/" /etc/hosts; ping -c 1 -W 1 inside | grep -c "bytes from"'
}
same_on_bridge look
