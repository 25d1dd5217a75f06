# The file system test suite says the same about a volume as about the host's file system
# behind it, and about the writable layer as about runc's. fsx finds no byte that isn't
# what was written, on either.
# limit: 900
# part: rust-parts
cp -r /job/rust-parts/bin bin
cat >suite.toml <<'TOML'
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
TOML
# Usage: verdicts DIRECTORY: name and verdict of each test there.
cat >suite.sh <<'SH'
mkdir "$1/suite" && cd "$1" && chmod 755 suite
pjdfstest --configuration-file /scenario/suite.toml --path suite 2>&1 |
    sed -nE 's/^([a-z_:0-9]+) +(ok|FAILED|skipped)$/\1 \2/p' | sort
SH
mkdir -p volume
options=(--rm --volume "$PWD:/scenario" --env PATH=/scenario/bin:/usr/bin:/usr/sbin)
in_container() { nerdctl_run "${options[@]}" debian "$@"; }
ln -sf "$PWD" /scenario
trap 'rm -f /scenario' EXIT
mkdir host
PATH=$PWD/bin:$PATH sh suite.sh "$PWD/host" >host.verdicts
[ "$(grep -c ok host.verdicts)" -gt 350 ] || fail "only $(grep -c ok host.verdicts) tests succeed on the host"
in_container sh /scenario/suite.sh /scenario/volume >volume.verdicts
in_container sh /scenario/suite.sh /srv >layer.verdicts
nerdctl run --net none "${options[@]}" debian sh /scenario/suite.sh /srv >runc.verdicts
# FUSE doesn't say how many links a file can have; a container may not mount.
sed -i -E '/^(link::link_count_max|rmdir::ebusy) /d' host.verdicts volume.verdicts
diff host.verdicts volume.verdicts || fail 'a volume differs (< host)'
# Squashfs says that names may have a byte more than they may, and overlayfs believes it.
sed -i '/::enametoolong_component /d' runc.verdicts layer.verdicts
diff runc.verdicts layer.verdicts || fail 'the writable layer differs (< runc)'

cat >fsx.toml <<'TOML'
flen = 262144
[opsize]
max = 16384
[weights]
punch_hole = 1
fsync = 0.2
TOML
in_container sh -ec 'for place in /scenario/volume /srv; do fsx -f /scenario/fsx.toml -N 3000 -S 7 $place/fsx; done'
