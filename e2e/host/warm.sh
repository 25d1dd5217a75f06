# Usage: warm.sh wall|instructions RUNS
# Measures how long it takes from `ctr run` to the first answer of a server in the container, with runc and restored
# from a warm bake, taking turns, in one boot of the emulated host. Prints medians and ratios, and fails when a target
# is missed.
set -euo pipefail

clock=$1
runs=$2
ours=(--snapshotter supermachine --runtime io.containerd.supermachine.v2 --annotation io.supermachine.bake=warm)
number=0

fail() { echo "FAILED: $*" && exit 1; }
. "$(dirname "$0")/readiness.sh"
. "$(dirname "$0")/figures.sh"
. "$(dirname "$0")/bridge.sh"

# Runs a command, asks a server until it answers as it should, and prints the microseconds that took.
first_answer='
import socket, subprocess, sys, time
address, port, request, wanted = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4].encode()
began = time.monotonic_ns()
subprocess.run(sys.argv[5:], check=True, stdout=subprocess.DEVNULL)
while True:
    try:
        server = socket.create_connection((address, port), 10)
        server.sendall(request)
        answer = server.recv(1000)
    except OSError:
        answer = b""
    if wanted in answer:
        break
    if time.monotonic_ns() - began > 120e9:
        sys.exit(f"no answer, but {answer}, after {sys.argv[5:]}")
    time.sleep(0.001)
print((time.monotonic_ns() - began) // 1000)
'
get=$'GET / HTTP/1.0\r\n\r\n'
# Usage: use SERVER: its `image`, `port`, the `request` and what of the answer is `wanted`, and what it runs, `program`.
use() {
    image=docker.io/library/$1:latest port=80 request=$get wanted='200 OK'
    case $1 in
    nginx) program=(nginx -g 'daemon off;') ;;
    python3) program=(python3 -m http.server 80 --directory /srv) ;;
    node) program=(node -e 'require("http").createServer((request, answer) => answer.end("hello")).listen(80)') ;;
    redis)
        port=6379 request=$'PING\r\n' wanted=+PONG
        program=(redis-server --save '' --protected-mode no)
        ;;
    esac
}
servers=(nginx redis python3 node)

# Usage: serve_once ADDRESS OPTION...; prints how long it took to the first answer.
serve_once() {
    number=$((number + 1))
    python3 -c "$first_answer" "$1" $port "$request" "$wanted" \
        ctr run --detach --null-io --with-ns "network:/run/netns/at-$1" "${@:2}" $image "warm-$number" "${program[@]}"
    ctr tasks delete --force "warm-$number" >/dev/null 2>&1 || true
    ctr containers delete "warm-$number"
}
ours_once() { serve_once 10.90.0.3 "${ours[@]}" --annotation "io.supermachine.bake.ready-port=$port"; }
last_mode() { journalctl --no-pager --output=cat --unit=containerd | grep -F spawn_to_answer_us | tail -n 1 | grep -o 'mode=[^ ]*'; }
warm_bakes() { [ "$(supermachine ls --json | jq '[.bakes[] | select(.level == "warm")] | length')" = "$1" ]; }

cd "$(mktemp -d)"
make_bridge
for address in 10.90.0.2 10.90.0.3; do make_namespace "at-$address" $address; done
made=0
for server in "${servers[@]}"; do
    use "$server"
    unpack $image
    serve_once 10.90.0.2 >/dev/null
    ours_once >/dev/null
    made=$((made + 1))
    wait_for 900 "the warm bake of $server" warm_bakes $made
done
for ((i = 0; i <= runs; i++)); do
    for server in "${servers[@]}"; do
        use "$server"
        theirs=$(serve_once 10.90.0.2) mine=$(ours_once)
        case $(last_mode) in *'restored(warm)'*) ;; *) fail "not restored as it runs: $(last_mode)" ;; esac
        [ $i -gt 0 ] || continue # the first of each finds caches cold
        echo "$theirs" >>"$server-runc"
        echo "$mine" >>"$server-ours"
    done
done

heading 'from ctr run to the first answer, ms' "$runs"
declare -A ratios
for server in "${servers[@]}"; do
    line "$server" "$server" ''
    ratios[$server]=$to_runc
done
for server in "${servers[@]}"; do
    target "first answer of $server, warm to runc" "${ratios[$server]}" 0.25
done
exit $missed
