# What nerdctl's options say about a process, it finds as under runc.
#
# Left out: what a kernel of its own answers (see same-as-runc), and devices of the host.
# Unless told otherwise, containers of runc have the OOM score of their shim, which is 1.
# limit: 300
look='grep -E "^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups|Umask)" /proc/self/status
grep -v -e "^Max processes" -e "^Max pending signals" -e "^Max open files" /proc/self/limits
sed s/^1$/0/ /proc/self/oom_score_adj; pwd; stat -c "%a %u" .; hostname; env | grep -v ^HOSTNAME= | sort
cut -d" " -f2-4 /proc/mounts | grep -v -e "^/ " -e ^/proc/kcore -e ^/proc/sysrq-trigger -e ^/etc/ | sed s/,favordynmods// | sort
cat /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max
touch /touched 2>&1; touch /run/touched 2>&1; ls -ln /scratch 2>&1 | head -n 1'
same() {
    local runtime_options
    for runtime_options in '' "--snapshotter $snapshotter --runtime $runtime"; do
        # shellcheck disable=SC2086 # options are words
        nerdctl run --rm --net none $runtime_options "$@" --hostname trial $busybox sh -c "$look" >"found$((${#runtime_options} > 0))"
    done
    diff found0 found1 || fail "what the process finds differs (< runc, > ours) with: $*"
}
same
same --user 33:34 --group-add 7 --umask 0027 --workdir /made/for/it
same --cap-drop ALL --cap-add NET_RAW --security-opt no-new-privileges
same --privileged --security-opt privileged-without-host-devices
same --read-only --tmpfs /run --tmpfs /scratch:size=1m,mode=700
same --ulimit nproc=100:200 --ulimit core=0 --oom-score-adj 300
same --sysctl kernel.msgmax=9000 --sysctl fs.mqueue.msg_max=20 --shm-size 1m --env A=1 --env A=2
