# A unix socket of the host that is mounted into a container is the host's server for whoever connects
# there: all of a large transfer both ways, many at a time, read-only as well. Its owner and permissions
# count. It stays the socket that was mounted, as under runc; what is no stream is hung up on. With the
# container goes all of it, also from a pod's machine that runs on.
# limit: 600
serve='
import hashlib, os, socket, sys, threading
path, word, open_now = sys.argv[1], sys.argv[2], [0]
def answer(peer):
    open_now[0] += 1
    hash, count = hashlib.sha256(), 0
    while content := peer.recv(1 << 20):
        if content == b"who":
            peer.sendall(word.encode())
        elif content == b"open":
            peer.sendall(str(open_now[0]).encode())
        hash.update(content)
        count += len(content)
    try:
        peer.sendall(hash.hexdigest().encode() + bytes(count))
    except OSError:
        pass
    peer.close()
    open_now[0] -= 1
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
os.chmod(path, 0o660)
os.chown(path, 0, 33)
listening.listen(64)
while True:
    threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()
'
# Usage: say PATH CONNECTIONS: they say 4 MiB together, then that is all, and must hear its digest and as much. All
# connections are there before the first has said all.
say='
import hashlib, socket, sys
path, count = sys.argv[1], int(sys.argv[2])
said = bytes(range(251)) * ((1 << 14) // count)
peers = []
for _ in range(count):
    peers.append(socket.socket(socket.AF_UNIX))
    peers[-1].connect(path)
    peers[-1].settimeout(60)
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
# Usage: ask PATH QUESTION USER. Prints the answer, or how it ended.
ask='
import os, socket, sys
os.setgroups([]), os.setgid(int(sys.argv[3])), os.setuid(int(sys.argv[3]))
peer = socket.socket(socket.AF_UNIX)
try:
    peer.connect(sys.argv[1])
    peer.settimeout(60)
    peer.sendall(sys.argv[2].encode())
    print(peer.recv(100).decode() or "hung up")
except OSError as error:
    print("hung up" if error.errno in (32, 104) else error.strerror)
'
serving=()
trap 'kill "${serving[@]}" 2>/dev/null || true' EXIT
# Usage: serve PATH WORD
serve() {
    python3 -c "$serve" "$@" &
    serving+=($!)
    wait_until 20 test -S "$1"
    wait_until 20 answers "$1"
}
answers() { [ "$(python3 -c "$ask" "$1" who 0)" != 'Connection refused' ]; }
shim_of() { awk '/^PPid:/ { print $2 }' "/proc/$(nerdctl inspect --format '{{.State.Pid}}' "$1")/status"; }
inside() { nerdctl exec "$NAME" python3 -c "$@"; }

serve "$PWD/server" 'the first'
python3 -c 'import socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind("datagrams"); time.sleep(1000)' &
serving+=($!)
wait_until 20 test -S datagrams

# What the container sees of it, and what it gets, is what runc's does.
look() {
    nerdctl run "${flags[@]}" --rm --volume "$PWD/server:/run/server" --volume "$PWD/server:/fixed:ro" python3 sh -c '
        exec 2>&1
        stat -c "%F %a %u:%g" /run/server /fixed; touch /fixed || echo read-only
        for path in /run/server /fixed; do python3 -c "$1" $path 1; done; python3 -c "$1" /run/server 40
        for user in 0 33 65534; do python3 -c "$2" /run/server who $user; done' sh "$say" "$ask"
}
same_as_runc look
said() { grep -cx "$1" ours; }
assert_eq '3 2 1' "$(said 'all of it') $(said 'the first') $(said 'Permission denied')"

nerdctl_run --detach --name "$NAME" --volume "$PWD:/directory" --volume "$PWD/server:/server" \
    --volume "$PWD/datagrams:/datagrams" python3 sleep 1000 >/dev/null
shim=$(shim_of "$NAME")
assert_eq 'the first' "$(inside "$ask" /server who 0)"
assert_eq 'hung up' "$(inside "$ask" /datagrams who 0)"
assert_contains "$(log_lines containerd)" "$PWD/datagrams: it is a socket for datagrams"

# Those that are over are no one's: not the server's, not the shim's.
idle=$(descriptors "$shim")
assert_eq 'all of it' "$(inside "$say" /server 100)"
assert_eq 'all of it' "$(inside "$say" /server 100)"
descriptors_are() { [ "$(descriptors "$1")" -le "$2" ]; }
wait_until 20 descriptors_are "$shim" "$idle"

# A server that starts anew makes another socket. Mounted is the first one, which nobody has open any more.
kill "${serving[0]}"
wait "${serving[0]}" || true
assert_eq 'hung up' "$(inside "$ask" /server who 0)"
rm server
serve "$PWD/server" 'the second'
assert_eq 'hung up' "$(inside "$ask" /server who 0)"
assert_contains "$(log_lines containerd)" "$PWD/server: nobody has that socket open"

# More than may be open at a time: the rest waits, and nobody is lost.
nerdctl rm --force "$NAME" >/dev/null
wait_until 20 is_gone "$shim"
nerdctl_run --detach --name "$NAME" --volume "$PWD/server:/server" python3 sleep 1000 >/dev/null
inside '
import socket, time
peers = []
for _ in range(300):
    peers.append(socket.socket(socket.AF_UNIX))
    peers[-1].connect("/server")
    peers[-1].settimeout(60)
def open_now():
    peers[0].sendall(b"open")
    return int(peers[0].recv(100))
until = time.monotonic() + 60
while open_now() < 256:
    assert time.monotonic() < until, open_now()
    time.sleep(0.1)
assert open_now() == 256
for peer in peers[1:]:
    peer.sendall(b"who")
    peer.shutdown(socket.SHUT_WR)
    assert peer.recv(100).startswith(b"the second"), peer
    peer.close()
print("each")' >each
assert_eq each "$(cat each)"
# One that is open when the container goes ends.
inside '
import socket
peer = socket.socket(socket.AF_UNIX)
peer.connect("/server")
peer.sendall(b"who")
while peer.recv(100):
    pass' &
talking=$!
open_are() { [ "$(python3 -c "$ask" "$PWD/server" open 0)" = "$1" ]; }
wait_until 20 open_are 2
nerdctl rm --force "$NAME" >/dev/null
wait $talking || true
wait_until 20 open_are 1

# In a pod its container may come and go.
group=io.kubernetes.cri.sandbox-id
pod() { ctr_run --annotation $group="$NAME" "$@"; }
pod --detach --null-io $busybox "$NAME" sleep 1000
vmm=$(vmm_pid "$NAME") shim=$(shim_pid "$NAME")
member() {
    pod --rm --mount "type=bind,src=$PWD/server,dst=/server,options=rbind:rw" docker.io/library/python3:latest "$NAME-$1" \
        python3 -c "$ask" /server who 0
}
assert_eq 'the second' "$(member first)"
idle=$(descriptors "$shim") mounts=$(wc -l <"/proc/$vmm/mountinfo")
for turn in $(seq 3); do assert_eq 'the second' "$(member "$turn")"; done
wait_until 20 descriptors_are "$shim" "$idle"
assert_eq "$mounts" "$(wc -l <"/proc/$vmm/mountinfo")" 'mounts of the VMM'
wait_until 20 open_are 1
ctr tasks kill --signal KILL "$NAME"
wait_until 20 task_is STOPPED "$NAME"
expect_task_exit 137 "$NAME"
ctr containers delete "$NAME"
wait_until 20 is_gone "$vmm"
