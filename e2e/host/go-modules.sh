# Sourced by the scripts that build parts from the Go module registry: which
# modules, at which versions.

containerd=github.com/containerd/containerd/v2@v2.3.7
nerdctl=github.com/containerd/nerdctl/v2@v2.3.5
cni=github.com/containernetworking/plugins@v1.9.1

# What a build without btrfs' headers leaves out.
containerd_tags='no_btrfs no_devmapper no_zfs no_aufs'

export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local

# Usage: source_of MODULE@VERSION NAME; prints a writable copy of the module, in
# $work/src. The copy is built with its own go.mod, so the versions of everything
# it imports are those that its authors released it with.
source_of() {
    local module=$1 copy=$work/src/$2 folder
    mkdir -p "$work/src"
    folder=$(cd "$work/src" && go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
    cp -r "$folder" "$copy"
    chmod -R u+w "$copy"
    printf '%s\n' "$copy"
}
