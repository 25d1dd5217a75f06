# Docker with containerd's images and our snapshotter: what is run, copied, committed and
# started again is the same.
# limit: 400
source /job/host/docker.sh
start_docker "{\"features\": {\"containerd-snapshotter\": true}, \"storage-driver\": \"$snapshotter\"}"

assert_contains "$(docker info --format '{{.Driver}} {{.DriverStatus}}')" "$snapshotter"
assert_eq hello "$(docker_run --rm busybox echo hello)"
docker_run --detach --name "$NAME" busybox sh -c 'echo inside >/inside; exec sleep 1000' >/dev/null
wait_until 20 docker exec "$NAME" test -e /inside
docker cp "$NAME:/inside" out
assert_eq inside "$(cat out)"
echo copied >file
docker cp file "$NAME:/etc/copied"
assert_eq copied "$(docker exec "$NAME" cat /etc/copied)"
docker commit "$NAME" "$NAME-image" >/dev/null
assert_eq 'inside copied' "$(docker_run --rm "$NAME-image" sh -c 'echo $(cat /inside /etc/copied)')"
docker restart --time 1 "$NAME" >/dev/null
assert_eq copied "$(docker exec "$NAME" cat /etc/copied)"
docker rm --force "$NAME" >/dev/null
docker rmi "$NAME-image" >/dev/null
