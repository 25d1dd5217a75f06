# Ports published with -p reach the container, TCP and UDP, from the host by any of its addresses.
# limit: 240
serve='
import selectors, socket
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("", 9000))
streams = socket.create_server(("", 80))
selector = selectors.DefaultSelector()
selector.register(datagrams, selectors.EVENT_READ)
selector.register(streams, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is datagrams:
            content, peer = datagrams.recvfrom(2000)
            datagrams.sendto(content.upper(), peer)
        else:
            streams.accept()[0].sendall(b"published\n")
'
# Usage: fetch ADDRESS PORT / answer ADDRESS PORT: what is said over TCP, and over UDP.
fetch() { python3 -c 'import socket, sys; print(socket.create_connection((sys.argv[1], sys.argv[2]), 5).recv(99).decode(), end="")' "$@"; }
answer() {
    python3 -c '
import socket, sys
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.settimeout(5)
peer.sendto(b"echoed", (sys.argv[1], int(sys.argv[2])))
print(peer.recv(99).decode())' "$@"
}

nerdctl_bridge --detach --name "$NAME" -p 8080:80 -p 127.0.0.1:8081:80 -p 9000:9000/udp python3 python3 -c "$serve"
ip link add "$NAME" type dummy
ip address add 192.0.2.1/24 dev "$NAME"
ip link set "$NAME" up
wait_until 20 fetch 127.0.0.1 8080
assert_eq published "$(fetch 127.0.0.1 8081)"
assert_eq published "$(fetch 192.0.2.1 8080)"
expect_fail fetch 192.0.2.1 8081
assert_eq ECHOED "$(answer 192.0.2.1 9000)"
assert_contains "$(nerdctl port "$NAME")" '80/tcp -> 0.0.0.0:8080'
# What restarts is published again.
nerdctl restart "$NAME"
wait_until 20 fetch 127.0.0.1 8080
nerdctl rm --force "$NAME"
expect_fail fetch 127.0.0.1 8080
ip link delete "$NAME"
