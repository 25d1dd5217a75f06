#!/bin/bash
# Prints which Debian packages that the given script (build, report) needs aren't installed,
# on one line; nothing if all are.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mapfile -t wanted < <(awk -v script="$1" '$1 == script { print $2 }' "$here/packages")
command -v dpkg-query > /dev/null || { echo "kernel: dpkg-query not found; this needs Debian" >&2; exit 1; }

# dpkg-query exits non-zero for a package it has never heard of, which is an answer too.
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2> /dev/null || true)
for package in "${wanted[@]}"; do
    grep -qx "installed $package" <<< "$installed" || printf '%s ' "$package"
done
