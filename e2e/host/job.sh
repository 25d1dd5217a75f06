# Runs /job/run with its output on the virtio port, leaves its exit status in
# /job/status and switches the machine off. What the job left running in its own
# process group is killed, so that nothing keeps the output open.
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name")" = job ] && output=/dev/${port##*/}
done
mkfifo /run/job-output
cat /run/job-output >"$output" &
copier=$!
exec 3>/run/job-output
setsid bash /job/run </dev/null >&3 2>&1 3>&- &
job=$!
wait $job
status=$?
kill -KILL -- -$job 2>/dev/null
exec 3>&-
wait $copier
echo $status >/job/status
# What the shared folders hold is written through; only a disk to keep needs this.
if [ -e /job/keep-disk ]; then
    sync
    echo u >/proc/sysrq-trigger
fi
echo o >/proc/sysrq-trigger
