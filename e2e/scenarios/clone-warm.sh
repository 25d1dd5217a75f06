# Two containers are restored from one warm bake of a Python server. Each has all of the program's output, the right time,
# randomness of its own in new processes, and in the program itself once a command has told it that it was cloned.
# limit: 600
python=docker.io/library/python3:latest
cat >serve.py <<'PY'
import http.server, os, random, signal, time
began = time.monotonic()
print("starting", os.environ.get("HOSTNAME"), flush=True)
requests = []
os.urandom(8)  # libraries keep a part of what they get, since Linux 6.11 without asking again
def reseed(*_):
    random.seed()
    print("cloned", flush=True)
signal.signal(signal.SIGUSR1, reseed)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        requests.append(self.path)
        text = f"{random.getrandbits(64)} {time.time()} {time.monotonic() - began} {os.urandom(8).hex()} {' '.join(requests)}\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("", 8080), Answer)
print("ready to serve", flush=True)
server.serve_forever()
PY
get='import sys, urllib.request; print(urllib.request.urlopen("http://%s:8080/%s" % tuple(sys.argv[1:]), timeout=5).read().decode(), end="")'
fetch() { python3 -c "$get" "$@"; }
address() { nerdctl inspect --format '{{.NetworkSettings.IPAddress}}' "$1"; }
options=(--annotation io.supermachine.config.vm.memory=152M --annotation io.supermachine.bake=warm
    --annotation 'io.supermachine.bake.ready-output=ready to serve'
    --annotation "io.supermachine.bake.ready-command=[\"python3\", \"-c\", \"import socket; socket.create_connection(('localhost', 8080))\"]"
    --annotation "io.supermachine.bake.warm-up=python3 -c '$get' localhost warm-up && echo x >>/warmed")
told=(--annotation 'io.supermachine.bake.on-clone=kill -USR1 1')
was_told() { nerdctl logs "$1" | grep -q cloned; }
run() { nerdctl_bridge --detach "${options[@]}" "$@" $python python3 -c "$(cat serve.py)"; }

run --name "$NAME-cold"
nerdctl rm --force "$NAME-cold"
wait_until 240 bakes_exist 1 warm 152

# Who isn't told goes on with what the program knew: the same for all.
for name in "$NAME-1" "$NAME-2"; do
    run --name "$name"
    assert_eq 'restored(warm)' "$(last_start_mode)"
    fetch "$(address "$name")" untold >"$name"
    nerdctl rm --force "$name"
done
assert_eq "$(cut -d' ' -f1 "$NAME-1")" "$(cut -d' ' -f1 "$NAME-2")" 'the numbers of two that were not told'
[ "$(cut -d' ' -f4 "$NAME-1")" != "$(cut -d' ' -f4 "$NAME-2")" ] || fail 'the kernel gave both the same random bytes'

for name in "$NAME-3" "$NAME-4"; do
    run "${told[@]}" --name "$name"
    assert_eq 'restored(warm)' "$(last_start_mode)"
    wait_until 20 was_told "$name"
    fetch "$(address "$name")" told >"$name"
    now=$(date +%s.%N)
    assert_eq '/warm-up /told' "$(cut -d' ' -f5- "$name")" 'requests'
    python3 -c 'import sys; assert abs(float(sys.argv[1]) - float(sys.argv[2])) < 5 and float(sys.argv[3]) > 0, sys.argv' \
        "$now" $(cut -d' ' -f2-3 "$name")
    assert_eq 'starting None
ready to serve
cloned' "$(nerdctl logs "$name")"
    assert_eq x "$(nerdctl exec "$name" cat /warmed)"
    nerdctl exec "$name" python3 -c 'import os, secrets, uuid, random; print(os.urandom(16).hex(), secrets.token_hex(16), uuid.uuid4(), random.getrandbits(99), sep="\n")' >"$name-new"
done
[ "$(cut -d' ' -f1 "$NAME-3")" != "$(cut -d' ' -f1 "$NAME-4")" ] || fail 'two that were told draw the same number'
assert_eq '' "$(comm -12 <(sort "$NAME-3-new") <(sort "$NAME-4-new"))" 'what new processes of two have in common'
nerdctl stop --time 1 "$NAME-3"
nerdctl rm --force "$NAME-3" "$NAME-4"

# Who can't be told doesn't run.
told=(--annotation 'io.supermachine.bake.on-clone=exit 7')
expect_fail run "${told[@]}" --name "$NAME-5"
assert_contains "$output" 'the command that tells the container of having been cloned exited with code 7'
nerdctl rm --force "$NAME-5"

# What isn't ready before it ends is no bake, and why is said.
options+=(--env A=B)
nerdctl_bridge --detach "${options[@]}" --name "$NAME-6" $python python3 -c 'raise SystemExit("no configuration")'
wait_until 200 eval 'log_lines supermachine-snapshotter | grep -q "exited with code 1 before it was ready; it wrote last: no configuration"'
nerdctl rm --force "$NAME-6"
assert_eq 1 "$(bake_keys warm 152 | wc -l)"
remove_bakes 152
