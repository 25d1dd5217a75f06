# Machines restored from one bake have different generation ids, none of them the one that was baked, and the kernel of
# each knows before its first container runs that it is another machine than before; one that has booted is none.
# limit: 300
memory=io.supermachine.config.vm.memory=184M
noticed='crng reseeded due to virtual machine fork'
bake() { supermachine ls --json | jq -re '.bakes[] | select(.memory_bytes == 184 * 1048576) | .key'; }
end() { ctr tasks delete --force "$1" && ctr containers delete "$1"; }

# The id has the page behind the 64 KiB of the ACPI tables, at whose beginning the root pointer is.
generation='
import re, sys
page, behind = 4096, 0x10000
with open(f"/proc/{sys.argv[1]}/mem", "rb", 0) as memory:
    def read(address, length):
        memory.seek(address)
        return memory.read(length)
    for line in open(f"/proc/{sys.argv[1]}/maps"):
        start, end, rights = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
        if not rights.startswith("rw"):
            continue
        for address in range(int(start, 16), min(int(end, 16), int(start, 16) + (1 << 20)), page):
            root = read(address, 16)
            if root.startswith(b"RSD PTR ") and root[9:15] == b"SUPERM":
                print(read(address + behind, 16).hex())
'

# Usage: run NAME: a container whose first act is to write down what its kernel has said of forks.
run() {
    ctr_run --detach --log-uri "file://$PWD/$1.log" --privileged --annotation $memory $busybox "$1" \
        sh -c "dmesg >/said; grep -c '$noticed' /said; exec sleep 1000"
    wait_until 60 test -s "$1.log"
    python3 -c "$generation" "$(vmm_pid "$1")" >"$1.id"
    [[ $(cat "$1.id") =~ ^[0-9a-f]{32}$ ]] || fail "no generation id in the memory of $1: $(cat "$1.id")"
}

run "$NAME-cold"
assert_eq cold "$(last_start_mode)"
assert_eq 0 "$(cat "$NAME-cold.log")" 'forks that a booted kernel noticed'
wait_until 120 bake >/dev/null
for clone in 1 2; do
    run "$NAME-$clone"
    assert_contains "$(last_start_mode)" restored
    assert_eq 1 "$(cat "$NAME-$clone.log")" "forks that the kernel of clone $clone noticed"
done
assert_eq 3 "$(sort -u ./*.id | wc -l)" 'different generation ids'
is_baked='
import sys
memory = open(sys.argv[1], "rb").read()
sys.exit(0 if any(bytes.fromhex(generation) in memory for generation in sys.argv[2:]) else 1)
'
expect_status 1 python3 -c "$is_baked" "$bakes/$(bake)/memory" "$(cat "$NAME-1.id")" "$(cat "$NAME-2.id")"
for container in cold 1 2; do end "$NAME-$container"; done
supermachine rm "$(bake)"
