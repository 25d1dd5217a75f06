#!/bin/bash
# Builds the guest kernel and prints the path of its vmlinux, the only line on stdout.
#
# The result is kept in the cache under a key made of everything that decides its content,
# so a second run only looks it up. Progress goes to stderr.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SUPERMACHINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/supermachine}
arch=$(uname -m)

say() { echo "kernel: $*" >&2; }
die() { say "$*"; exit 1; }

# Fragments for all architectures, then those for this one.
fragments() { printf '%s\n' "$here"/config/*.config "$here/config/$arch"/*.config; }

# The value of a key in `kernel/source`.
source_fact() { sed -n "s/^$1=//p" "$here/source"; }

require_packages() {
    local missing
    missing=$("$here/missing-packages.sh" build)
    [ -z "$missing" ] || die "packages missing; run: apt-get install $missing"
}

# Everything that decides the bytes of vmlinux.
content_key() {
    local version=$1
    {
        cd "$here" && sha256sum build.sh source patches/*.patch config/*.config "config/$arch"/*.config
        echo "$arch $version"
        gcc --version | head -n 1
        ld --version | head -n 1
    } | sha256sum | cut -c 1-16
}

# Compares a .config with what the fragments asked for: Kconfig drops an option whose
# dependencies are missing without a word.
verify_options() {
    local config=$1
    # shellcheck disable=SC2046 # the paths of fragments hold no spaces that we don't choose
    awk '
        function wrong(text) { print "  " FILENAME ":" FNR ": " text; failed = 1 }
        function symbol(text) { sub(/[= ].*/, "", text); return text }
        function want(name, value) {
            if (name in asked) wrong(name " was already set at " asked[name])
            asked[name] = FILENAME ":" FNR
            got = (name in have) ? have[name] : "n"
            if (got != value) wrong(name " wanted " value ", got " got)
        }
        NR == FNR { if (/^CONFIG_/) have[symbol($0)] = substr($0, index($0, "=") + 1); next }
        /^CONFIG_/ { want(symbol($0), substr($0, index($0, "=") + 1)) }
        /^# CONFIG_.* is not set$/ { want($2, "n") }
        END { exit failed }
    ' "$config" $(fragments) >&2 || die "these options didn't end up in the configuration as asked"
}

# make with nothing of the caller in its environment, so that a build depends on its key only.
kernel_make() {
    env -i PATH="$PATH" HOME="$HOME" LC_ALL=C \
        KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_VERSION=1 \
        KBUILD_BUILD_USER=supermachine KBUILD_BUILD_HOST=supermachine \
        KCONFIG_ALLCONFIG="$work/fragments" \
        nice -n 5 make -C "$work/source" O="$work/build" -j "$(nproc)" "$@"
}

unpack() {
    local tarball=/usr/src/$1.tar.xz
    [ -f "$tarball" ] || die "$tarball is missing; run: apt-get install --reinstall $1"
    mkdir -p "$work/source" "$work/build"
    say "unpacking $tarball"
    tar -xf "$tarball" -C "$work/source" --strip-components=1
}

# A patch that a point release has left without its place ends the build.
apply_patches() {
    local patch
    for patch in "$here"/patches/*.patch; do
        say "applying ${patch##*/}"
        patch --strip=1 --fuzz=0 --silent --directory="$work/source" < "$patch" >&2 || die "$patch doesn't fit this source"
    done
}

configure() {
    # shellcheck disable=SC2046 # as above
    cat $(fragments) > "$work/fragments"
    kernel_make -s allnoconfig >&2
    verify_options "$work/build/.config"
}

compile() {
    local log=$1
    say "compiling; log: $log"
    kernel_make vmlinux 2>&1 | tee "$log" | awk '
        / (CC|AS) / && ++n % 250 == 0 { print "kernel: " n " files compiled"; fflush() }' >&2 ||
        { tail -n 20 "$log" >&2; die "the build failed; see $log"; }
}

# Makes pages zero that are nothing but int3, which no code is in: the linker script keeps 2 MiB apart around two functions
# whose addresses have to differ in certain bits (CONFIG_MITIGATION_SRSO), and a bake has no room for that.
empty_padding() {
    perl -e '
        open my $file, "+<:raw", $ARGV[0] or die "$ARGV[0]: $!";
        local $/ = \4096;
        for (my $at = 0; defined(my $page = <$file>); $at += 4096) {
            next if $page ne "\xcc" x 4096;
            seek $file, $at, 0 and print $file "\0" x 4096 and seek $file, $at + 4096, 0 or die "$ARGV[0]: $!";
        }
        close $file or die "$ARGV[0]: $!";' "$1"
}

# Fills the folder that becomes kernel-<key>: vmlinux without symbols and debug sections
# (its notes, which carry the PVH entry, stay), and what tells how it was made.
collect() {
    local out=$1 version=$2
    mkdir -p "$out"
    objcopy --strip-all "$work/build/vmlinux" "$out/vmlinux"
    empty_padding "$out/vmlinux"
    cp "$work/build/.config" "$out/config"
    cp "$work/build/System.map" "$out/System.map"
    {
        echo "source=$version"
        echo "release=$(cat "$work/build/include/config/kernel.release")"
        echo "compiler=$(gcc --version | head -n 1)"
        echo "linker=$(ld --version | head -n 1)"
    } > "$out/version"
}

main() {
    [ -d "$here/config/$arch" ] || die "no configuration for $arch in $here/config"
    require_packages

    local package series version key out
    package=$(source_fact package)
    series=$(source_fact series)
    version=$(dpkg-query -W -f '${Version}' "$package")
    [[ $version == "$series".* ]] ||
        die "$package is $version, but the configuration is for $series.x; change kernel/source and review kernel/config"
    key=$(content_key "$version")
    out=$cache/kernel-$key

    if [ ! -f "$out/vmlinux" ]; then
        mkdir -p "$cache"
        exec 9> "$cache/kernel.lock"
        flock 9
        # Nobody else builds while we hold the lock: what is there was left by a killed build.
        rm -rf "$cache"/kernel-build.*
    fi
    # Another build may have made it while we waited.
    if [ ! -f "$out/vmlinux" ]; then
        work=$(mktemp -d "$cache/kernel-build.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        say "building $package $version for $arch"
        SECONDS=0
        unpack "$package"
        apply_patches
        configure
        compile "$cache/kernel-$key.log"
        collect "$work/out" "$package $version"
        rm -rf "$out"
        mv -T "$work/out" "$out"
        rm -f "$cache/kernel-$key.log"
        say "built in ${SECONDS} s"
    fi
    echo "$out/vmlinux"
}

main
exit
