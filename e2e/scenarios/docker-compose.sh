# A compose project of two services with a network and a volume: one waits until the other
# is healthy, finds it by name, and both end with the project.
# limit: 400
source /job/host/docker.sh
start_docker
cat >compose.yaml <<YAML
name: project
services:
  web:
    image: busybox
    runtime: $runtime
    command: sh -c "sleep 1; mkdir -p /data/www; echo composed >/data/www/index.html; exec httpd -f -h /data/www"
    volumes: [data:/data]
    networks: [inner]
    ports: ["8081:80"]
    healthcheck:
      test: wget -q -O /dev/null http://localhost/
      interval: 1s
      retries: 30
  client:
    image: busybox
    runtime: $runtime
    command: sh -c "wget -q -O - http://web/ && cat /data/www/index.html && exec sleep 1000"
    volumes: [data:/data:ro]
    networks: [inner]
    depends_on:
      web: {condition: service_healthy}
volumes: {data: {}}
networks: {inner: {}}
YAML
docker-compose up --detach --quiet-pull
wait_until 30 eval '[ "$(docker-compose logs --no-log-prefix client | grep -c composed)" = 2 ]'
assert_eq composed "$(busybox wget -q -O - http://127.0.0.1:8081/)"
assert_eq healthy "$(docker inspect --format '{{.State.Health.Status}}' project-web-1)"
assert_eq composed "$(docker-compose exec -T client wget -q -O - http://web/)"
docker-compose restart --timeout 1 web
wait_until 30 eval 'docker-compose exec -T client wget -q -O - http://web/ >answer'
assert_eq composed "$(cat answer)"
docker-compose down --timeout 1 --volumes
assert_eq '' "$(docker ps --all --quiet)"
