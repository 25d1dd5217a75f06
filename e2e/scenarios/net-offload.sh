# Segments are left to whoever needs them: a stream between guest and host crosses the wire in
# frames far above the MTU, both ways, and arrives whole.
# limit: 240
bytes=$((32 << 20))
# Gives that many bytes, then takes as many, and says by how many frames of the card each was done.
serve="
import hashlib, socket
def frames(way):
    with open('/sys/class/net/eth0/statistics/' + way + '_packets') as figure:
        return int(figure.read())
block = bytes(range(256)) * 4096
peer, _ = socket.create_server(('', 9001)).accept()
before = frames('tx')
for _ in range($bytes >> 20):
    peer.sendall(block)
peer.recv(1)
sent = frames('tx') - before
before, hash, left = frames('rx'), hashlib.sha256(), $bytes
while left:
    content = peer.recv(min(left, 1 << 20))
    hash.update(content)
    left -= len(content)
peer.sendall(f'{sent} {frames(\"rx\") - before} {hash.hexdigest()}'.encode())
peer.recv(1)
"
ask="
import hashlib, socket, sys
peer = socket.create_connection((sys.argv[1], 9001), 60)
block, hash, left = bytes(range(256)) * 4096, hashlib.sha256(), $bytes
while left:
    content = peer.recv(min(left, 1 << 20))
    hash.update(content)
    left -= len(content)
peer.sendall(b'!')
for _ in range($bytes >> 20):
    peer.sendall(block)
print(peer.recv(999).decode(), hash.hexdigest())
"
nerdctl_bridge --detach --name "$NAME" python3 python3 -c "$serve"
address=$(nerdctl inspect --format '{{.NetworkSettings.IPAddress}}' "$NAME")
listens() { nerdctl exec "$NAME" sh -c 'cat /proc/net/tcp | grep -q ":2329 .* 0A "'; }
wait_until 20 listens
read -r sent received theirs ours <<<"$(python3 -c "$ask" "$address")"
assert_eq "$ours" "$theirs" 'what arrived there, and here'
# Without offloads, a frame holds 1448 bytes. How many more one holds with them depends on how busy the machine is.
few=$((bytes / 2000))
[ "$sent" -lt $few ] || fail "the guest sent $bytes bytes in $sent frames"
[ "$received" -lt $few ] || fail "the guest received $bytes bytes in $received frames"
nerdctl rm --force "$NAME"
