# limit: 300
# An image of several layers looks as its builder left it: added, replaced and
# deleted files, modes and owners.
listing() { cat <<'SCRIPT'
cat /var/www/html/index.html
test ! -e /usr/share/bash-completion && echo deleted
stat -c "%a %U:%G %n" /usr/sbin/nginx /tmp /etc/shadow /usr/bin/passwd
SCRIPT
}
ours=$(ctr_run --rm docker.io/library/nginx:latest "$NAME" sh -c "$(listing)")
theirs=$(ctr run --rm docker.io/library/nginx:latest "$NAME-runc" sh -c "$(listing)")
assert_eq "$theirs" "$ours" 'files in the container'
assert_contains "$ours" 'served by nginx'
assert_contains "$ours" deleted
