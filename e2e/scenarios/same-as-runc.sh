# A process finds itself set up as runc sets it up: capabilities, seccomp mode,
# limits, user, mounts, environment.
look='grep -E "^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)" /proc/self/status; cat /proc/self/limits; id; pwd; hostname; env | sort | grep -v HOSTNAME; cut -d" " -f2,3 /proc/mounts | grep -v "^/ " | sort; ls -l /dev | awk "{ print \$1, \$NF }"'
run_with() { ctr run --rm "$@" --env GREETING=hello $busybox "$NAME" sh -c "$look"; }
run_with >theirs
run_with --snapshotter $snapshotter --runtime $runtime >ours
diff theirs ours || fail "what the process finds differs (< runc, > ours)"
