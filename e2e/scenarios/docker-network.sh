# Docker's networks: its hook sets the container's up while it is created. Published
# ports, addresses on the default bridge, names in a network of one's own, aliases, a
# network connected later, no network. Names from outside are asked for by Docker's name
# server, from within the container's namespace.
# limit: 400
source /job/host/docker.sh
cat >names.py <<'PYTHON'
# Answers every question with 192.0.2.7.
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('172.17.0.1', 53))
while True:
    question, asker = server.recvfrom(4096)
    end = question.index(0, 12) + 5
    answer = b'\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x07'
    server.sendto(question[:2] + b'\x81\x80\0\x01\0\x01\0\0\0\0' + question[12:end] + answer, asker)
PYTHON
start_docker '{"dns": ["172.17.0.1"]}'
python3 names.py &

serve='mkdir /www; echo served by $(hostname) >/www/index.html; exec httpd -f -h /www'
docker_run --detach --name "$NAME" --hostname web --publish 8080:80 busybox sh -c "$serve" >/dev/null
wait_until 20 eval 'busybox wget -q -O - http://127.0.0.1:8080/ >answer'
assert_eq 'served by web' "$(cat answer)"
address=$(docker inspect --format '{{.NetworkSettings.IPAddress}}' "$NAME")
assert_eq 'served by web' "$(busybox wget -q -O - "http://$address/")"
assert_eq 'served by web' "$(docker_run --rm busybox wget -q -O - "http://$address/")"
docker_run --rm busybox ping -c 1 "$address" >/dev/null
docker rm --force "$NAME" >/dev/null
assert_eq lo "$(docker_run --rm --network none busybox ls /sys/class/net)"
expect_fail docker_run --rm --network host busybox true
assert_contains "$output" 'publish'

docker network create "$NAME" >/dev/null
docker_run --detach --name "$NAME-1" --network "$NAME" --network-alias alias busybox sh -c "$serve" >/dev/null
id=$(docker inspect --format '{{slice .Id 0 12}}' "$NAME-1")
ask() { docker_run --rm --network "$NAME" busybox wget -q -O - "http://$1/"; }
assert_eq "served by $id" "$(ask "$NAME-1")"
assert_eq "served by $id" "$(ask alias)"
assert_contains "$(docker_run --rm --network "$NAME" busybox nslookup -type=a outside.example)" 192.0.2.7
assert_contains "$(docker_run --rm busybox nslookup -type=a outside.example)" 192.0.2.7
docker_run --detach --name "$NAME-2" busybox sleep 1000 >/dev/null
expect_fail docker exec "$NAME-2" wget -q -O - "http://$NAME-1/"
docker network connect "$NAME" "$NAME-2"
wait_until 20 eval 'docker exec "$NAME-2" wget -q -O - "http://$NAME-1/" >answer'
assert_eq "served by $id" "$(cat answer)"
docker rm --force "$NAME-1" "$NAME-2" >/dev/null
docker network rm "$NAME" >/dev/null
