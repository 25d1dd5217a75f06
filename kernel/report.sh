#!/bin/bash
# Prints the size of the guest kernel and its boot time to a trivial /init, and checks from
# the inside that what containers need is there. Fails if something isn't.
#
# Usage: kernel/report.sh [VMLINUX]    (default: what kernel/build.sh builds)
#
# The VM is QEMU's microvm without KVM, so that this runs on every machine, with a clock that
# counts instructions (2 ns each), so that a busy machine gives the same figure as an idle
# one. The times compare kernels; they say nothing about KVM.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
boots=3
time_limit=120

die() { echo "kernel: $*" >&2; exit 1; }

make_initrd() {
    local root=$work/root
    mkdir -p "$root"/{bin,dev,proc,sys,tmp}
    cp /bin/busybox "$root/bin/busybox"
    install -m 755 "$here/report/init" "$root/init"
    (cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) > "$work/initrd.cpio"
}

# boot VCPUS ARGUMENTS: one life of the VM; its console goes to $work/console.
boot() {
    timeout "$time_limit" qemu-system-x86_64 -M microvm -cpu max \
        -accel tcg,thread=single -icount shift=1,sleep=off -m 256 -smp "$1" -nodefaults -no-user-config -no-reboot -display none -serial stdio \
        -kernel "$vmlinux" -initrd "$work/initrd.cpio" \
        -append "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 $2" \
        -drive id=disk,file="$work/disk",format=raw,if=none -device virtio-blk-device,drive=disk \
        -netdev user,id=net,restrict=on -device virtio-net-device,netdev=net \
        -chardev null,id=port -device virtio-serial-device -device virtconsole,chardev=port \
        -device virtio-rng-device -device virtio-balloon-device,free-page-reporting=on \
        < /dev/null > "$work/console" 2>&1 ||
        { cat "$work/console" >&2; die "the VM didn't end by itself within $time_limit s"; }
    tr -d '\r' < "$work/console" > "$work/lines"
    grep -q '^@userland' "$work/lines" || { cat "$work/lines" >&2; die "the VM never reached /init"; }
}

report_size() {
    echo "vmlinux              $vmlinux"
    echo "file                 $(stat -c %s "$vmlinux") bytes"
    size "$vmlinux" | awk 'NR == 2 { printf "in memory            %d text, %d data, %d bss\n", $1, $2, $3 }'
}

report_boot_time() {
    local start
    for _ in $(seq "$boots"); do
        start=${EPOCHREALTIME/./}
        boot 1 ""
        echo "$(awk '/^@userland/ { print $2 }' "$work/lines") $((${EPOCHREALTIME/./} - start))"
    done | sort -n > "$work/times"
    awk '
        { guest[NR] = $1 * 1000; wall[NR] = $2 / 1e6 }
        END {
            middle = int((NR + 1) / 2)
            printf "boot to /init        %.1f virtual ms (median of %d boots, %.1f to %.1f), 1 vCPU, 256 MiB\n", \
                guest[middle], NR, guest[1], guest[NR]
            printf "QEMU start to exit   %.2f s of real time in that boot\n", wall[middle]
        }' "$work/times"
}

report_checks() {
    boot 2 "checks=yes"
    grep -q '^@end' "$work/lines" || { cat "$work/lines" >&2; die "the checks didn't come to their end"; }
    sed -n 's/^@memory \([0-9]*\) \([0-9]*\)$/memory of 256 MiB    \1 KiB total, \2 KiB available/p' "$work/lines"
    sed -n 's/^@missing /missing              /p' "$work/lines"
    echo "checks               $(grep -c '^@ok' "$work/lines") passed, $(grep -c '^@missing' "$work/lines" || true) failed"
    ! grep -q '^@missing' "$work/lines"
}

main() {
    [ "$(uname -m)" = x86_64 ] || die "the report's VM is an x86_64 one"
    local missing
    missing=$("$here/missing-packages.sh" report)
    [ -z "$missing" ] || die "packages missing; run: apt-get install $missing"

    vmlinux=${1:-$("$here/build.sh")}
    [ -f "$vmlinux" ] || die "$vmlinux: no such file"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    make_initrd
    truncate -s 1M "$work/disk"

    report_size
    report_boot_time
    report_checks
}

main "$@"
exit
