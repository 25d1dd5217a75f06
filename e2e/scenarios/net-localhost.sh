# What someone who enters the container's network namespace on the host dials at `localhost` (as
# for `kubectl port-forward`) reaches the guest: IPv4 and IPv6, all of a large transfer both ways, many at
# a time, in a pod as well. Where nobody listens it is refused; who listens in the namespace is found there.
# limit: 300
serve='
import hashlib, os, socket, threading
def answer(peer):
    hash, count = hashlib.sha256(), 0
    while content := peer.recv(1 << 20):
        hash.update(content)
        count += len(content)
    peer.sendall(hash.hexdigest().encode() + bytes(count))
    peer.close()
def listen(family, address, port):
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listening.bind((address, port))
    listening.listen(64)
    while True:
        threading.Thread(target=answer, args=(listening.accept()[0],)).start()
# On every port somebody else: localhost by one family, and every address.
places = [(socket.AF_INET, "127.0.0.1", 7001), (socket.AF_INET6, "::1", 7002), (socket.AF_INET, "0.0.0.0", 7003),
          (socket.AF_INET6, "::", 7004)]
for place in places:
    threading.Thread(target=listen, args=place).start()
'
# Usage: dial ADDRESS PORT CONNECTIONS: they say 4 MiB together, then that is all, and must hear its digest and as much.
# All connections are there before the first has said all.
dial='
import hashlib, socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
said = bytes(range(251)) * ((1 << 14) // count)
peers = [socket.create_connection((address, port), 60) for _ in range(count)]
for peer in peers:
    peer.sendall(said[:1000])
for peer in peers:
    peer.sendall(said[1000:])
    peer.shutdown(socket.SHUT_WR)
    heard = b""
    while content := peer.recv(1 << 20):
        heard += content
    assert heard == hashlib.sha256(said).hexdigest().encode() + bytes(len(said)), len(heard)
print("all of it")
'
enter() { nsenter --net="/proc/$vmm/ns/net" "$@"; }
dial() { enter python3 -c "$dial" "$@"; }
reaches() { dial "$@" 2>/dev/null; }

nerdctl_bridge --detach --name "$NAME" python3 python3 -c "$serve"
vmm=$(nerdctl inspect --format '{{.State.Pid}}' "$NAME")
wait_until 30 reaches 127.0.0.1 7001 1
wait_until 30 reaches 127.0.0.1 7004 1
# Whichever family is dialled, the listener is found.
for port in 7001 7002 7003 7004; do
    for address in 127.0.0.1 ::1; do assert_eq 'all of it' "$(dial $address $port 1)" "$address $port"; done
done
assert_eq 'all of it' "$(dial 127.0.0.1 7001 40)" 'many at a time'
address=$(nerdctl inspect --format '{{.NetworkSettings.IPAddress}}' "$NAME")
assert_eq 'all of it' "$(dial "$address" 7003 1)" "the container's own address"

# Refused, and not made to wait.
for address in 127.0.0.1 ::1; do
    expect_fail timeout 10 nsenter --net="/proc/$vmm/ns/net" python3 -c '
import socket, sys
peer = socket.create_connection((sys.argv[1], 7009), 60)
peer.recv(1) or sys.exit("an end without a reset")' $address
    assert_contains "$output" Connection
done

# Who listens in the namespace is found there; the guest has somebody else on that port.
nsenter --net="/proc/$vmm/ns/net" python3 -c '
import socket
listening = socket.create_server(("127.0.0.1", 7003))
print("listens", flush=True)
while True:
    listening.accept()[0].sendall(b"in the namespace")' >listener &
listener=$!
wait_until 10 grep -q listens listener
said=$(enter python3 -c 'import socket; print(socket.create_connection(("127.0.0.1", 7003), 60).recv(99).decode())')
assert_eq 'in the namespace' "$said"
kill $listener
wait $listener || true
wait_until 10 reaches 127.0.0.1 7003 1

nerdctl rm --force "$NAME"

# In a pod, the server in its second container.
ip netns add "$NAME"
ip link add "$NAME" type veth peer name eth0 netns "$NAME"
ip -n "$NAME" link set eth0 up
ip -n "$NAME" address add 192.0.2.9/24 dev eth0
pod() { ctr_run --annotation "io.kubernetes.cri.sandbox-id=$NAME" --with-ns "network:/run/netns/$NAME" "$@"; }
pod --detach --null-io $busybox "$NAME" sleep 1000
pod --detach --null-io docker.io/library/python3:latest "$NAME-server" python3 -c "$serve"
vmm=$(vmm_pid "$NAME")
wait_until 30 reaches ::1 7002 1

# With the shim go the listener and what steers to it, however it ends.
in_namespace() { ip netns exec "$NAME" "$@"; }
assert_contains "$(in_namespace nft list tables)" supermachine
kill -KILL "$(shim_pid "$NAME")"
wait_until 10 is_gone "$vmm"
assert_eq '' "$(in_namespace nft list tables)" 'what is left in the namespace'
assert_eq '' "$(in_namespace ss -Hltn)" 'who listens there'
has_no_task() { ! ctr tasks list | grep -q "^$1 "; }
for container in "$NAME-server" "$NAME"; do wait_until 20 has_no_task "$container"; done
for container in "$NAME-server" "$NAME"; do
    ctr tasks delete --force "$container" || true
    ctr containers delete "$container"
done
ip netns delete "$NAME"
