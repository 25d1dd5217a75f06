# A process finds itself set up as runc sets it up: capabilities, seccomp mode,
# limits, user, host name, mounts, environment.
#
# Left out, because a kernel of its own answers: the two limits that Linux derives
# from the size of memory, and what is about files that its kernel lacks.
look='grep -E "^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)" /proc/self/status
grep -v -e "^Max processes" -e "^Max pending signals" /proc/self/limits
id; pwd; hostname; env | sort; stat -c "%a %u:%g" /
cut -d" " -f2,3 /proc/mounts | grep -v -e "^/ " -e ^/proc/kcore -e ^/proc/sysrq-trigger | sort
ls -l /dev | grep -v kcore | awk "{ print \$1, \$NF }"'
run_with() { ctr run --rm "$@" --env GREETING=hello $busybox "$NAME" sh -c "$look"; }
run_with >theirs
run_with --snapshotter $snapshotter --runtime $runtime >ours
diff theirs ours || fail "what the process finds differs (< runc, > ours)"
