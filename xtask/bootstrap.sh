#!/bin/bash
# Installs from Debian packages what building and testing need and what isn't
# there yet: a fresh Debian 13 with git and make is enough. Asks for nothing,
# changes nothing that is already good, and takes no time then.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

rust_needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
go_needed=1.26.8

packages=(
    # cargo, the guest agent and the guest kernel
    gcc libc6-dev binutils make git pkg-config protobuf-compiler libseccomp-dev libcap-ng-dev ca-certificates cpio
    # layers, and what our containers are compared with, in tests
    squashfs-tools squashfs-tools-ng crun
    # the emulated host and its images
    qemu-system-x86 qemu-utils mmdebstrap e2fsprogs umoci busybox-static jq zstd util-linux
)

say() { echo "bootstrap: $*" >&2; }
die() { say "$*"; exit 1; }

installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Usage: at_least NEEDED FOUND
at_least() { [ -n "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

rust_found() { rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p'; }
go_found() { go env GOVERSION 2>/dev/null | sed -n 's/^go\([0-9.]*\).*/\1/p'; }

install() {
    [ "$(id -u)" = 0 ] || die "run this as root: apt-get install $*"
    say "installing $*"
    if [ -z "${lists_fresh:-}" ]; then
        apt-get update -qq
        lists_fresh=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >"$log" 2>&1 ||
        { cat "$log" >&2; die "apt-get could not install them"; }
}

# Makes the backports of this release known to apt, on the mirror and with the key
# that it already uses for the release itself.
add_backports() {
    local codename=$1 site keyring
    [ -z "$(apt-get indextargets --format '$(CODENAME)' "Codename: $codename-backports")" ] || return 0
    [ -n "${lists_fresh:-}" ] || { apt-get update -qq && lists_fresh=yes; }
    site=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $codename" | head -n 1)
    keyring=$(apt-get indextargets --format '$(SIGNED_BY)' "Codename: $codename" | head -n 1)
    [ -n "$site" ] || die "apt has no source for $codename to derive that of its backports from"
    {
        printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n' "$site" "$codename"
        # A source without a keyring of its own leaves the placeholder as it is.
        case $keyring in /*) printf 'Signed-By: %s\n' "$keyring" ;; esac
    } >/etc/apt/sources.list.d/supermachine-backports.sources
    apt-get update -qq
}

# A Rust and a Go that are new enough are used; on Debian 13 its backports have them.
need_toolchains() {
    local wanted=() codename
    at_least "$rust_needed" "$(rust_found)" || wanted+=(cargo rustc rustfmt rust-clippy)
    at_least "$go_needed" "$(go_found)" || wanted+=(golang-go)
    [ ${#wanted[@]} -gt 0 ] || return 0
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ "$codename" = trixie ] || die "install Rust $rust_needed and Go $go_needed or newer and put them on the path:" \
        "found Rust $(rust_found || true) and Go $(go_found || true), and only Debian 13 has them in its backports"
    add_backports "$codename"
    install --target-release trixie-backports "${wanted[@]}"
    at_least "$rust_needed" "$(rust_found)" || die "still no Rust $rust_needed: found $(rust_found)"
    at_least "$go_needed" "$(go_found)" || die "still no Go $go_needed: found $(go_found)"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

[ -x /usr/lib/qemu/virtiofsd ] || packages+=(virtiofsd)
missing=()
for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
done
# Debian 12 has virtiofsd in QEMU's own package and none by that name.
if [[ " ${missing[*]} " == *" virtiofsd "* ]] && ! apt-cache show virtiofsd >/dev/null 2>&1; then
    [ "$(. /etc/os-release && echo "$VERSION_ID")" != 12 ] || missing=("${missing[@]/virtiofsd/qemu-system-common}")
fi
# shellcheck disable=SC2206 # package names hold no blanks
[ ! -x "$root/kernel/missing-packages.sh" ] || missing+=($("$root/kernel/missing-packages.sh" build))
[ ${#missing[@]} = 0 ] || install "${missing[@]}"
need_toolchains
