# Debian's Docker, as it is set up by itself, runs containers with the runtime: output,
# exit statuses, stdin, logs, exec, cp both ways while the container runs and afterwards,
# diff and commit.
# limit: 400
source /job/host/docker.sh
start_docker

assert_eq hello "$(docker_run --rm busybox echo hello)"
expect_status 3 docker_run --rm busybox sh -c 'exit 3'
assert_eq piped "$(echo piped | docker_run --rm --interactive busybox cat)"
[ "$(docker_run --rm busybox uname -r)" != "$(uname -r)" ] || fail 'the kernel is the host'"'"'s'

docker_run --detach --name "$NAME" --env word=set --volume "$PWD:/scenario" --tmpfs /scratch busybox \
    sh -c 'echo started; echo complaint >&2; echo inside >/inside; echo changed >>/etc/group; exec sleep 1000' >/dev/null
wait_until 20 eval 'docker logs "$NAME" 2>&1 | grep -q complaint'
assert_eq started "$(docker logs "$NAME" 2>/dev/null)"
assert_eq set "$(docker exec "$NAME" sh -c 'echo $word')"
expect_status 7 docker exec "$NAME" sh -c 'exit 7'
docker exec "$NAME" sh -c 'echo from the container >/scenario/shared'
assert_eq 'from the container' "$(cat shared)"

# What either side writes, the other sees at once.
docker cp "$NAME:/inside" out
assert_eq inside "$(cat out)"
expect_fail docker exec "$NAME" cat /etc/later
mkdir -p tree/below
echo copied >tree/below/file
docker cp tree "$NAME:/etc/later"
assert_eq copied "$(docker exec "$NAME" cat /etc/later/below/file)"
docker cp "$NAME:/scenario/shared" out
assert_eq 'from the container' "$(cat out)"
assert_contains "$(docker diff "$NAME" | sort)" 'A /inside'
assert_contains "$(docker diff "$NAME" | sort)" 'C /etc/group'
# On the host it is one process.
assert_contains "$(docker top "$NAME" -o pid,comm)" supermachine-vm
assert_eq "$NAME" "$(docker stats --no-stream --format '{{.Name}}' "$NAME")"

docker commit --change 'ENV committed=yes' "$NAME" "$NAME-image" >/dev/null
assert_eq 'inside yes' "$(docker_run --rm "$NAME-image" sh -c 'echo $(cat /inside) $committed')"
docker rmi "$NAME-image" >/dev/null

docker pause "$NAME" >/dev/null
assert_eq paused "$(docker inspect --format '{{.State.Status}}' "$NAME")"
docker unpause "$NAME" >/dev/null
docker stop --time 1 "$NAME" >/dev/null
assert_eq 137 "$(docker inspect --format '{{.State.ExitCode}}' "$NAME")"
docker cp "$NAME:/etc/later/below/file" out
assert_eq copied "$(cat out)"
docker start "$NAME" >/dev/null
assert_eq inside "$(docker exec "$NAME" cat /inside)"
docker rm --force "$NAME" >/dev/null
