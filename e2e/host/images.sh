#!/bin/bash
# Makes the test images from Debian packages and prints the directory that holds
# images.tar, one OCI archive with all of them:
#   debian   a Debian 13 userland in one layer
#   busybox  one static binary and its applets
#   nginx    debian + nginx in a second layer that also deletes and replaces files
#   python3  debian + python3 and openssl in a second layer
#   redis    debian + redis-server in a second layer
#   node     debian + nodejs in a second layer

source "$(dirname "$0")/part.sh"

begin_part images "$0"
echo "making the test images (about 3 minutes)" >&2

layout=$work/layout
umoci init --layout "$layout"

# Usage: new_image NAME BASE: unpacks BASE (or nothing) as NAME's bundle.
new_image() {
    if [ -n "$2" ]; then umoci tag --image "$layout:$2" "$1"; else umoci new --image "$layout:$1"; fi
    umoci --log=warn unpack --image "$layout:$1" "$work/$1"
}

# Usage: commit_image NAME CONFIG...: what changed in the bundle becomes a layer.
commit_image() {
    local name=$1
    shift
    umoci --log=warn repack --refresh-bundle --image "$layout:$name" "$work/$name"
    umoci config --image "$layout:$name" --architecture amd64 --os linux \
        --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# Usage: install_packages ROOT PACKAGE...
install_packages() {
    local root=$1
    shift
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    chroot "$root" env DEBIAN_FRONTEND=noninteractive sh -ec \
        'apt-get update -qq; apt-get install -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@"; apt-get clean
        rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*.log /var/log/apt' \
        sh "$@" >"$work/install.log" 2>&1 || { cat "$work/install.log" >&2; exit 1; }
    rm "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf"
}

mmdebstrap --quiet --variant=minbase \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    trixie "$work/debian-root" >&2
rm -rf "$work"/debian-root/{dev,run,tmp,var/cache,var/log}/* "$work"/debian-root/etc/{hostname,resolv.conf,machine-id}

new_image debian ''
cp -a "$work/debian-root/." "$work/debian/rootfs/"
commit_image debian --config.cmd bash

new_image busybox ''
(
    cd "$work/busybox/rootfs"
    mkdir -p bin dev etc home proc root run sys tmp usr/bin usr/sbin sbin var
    chmod 1777 tmp
    # As some distributions have it, and not what a new directory gets by itself.
    chmod 555 .
    cp "$(command -v busybox)" bin/busybox
    chmod 755 bin/busybox
    for applet in $(bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "bin/$applet"
    done
    cat >etc/passwd <<'USERS'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
USERS
    cat >etc/group <<'GROUPS'
root:x:0:
daemon:x:1:
sys:x:3:
tty:x:5:
www-data:x:33:
users:x:100:
nogroup:x:65534:
GROUPS
)
commit_image busybox --config.cmd sh

new_image nginx debian
install_packages "$work/nginx/rootfs" nginx-light
rm -rf "$work"/nginx/rootfs/usr/share/bash-completion "$work"/nginx/rootfs/var/www
mkdir -p "$work/nginx/rootfs/var/www/html"
echo 'served by nginx' >"$work/nginx/rootfs/var/www/html/index.html"
commit_image nginx --config.cmd nginx --config.cmd -g --config.cmd 'daemon off;' --config.exposedports 80/tcp

new_image python3 debian
install_packages "$work/python3/rootfs" python3 openssl
commit_image python3 --config.cmd python3

new_image redis debian
install_packages "$work/redis/rootfs" redis-server
commit_image redis --config.cmd redis-server

new_image node debian
install_packages "$work/node/rootfs" nodejs
commit_image node --config.cmd node

umoci gc --layout "$layout"
jq -c '.manifests |= map(.annotations["io.containerd.image.name"] =
    "docker.io/library/" + .annotations["org.opencontainers.image.ref.name"] + ":latest"
    | .annotations["org.opencontainers.image.ref.name"] = "latest")' \
    "$layout/index.json" >"$work/index.json"
mv "$work/index.json" "$layout/index.json"
tar -C "$layout" -cf "$work/images.tar" oci-layout index.json blobs
rm -rf "$work"/{install.log,layout,debian-root,debian,busybox,nginx,python3,redis,node}
finish_part
