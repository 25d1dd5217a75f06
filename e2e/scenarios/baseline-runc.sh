# The host itself is sound: runc runs each test image.
assert_eq ID=debian "$(ctr run --rm $debian "$NAME-1" grep ^ID= /etc/os-release)"
assert_eq hello "$(ctr run --rm $busybox "$NAME-2" echo hello)"
assert_contains "$(ctr run --rm docker.io/library/nginx:latest "$NAME-3" nginx -v 2>&1)" nginx/
assert_eq 42 "$(ctr run --rm docker.io/library/python3:latest "$NAME-4" python3 -c 'print(6 * 7)')"
