#!/bin/bash
# Builds the emulator that hosts run in and prints the directory that holds it: QEMU from Debian's sources with
# emulator.patch, in a Debian of its own, linked so that it runs in any other.

source "$(dirname "$0")/part.sh"

begin_part emulator "$0" "$here/emulator.patch"
echo "building the emulator (about 3 minutes)" >&2

packages=(
    apt-utils bison bzip2 ca-certificates dpkg-dev flex gcc libc6-dev libffi-dev libglib2.0-dev libmount-dev
    libpcre2-dev libselinux1-dev meson ninja-build patch pkgconf python3-venv zlib1g-dev
)
options=(
    --static --without-default-features --enable-system --enable-tcg --enable-vhost-user
    --target-list=x86_64-softmmu --disable-docs --disable-fdt --disable-install-blobs
)

# Usage: in_root COMMAND: an option that has it run in the new system when it is there.
in_root() { printf -- '--customize-hook=chroot "$1" sh -euc %q\n' "cd /opt && $1"; }
# Its mounts are its own: whoever cleans up after it must not meet this machine's /dev.
unshare --mount mmdebstrap --quiet --variant=minbase \
    --include="$(IFS=,; echo "${packages[*]}")" \
    --customize-hook='sed "s/^deb /deb-src /" "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/sources.list"' \
    --customize-hook="copy-in '$here/emulator.patch' /opt" \
    "$(in_root 'apt-get -qq update && apt-get -qq source qemu && mv qemu-*/ source')" \
    "$(in_root 'patch --strip=1 --directory=source <emulator.patch')" \
    "$(in_root "mkdir build && cd build && ../source/configure ${options[*]} >log || { cat log; exit 1; }")" \
    "$(in_root 'ninja -C build qemu-system-x86_64 >build.log || { tail -n 50 build.log; exit 1; }')" \
    "$(in_root 'strip build/qemu-system-x86_64')" \
    trixie "$work/root" >&2
mv "$work/root/opt/build/qemu-system-x86_64" "$work/"
rm -rf "$work/root"
finish_part
