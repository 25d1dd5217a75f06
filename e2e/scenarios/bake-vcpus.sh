# One bake is for any number of CPUs: containers with 1, 2 and 4 are restored from the bake that a container with 3 had made
# by starting cold. Each has as many as it asked for, all of which work, at once and by the same clocks.
# limit: 400
python=docker.io/library/python3:latest
memory=io.supermachine.config.vm.memory=168M
cat >look.py <<'PY'
import os, subprocess, sys, time
count = int(sys.argv[1])
def agree(what, found, wanted=count):
    assert found == wanted, f"{what}: {found}, not {wanted}"
agree("nproc", int(subprocess.check_output(["nproc"])))
agree("/proc/cpuinfo", sum(line.startswith("processor") for line in open("/proc/cpuinfo")))
agree("affinity", os.sched_getaffinity(0), set(range(count)))
agree("/sys", open("/sys/devices/system/cpu/online").read().strip(), "0" if count == 1 else f"0-{count - 1}")
def processor():
    return int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[36])

# One process on each, all at once.
def work(cpu):
    os.sched_setaffinity(0, {cpu})
    total = sum(number * number for number in range(100_000))
    os._exit(0 if (processor(), total) == (cpu, 333328333350000) else 1)
children = [os.fork() or work(cpu) for cpu in range(count)]
agree("children that failed", [os.waitpid(child, 0)[1] for child in children], [0] * count)

# From one to the next: no clock goes back.
clocks = [time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC_RAW, time.CLOCK_BOOTTIME, time.CLOCK_REALTIME]
last = [0] * len(clocks)
for turn in range(100 * count):
    os.sched_setaffinity(0, {turn % count})
    now = [time.clock_gettime_ns(clock) for clock in clocks]
    assert all(a <= b for a, b in zip(last, now)), f"on CPU {turn % count} it was {now} after {last}"
    last = now

# Neither did the kernel find fault with them.
said = subprocess.check_output(["dmesg"], text=True)
words = ["TSC warp", "nstable", "stall", "lockup", "mismatch", "Firmware Bug"]
agree("complaints", [line for line in said.splitlines() if any(word in line for word in words)], [])
print("fine")
PY

bakes() { bake_keys base 168 && bake_keys image 168; }
# Usage: look CPUS
look() {
    ctr_run --rm --privileged --annotation $memory --annotation "io.supermachine.config.vm.vcpus=$1" $python \
        "$NAME-$1" python3 -c "$(cat look.py)" "$1"
}
assert_eq fine "$(look 3)"
assert_eq cold "$(last_start_mode)"
wait_until 120 bakes_exist 1 image 168
bakes >before
for vcpus in 1 2 4; do
    assert_eq fine "$(look $vcpus)"
    assert_eq 'restored(image)' "$(last_start_mode)"
    assert_eq "bake $(bake_keys image 168)" "$(last_start_reason)"
    start_lines | tail -n 1
done
bakes >after
diff before after || fail 'another bake was made'
remove_bakes 168
