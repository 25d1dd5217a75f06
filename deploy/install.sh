#!/bin/sh
# Installs supermachine on this host, or below a staging directory for a package.
#
#   deploy/install.sh --bin DIR --kernel VMLINUX --initrd INITRD.CPIO [--staging DIR]
#
# DIR holds the built binaries. Needs root, containerd 1.7 or later, squashfs-tools-ng and e2fsprogs. Run again to
# update; running containers keep the binaries they were started with.
set -eu

fail() {
    echo "install: $*" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
bin='' kernel='' initrd='' staging=''
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 needs a value (see the head of $0)"
    case $1 in
    --bin) bin=$2 ;;
    --kernel) kernel=$2 ;;
    --initrd) initrd=$2 ;;
    --staging) staging=$2 ;;
    *) fail "unknown argument $1 (see the head of $0)" ;;
    esac
    shift 2
done

binaries='containerd-shim-supermachine-v2 supermachine-vmm supermachine-snapshotter supermachine'
for binary in $binaries; do
    [ -x "$bin/$binary" ] || fail "no $binary in '$bin': build it first (cargo run --package xtask -- build)"
done
[ -f "$kernel" ] || fail "no guest kernel at '$kernel': build it first (kernel/build.sh)"
[ -f "$initrd" ] || fail "no initial ramdisk at '$initrd': build it first"

if [ -z "$staging" ]; then
    [ "$(id -u)" = 0 ] || fail "only root can install"
    missing=''
    command -v tar2sqfs >/dev/null || missing="$missing squashfs-tools-ng"
    command -v mkfs.ext4 >/dev/null || [ -x /sbin/mkfs.ext4 ] || missing="$missing e2fsprogs"
    [ -z "$missing" ] || fail "packages are missing: apt-get install$missing"
    command -v containerd >/dev/null || fail "containerd isn't installed: apt-get install containerd"
    version=$(containerd --version | awk '{ sub(/^v/, "", $3); print $3 }')
else
    version=${CONTAINERD_VERSION:-2}
fi
case $version in
1.*) drop_in=supermachine-v2.toml format=2 ;;
*) drop_in=supermachine-v3.toml format=3 ;;
esac

# A file that is being executed can't be written, but it can be replaced.
put() {
    mkdir -p "$(dirname "$staging$3")"
    install -m "$1" "$2" "$staging$3.new"
    mv -f "$staging$3.new" "$staging$3"
}

for binary in $binaries; do
    put 755 "$bin/$binary" "/opt/supermachine/bin/$binary"
done
put 644 "$kernel" /opt/supermachine/share/vmlinux
put 644 "$initrd" /opt/supermachine/share/initrd.cpio
mkdir -p "$staging/usr/local/bin"
ln -sf /opt/supermachine/bin/containerd-shim-supermachine-v2 /opt/supermachine/bin/supermachine "$staging/usr/local/bin/"
for unit in supermachine-snapshotter.socket supermachine-snapshotter.service; do
    put 644 "$here/systemd/$unit" "/etc/systemd/system/$unit"
done
put 644 "$here/containerd/$drop_in" /etc/containerd/conf.d/supermachine.toml

config=$staging/etc/containerd/config.toml
imports='imports = ["/etc/containerd/conf.d/*.toml"]'
if [ ! -e "$config" ]; then
    printf 'version = %s\n%s\n' "$format" "$imports" >"$config"
fi
[ -z "$staging" ] || exit 0

if ! grep -Eq '^[[:space:]]*imports[[:space:]]*=.*/etc/containerd/conf\.d/' "$config"; then
    # The administrator's file: said, not edited.
    echo "install: add this line near the top of $config, before any [table], then restart containerd:" >&2
    echo "    $imports" >&2
    unfinished=yes
fi
systemctl daemon-reload
systemctl enable supermachine-snapshotter.socket supermachine-snapshotter.service
# The sockets can't be taken over from a running daemon that has made its own.
systemctl stop supermachine-snapshotter.service
systemctl start supermachine-snapshotter.service
[ -z "${unfinished:-}" ] || exit 1
systemctl restart containerd.service
echo "supermachine is installed: try  nerdctl run --rm --snapshotter supermachine --runtime io.containerd.supermachine.v2 IMAGE"
echo "if it does not run, \`supermachine doctor\` says why"
