# Machines restored from one bake have different generation ids, none of them the one that was baked, and the kernel of
# each knows before its first container runs that it is another machine than before; one that has booted is none.
# limit: 300
memory=io.supermachine.config.vm.memory=184M
noticed='crng reseeded due to virtual machine fork'
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
wait_until 120 bakes_exist 1 image 184
for clone in 1 2; do
    run "$NAME-$clone"
    assert_eq 'restored(image)' "$(last_start_mode)"
    # The first was when the image's bake was made from the base bake.
    assert_eq 2 "$(cat "$NAME-$clone.log")" "forks that the kernel of clone $clone noticed"
done
assert_eq 3 "$(sort -u ./*.id | wc -l)" 'different generation ids'
baked='
import sys
memory = open(sys.argv[1], "rb").read()
print(sum(bytes.fromhex(generation) in memory for generation in sys.argv[2:]))
'
for key in $(bake_keys base 184) $(bake_keys image 184); do
    assert_eq 0 "$(python3 -c "$baked" "$bakes/$key/memory" "$(cat "$NAME-1.id")" "$(cat "$NAME-2.id")")" 'ids in a bake'
done
for container in cold 1 2; do end "$NAME-$container"; done
remove_bakes 184
