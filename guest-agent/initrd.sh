#!/bin/bash
# Builds the agent as a static program and packs it as the guest's initial RAM file system. Prints the path of the
# archive, which lies in the cache under a name made of its content, as the only line on standard output.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${SUPERMACHINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/supermachine}
target=$(uname -m)-unknown-linux-gnu
folder=${CARGO_TARGET_DIR:-target}

# Small, because every page the agent touches after a restore is a page to fault in; without unwinding, because a
# panic has nobody to tell. --target keeps the static flags away from build scripts and macros.
CARGO_PROFILE_RELEASE_OPT_LEVEL=s CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
    CARGO_PROFILE_RELEASE_PANIC=abort CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=false \
    RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static --remap-path-prefix=$HOME=/home --remap-path-prefix=$PWD=/source" \
    cargo build --quiet --locked --release --target "$target" -p supermachine-agent >&2
built=$folder/$target/release/supermachine-agent

# One entry of a "new ASCII" cpio archive: name, mode, device major, device minor, [file with the contents].
# Everything that could differ from build to build (inode numbers, owners, times) is fixed.
inode=0
entry() {
    local name=$1 mode=$2 major=$3 minor=$4 file=${5:-} size=0
    if [ -n "$file" ]; then size=$(stat -c %s "$file"); fi
    inode=$((inode + 1))
    printf '070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\0' \
        $inode $((8#$mode)) 0 0 1 0 "$size" 0 0 "$major" "$minor" $((${#name} + 1)) 0 "$name"
    pad $((110 + ${#name} + 1))
    if [ -n "$file" ]; then
        cat "$file"
        pad "$size"
    fi
}
pad() { head -c $(((4 - $1 % 4) % 4)) /dev/zero; }

mkdir -p "$cache"
new=$(mktemp -d "$cache/initrd-build.XXXXXX")
trap 'rm -rf "$new"' EXIT
# Nobody unwinds. Without the tables for it, which the standard library brings, a bake has some 80 pages less: zeros are
# none, and end a table for who looks into it.
agent=$new/agent
empty=()
for section in .eh_frame .eh_frame_hdr; do
    size=$(objdump --section-headers --section=$section "$built" | awk -v name=$section '$2 == name { print $3 }')
    head -c $((16#$size)) /dev/zero >"$new/zeros$section"
    empty+=("--update-section=$section=$new/zeros$section")
done
objcopy "${empty[@]}" "$built" "$agent"
rm "$new"/zeros*
{
    entry dev 040755 0 0
    entry dev/console 020600 5 1
    entry init 0100755 0 0 "$agent"
    entry 'TRAILER!!!' 0 0 0
} >"$new/initrd.cpio"
key=$(sha256sum "$new/initrd.cpio" | cut -c1-16)
out=$cache/initrd-$key
if [ ! -e "$out/initrd.cpio" ]; then
    mkdir -p "$out"
    mv "$new/initrd.cpio" "$out/initrd.cpio"
fi
touch "$out/initrd.cpio"
echo "$out/initrd.cpio"
