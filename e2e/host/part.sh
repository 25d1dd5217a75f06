# Sourced by the scripts that build one part of the emulated host.
#
# A part is a directory in the cache, named by the content of everything that
# decides what is in it. It is filled under a temporary name and renamed, so a
# part that exists is complete, and building one that exists costs nothing.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SUPERMACHINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/supermachine}

# Usage: begin_part NAME FILE_OR_WORD...
# Prints the part's directory and exits when it is there; otherwise takes the
# part's lock, makes $work (the directory to fill) and returns.
begin_part() {
    local name=$1 key
    shift
    key=$(for input in "$@"; do
        if [ -f "$input" ]; then sha256sum <"$input"; else printf '%s\n' "$input"; fi
    done | sha256sum | cut -c1-16)
    part=$cache/$name-$key
    mkdir -p "$cache"
    exec 9>"$cache/.$name-$key.lock"
    flock 9
    if [ -d "$part" ]; then
        printf '%s\n' "$part"
        exit 0
    fi
    work=$(mktemp -d "$cache/.$name-$key.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    started=$SECONDS
}

# Publishes $work as the part and prints its directory.
finish_part() {
    chmod 755 "$work"
    mv -T "$work" "$part"
    trap - EXIT
    printf '%s: %d s\n' "$(basename "$part")" $((SECONDS - started)) >&2
    printf '%s\n' "$part"
}
