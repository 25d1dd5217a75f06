#!/bin/bash
# Usage: world.sh FOLDER COMMAND...
#
# Runs a command in a world of its own: whatever it does to mounts, processes, network,
# snapshots and containerd's folders of this host is gone when it ends or is killed.
# In that world, names of registries lead to our own.
set -eu

mapfile -t registries </job/conformance/registries

if [ "$1" != --inside ]; then
    exec unshare --mount --pid --net --fork --kill-child --mount-proc "$0" --inside "$@"
fi
folder=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$folder"
mkdir -p "$folder"/{tmp,snapshotter} /run/containerd-test
chmod 1777 "$folder/tmp"
cd "$folder"

cp -r /etc/containerd/conf.d .
sed "s,/etc/containerd,$folder," /etc/containerd/config.toml >config.toml
export SUITE_CONFIG=$folder/config.toml

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=registry \
    -addext "subjectAltName=$(printf 'DNS:%s\n' "${registries[@]}" | paste -sd,)" \
    -keyout key.pem -out certificate.pem 2>/dev/null
cat /etc/ssl/certs/ca-certificates.crt certificate.pem >trusted.pem
{ cat /etc/hosts && echo "127.0.0.1 ${registries[*]}"; } >hosts

mount --bind hosts /etc/hosts
mount --bind trusted.pem /etc/ssl/certs/ca-certificates.crt
mount --bind tmp /tmp
mount --bind snapshotter /var/lib/supermachine/snapshotter
for emptied in /etc/containerd /run/supermachine /run/containerd /run/containerd-test; do
    mount -t tmpfs tmpfs $emptied
done
ip link set lo up

# nginx looks for what its configuration names beside that.
cp "$here/registry.conf" .
nginx -c "$folder/registry.conf" -p "$folder"
/opt/supermachine/bin/supermachine-snapshotter >snapshotter.log 2>&1 &
until [ -S /run/supermachine/snapshotter.sock ]; do
    kill -0 $! || { cat snapshotter.log && exit 1; }
    sleep 0.1
done
# Not exec: as process 1, this shell reaps what the command leaves.
"$@"
