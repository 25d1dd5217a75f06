# First process of the emulated host: puts the job's files in place, then becomes
# systemd. /job is the folder that the launcher shares:
#   bin/ share/ deploy/   the product            host/   this folder
#   images.tar            the test images
#   flavour               containerd-2 or containerd-1.7
#   run                   what to do (absent: give a shell on the serial console)
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

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

mkdir -p /opt/supermachine/bin /opt/supermachine/share
cp -r /job/bin/. /opt/supermachine/bin/
cp -r /job/share/. /opt/supermachine/share/
for program in /opt/supermachine/bin/*; do
    [ -e "$program" ] && ln -sf "$program" /usr/local/bin/
done

units=/etc/systemd/system
rm -f $units/containerd.service
case $(cat /job/flavour) in
containerd-2)
    ln -sf /opt/containerd/bin/* /usr/local/bin/
    cp /job/host/units/containerd.service $units/
    version=3
    ;;
containerd-1.7)
    ln -sf /opt/containerd/bin/nerdctl /usr/local/bin/
    version=2
    ;;
*) fail "no such flavour: $(cat /job/flavour)" ;;
esac
mkdir -p /etc/containerd/conf.d
sed "s/^version = .*/version = $version/" /job/host/containerd.toml >/etc/containerd/config.toml
. /job/host/product.sh

if [ -e /job/run ]; then
    cp /job/host/units/job.service $units/task.service
else
    cp /job/host/units/shell.service $units/task.service
fi
cp /job/host/units/host.target $units/
exec /lib/systemd/systemd --unit=host.target
