# Without a network the guest shows what a container under runc does: a loopback interface.
look() {
    nerdctl run "${flags[@]}" --rm busybox sh -c '
        ls /sys/class/net | grep -v -e tunl -e sit -e gre -e erspan -e vti -e ip6
        cut -d: -f1 /proc/net/dev | grep -E "lo|eth"
        ip route; ping -c 1 -W 1 127.0.0.1 | grep -o "1 packets received"'
}
same_as_runc look
