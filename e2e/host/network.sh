# Usage: network.sh wall|instructions RUNS
# Measures a network in one boot of the emulated host, with runc and restored, taking
# turns: streams and round trips between a container and the host's bridge, and what a
# network adds to `ctr run --rm`. Prints medians and ratios, and fails when a target is missed.
set -euo pipefail

clock=$1
runs=$2
image=docker.io/library/debian:latest
python=docker.io/library/python3:latest
ours=(--snapshotter supermachine --runtime io.containerd.supermachine.v2)
number=0

fail() { echo "FAILED: $*" && exit 1; }
. "$(dirname "$0")/readiness.sh"
. "$(dirname "$0")/figures.sh"
. "$(dirname "$0")/bridge.sh"

# A server for one request a connection: N bytes to be taken, to be given, or to be echoed one by one.
serve='
import socket
def take(peer, count):
    while count > 0:
        count -= len(peer.recv(1 << 20))
listening = socket.create_server(("", 9000))
while True:
    peer, _ = listening.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    what, count = peer.makefile("rb", 0).readline().split()
    count = int(count)
    if what == b"take":
        take(peer, count)
        peer.send(b"!")
    elif what == b"give":
        block = bytes(1 << 20)
        for _ in range(count >> 20):
            peer.sendall(block)
    else:
        for _ in range(count):
            peer.send(peer.recv(1))
    peer.close()
'
# Prints the microseconds that a request took, from its first byte to the answer of its last.
ask='
import socket, sys, time
address, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
server = socket.create_connection((address, 9000))
server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
server.send(f"{what} {count}\n".encode())
block = bytes(1 << 20)
began = time.monotonic_ns()
if what == "take":
    for _ in range(count >> 20):
        server.sendall(block)
    server.recv(1)
elif what == "give":
    while count > 0:
        count -= len(server.recv(1 << 20))
else:
    for _ in range(count):
        server.send(b"x")
        server.recv(1)
print((time.monotonic_ns() - began) // 1000)
'
ask() { python3 -c "$ask" "$@"; }
answers() { ask "$1" echo 1 >/dev/null 2>&1; }

# Usage: run_in NAMESPACE OPTION...; prints the microseconds that a start and its end took.
run_in() {
    number=$((number + 1))
    timed ctr run --rm --with-ns "network:/run/netns/$1" "${@:2}" $image "network-$number" true
}

cd "$(mktemp -d)"
make_bridge
make_namespace bare
make_namespace wired 10.90.0.2
make_namespace served-runc 10.90.0.3
make_namespace served-ours 10.90.0.4
unpack $image
unpack $python
run_in bare >/dev/null
run_in bare "${ours[@]}" >/dev/null
ctr run --rm "${ours[@]}" $python "network-$number-python" true
wait_for_bakes 2
# Usage: run_with bare|wired|both OPTION...
run_with() {
    if [ "$1" = both ]; then
        run_in wired --mount "type=bind,src=$PWD,dst=/volume,options=rbind:rw" "${@:2}"
    else
        run_in "$@"
    fi
}
for ((i = 0; i <= runs; i++)); do
    for with in bare wired both; do
        theirs=$(run_with $with) mine=$(run_with $with "${ours[@]}")
        [ $i -gt 0 ] || continue # the first of each finds caches cold
        echo "$theirs" >>"start-runc-$with"
        echo "$mine" >>"start-ours-$with"
    done
done

ctr run --detach --with-ns network:/run/netns/served-runc $python served-runc python3 -c "$serve"
ctr run --detach --with-ns network:/run/netns/served-ours "${ours[@]}" $python served-ours python3 -c "$serve"
megabytes=64 trips=500
for ((i = 0; i <= runs; i++)); do
    for server in runc:10.90.0.3 ours:10.90.0.4; do
        name=${server%:*} address=${server#*:}
        [ $i -gt 0 ] || wait_for 60 "the server under $name" answers "$address"
        take=$(ask "$address" take $((megabytes << 20))) give=$(ask "$address" give $((megabytes << 20)))
        echo=$(ask "$address" echo $trips)
        [ $i -gt 0 ] || continue # the first of each finds caches cold
        echo "$take" >>"take-$name"
        echo "$give" >>"give-$name"
        echo "$echo" >>"echo-$name"
    done
done
for server in served-runc served-ours; do
    ctr tasks delete --force $server 2>/dev/null || true
    ctr containers delete $server
done

heading network "$runs"
line "host to container, $megabytes MiB, ms" take ''
to_container=$to_runc
line "container to host, $megabytes MiB, ms" give ''
to_host=$to_runc
line "$trips round trips of a byte, ms" echo ''
round_trip=$to_runc
line 'ctr run --rm, without a network, ms' start -bare
bare_runc=$runc bare_ours=$ours
line 'ctr run --rm, with one, ms' start -wired
added_runc=$(difference "$runc" "$bare_runc") added_ours=$(difference "$ours" "$bare_ours")
row 'added by the network, ms' "$added_runc" "$added_ours" ''
line 'ctr run --rm, with one and a volume, ms' start -both
added_runc=$(difference "$runc" "$bare_runc") added_ours=$(difference "$ours" "$bare_ours")
row 'added by both, ms' "$added_runc" "$added_ours" ''

# Twice the time is half the throughput.
target "time of a stream to the container, to runc's" "$to_container" 2
target "time of a stream from the container, to runc's" "$to_host" 2
target "time of a round trip, to runc's" "$round_trip" 2
[ "$clock" != instructions ] || target 'added to a restored start by a network and a volume, virtual ms' "$added_ours" 15
exit $missed
