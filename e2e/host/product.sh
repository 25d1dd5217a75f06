# Sourced by init.sh: puts the product's own configuration in place.
cp /job/host/units/supermachine-snapshotter.service $units/
[ -x /opt/supermachine/bin/supermachine-snapshotter ] || rm $units/supermachine-snapshotter.service
cat >/etc/containerd/conf.d/supermachine.toml <<'TOML'
version = 2

[proxy_plugins.supermachine]
type = "snapshot"
address = "/run/supermachine/snapshotter.sock"

[proxy_plugins.supermachine.exports]
root = "/var/lib/supermachine/snapshotter"
TOML
