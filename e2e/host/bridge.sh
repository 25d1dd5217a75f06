# Sourced by benchmarks: a bridge, and network namespaces on it.

make_bridge() {
    ip link add bench0 type bridge
    ip address add 10.90.0.1/24 dev bench0
    ip link set bench0 up
}

# Usage: make_namespace NAME [ADDRESS]: with an interface on the bridge if there is an address.
make_namespace() {
    ip netns add "$1"
    ip -n "$1" link set lo up
    [ -n "${2:-}" ] || return 0
    ip link add "$1" type veth peer name eth0 netns "$1"
    ip link set "$1" master bench0 up
    ip -n "$1" link set eth0 up
    ip -n "$1" address add "$2/24" dev eth0
    ip -n "$1" route add default via 10.90.0.1
}
