#!/bin/bash
# Makes the emulated host's disk from Debian packages and prints the directory
# that holds disk.ext4 and vmlinuz. Nothing of this project is in it: binaries,
# units and scenarios come from the job folder at boot.
#
# Debian's cloud kernel has NVMe, ext4 and virtio-fs built in, so the host boots
# from an NVMe disk without an initrd. It has no 9p.

source "$(dirname "$0")/part.sh"

go_parts=$("$here/go-parts.sh")
begin_part host "$0" "$go_parts"
echo "making the emulated host's disk (about 1 minute)" >&2

packages=(
    linux-image-cloud-amd64 kmod systemd systemd-sysv
    containerd runc crun iproute2 iptables nftables
    busybox-static ca-certificates e2fsprogs erofs-utils squashfs-tools squashfs-tools-ng zstd
    procps lsof strace jq less util-linux python3 nginx-light
    docker.io docker-cli docker-compose git make gcc libc6-dev
)
mmdebstrap --quiet --variant=minbase \
    --include="$(IFS=,; echo "${packages[*]}")" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    trixie "$work/root" >&2

root=$work/root
mv "$root"/boot/vmlinuz-* "$work/vmlinuz"
rm -rf "$root"/boot/* "$root"/initrd.img* "$root"/vmlinuz* "$root"/var/cache/apt/*

# Not in /opt/containerd, which every containerd searches for shims.
mkdir -p "$root/usr/local/lib/containerd-2" "$root/opt/cni/bin" "$root/job" "$root/host"
cp "$go_parts"/bin/* "$root/usr/local/lib/containerd-2/"
cp "$go_parts"/cni/* "$root/opt/cni/bin/"

echo supermachine-host >"$root/etc/hostname"
printf '127.0.0.1 localhost supermachine-host\n::1 localhost\n' >"$root/etc/hosts"
passwd --root "$root" --delete root >&2
: >"$root/etc/machine-id"

# The host runs containerd, the product and one job: what else a Debian system
# starts at boot is masked, which halves the time until containerd answers.
mask() {
    local folder=$1 name
    shift
    mkdir -p "$folder"
    for name in "$@"; do ln -sf /dev/null "$folder/$name"; done
}
generators=()
for generator in "$root"/usr/lib/systemd/system-generators/*; do generators+=("$(basename "$generator")"); done
mask "$root/etc/systemd/system-generators" "${generators[@]}"
mask "$root/etc/systemd/system" containerd.service docker.service nftables.service \
    getty.target cryptsetup.target integritysetup.target veritysetup.target swap.target remote-fs.target \
    nss-user-lookup.target timers.target slices.target paths.target sockets.target \
    systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
    systemd-networkd.service systemd-timesyncd.service systemd-logind.service systemd-hwdb-update.service \
    systemd-update-utmp.service systemd-random-seed.service systemd-binfmt.service systemd-machine-id-commit.service \
    systemd-firstboot.service systemd-journal-flush.service systemd-journal-catalog-update.service \
    systemd-remount-fs.service systemd-update-done.service systemd-user-sessions.service ldconfig.service \
    systemd-tpm2-setup.service systemd-tpm2-setup-early.service systemd-pcrphase.service \
    systemd-modules-load.service systemd-sysctl.service systemd-sysusers.service kmod-static-nodes.service \
    systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup-dev-early.service \
    systemd-ask-password-console.path systemd-ask-password-wall.path systemd-hibernate-clear.service \
    tmp.mount run-lock.mount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount \
    proc-sys-fs-binfmt_misc.automount modprobe@.service
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nAudit=no\n' >"$root/etc/systemd/journald.conf.d/host.conf"

# The one thing on the disk that knows about the job folder.
cat >"$root/sbin/host-init" <<'INIT'
#!/bin/sh
mount -t virtiofs job /job || { echo "the job folder cannot be mounted"; echo o >/proc/sysrq-trigger; }
exec /bin/sh /job/host/init.sh
INIT
chmod 755 "$root/sbin/host-init"

mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1 -d "$root" "$work/disk.ext4" 12G >&2
rm -rf "$root"
finish_part
