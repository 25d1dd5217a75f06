# Sourced by scenarios that use Docker: Debian's daemon, with the containerd that the
# host runs.
#
#   start_docker [JSON]   starts it with these settings besides (of daemon.json)
#   docker_run            `docker run` with our runtime
#
# The daemon ends with the scenario, and what it has made goes with the scenario's
# folder.

engine=$PWD/engine

start_docker() {
    mkdir -p "$engine"
    jq -n --argjson more "${1:-{\}}" --arg root "$engine/data" --arg exec "$engine/exec" --arg pid "$engine/pid" \
        '{"data-root": $root, "exec-root": $exec, pidfile: $pid, containerd: "/run/containerd/containerd.sock"} + $more' \
        >"$engine/daemon.json"
    # Not through a pipe: what nerdctl writes to one is cut short now and then, and it reports success.
    nerdctl save --output "$engine/busybox.tar" busybox
    trap stop_docker EXIT
    PATH=/usr/sbin:$PATH dockerd --config-file "$engine/daemon.json" >"$engine/log" 2>&1 &
    engine_pid=$!
    wait_until 60 docker_answers
    docker load --input "$engine/busybox.tar" >/dev/null
}

docker_answers() {
    docker version >/dev/null 2>&1 || { kill -0 $engine_pid 2>/dev/null || fail "dockerd has ended: $(tail -n 3 "$engine/log")"; return 1; }
}

stop_docker() {
    local status=$?
    [ $status = 0 ] || tail -n 60 "$engine/log"
    docker ps --all --quiet | xargs -r docker rm --force >/dev/null || true
    docker network prune --force >/dev/null || true
    kill $engine_pid && wait $engine_pid || true
    ip link delete docker0 2>/dev/null || true
    awk -v below="$engine/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
    exit $status
}

docker_run() {
    docker run --runtime $runtime "$@"
}
