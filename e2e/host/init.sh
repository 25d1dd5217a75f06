# First process of the emulated host: puts the job's files in place, then becomes
# systemd. /job is the folder that the launcher shares:
#   bin/ share/ deploy/   the product, as built    host/   this folder
#   flavour               containerd-2 or containerd-1.7
#   run                   what to do (absent: give a shell on the serial console)
#   state-in-memory       /var/lib is to be on a disk that nothing waits for
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=755 tmpfs /run

fail() {
    echo "host: $*" >/dev/console
    echo o >/proc/sysrq-trigger
    exec sleep 60
}

if [ -e /job/host-is-shared ]; then
    mount -t virtiofs host /host || fail "the shared folder cannot be mounted"
else
    mount --bind /job /host
fi

# Debian's systemd would load these through udev, which isn't started here.
modprobe -q kvm-amd || modprobe -q kvm-intel || echo "host: no KVM" >/dev/console
modprobe -a overlay loop squashfs tun veth bridge act_mirred sch_ingress cls_u32 cls_matchall ||
    fail "the host kernel lacks a module"

# A clock that counts instructions jumps to the next timer while everything waits for the disk, so that a wait of
# no length at all can end in a time limit.
if [ -e /job/state-in-memory ]; then
    { modprobe brd rd_nr=1 rd_size=$((4 << 20)) && mkfs.ext4 -q /dev/ram0 && mount /dev/ram0 /mnt &&
        cp --archive /var/lib/. /mnt && mount --move /mnt /var/lib; } || fail "no disk in memory"
fi

units=/etc/systemd/system
rm -f $units/containerd.service
case $(cat /job/flavour) in
containerd-2)
    ln -sf /usr/local/lib/containerd-2/* /usr/local/bin/
    cp /job/host/units/containerd.service $units/
    version=2 format=3
    ;;
containerd-1.7)
    ln -sf /usr/local/lib/containerd-2/nerdctl /usr/local/bin/
    version=1.7 format=2
    ;;
*) fail "no such flavour: $(cat /job/flavour)" ;;
esac
# The disk was first filled by a boot that may have left these.
rm -rf /etc/containerd /opt/supermachine
mkdir -p /etc/containerd
# Scenarios decide for themselves when a bake is made.
mkdir -p /etc/supermachine
printf "[bake]\nahead = false\n" >/etc/supermachine/config.toml
sed "s/^version = .*/version = $format/" /job/host/containerd.toml >/etc/containerd/config.toml

# As a person would install it, but for starting it: systemd does that below.
CONTAINERD_VERSION=$version /bin/sh /job/deploy/install.sh --staging / --bin /job/bin \
    --kernel /job/share/vmlinux --initrd /job/share/initrd.cpio >/run/install.log 2>&1 ||
    { # An unfinished product: its parts can still be tried by hand.
        echo "host: the product is not installed: $(cat /run/install.log)" >/dev/console
        mkdir -p /opt/supermachine
        cp -r /job/bin /job/share /opt/supermachine/
    }

if [ -e /job/run ]; then
    cp /job/host/units/job.service $units/task.service
else
    cp /job/host/units/shell.service $units/task.service
fi
cp /job/host/units/host.target $units/
exec /lib/systemd/systemd --unit=host.target
