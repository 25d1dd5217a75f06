# Docker's restart policies and health checks; what a container has written is there when
# it is started again.
# limit: 300
source /job/host/docker.sh
start_docker

docker_run --detach --name "$NAME" --restart on-failure:2 busybox sh -c 'echo run >>/count; wc -l </count; exit 4' >/dev/null
wait_until 60 eval '[ "$(docker inspect --format "{{.State.Status}} {{.RestartCount}}" "$NAME")" = "exited 2" ]'
assert_eq '1 2 3' "$(docker logs "$NAME" | xargs)"
assert_eq 4 "$(docker inspect --format '{{.State.ExitCode}}' "$NAME")"
docker rm "$NAME" >/dev/null

docker_run --detach --name "$NAME" --restart always --health-cmd 'test ! -e /ill' --health-interval 1s --health-retries 2 \
    busybox sleep 1000 >/dev/null
health() { docker inspect --format '{{.State.Health.Status}}' "$NAME"; }
wait_until 30 eval '[ "$(health)" = healthy ]'
docker exec "$NAME" touch /ill
wait_until 30 eval '[ "$(health)" = unhealthy ]'
# A VM that is gone is a container that has failed.
kill -KILL "$(docker inspect --format '{{.State.Pid}}' "$NAME")"
wait_until 60 eval '[ "$(docker inspect --format "{{.State.Status}} {{.RestartCount}}" "$NAME")" = "running 1" ]'
docker exec "$NAME" rm /ill
wait_until 30 eval '[ "$(health)" = healthy ]'
docker rm --force "$NAME" >/dev/null
