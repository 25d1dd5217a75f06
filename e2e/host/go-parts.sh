#!/bin/bash
# Builds containerd, ctr, its runc shim, nerdctl and the CNI plugins from the Go
# module registry, at the versions below, and prints the directory that holds
# them in bin/ and cni/.

source "$(dirname "$0")/part.sh"

containerd=github.com/containerd/containerd/v2@v2.3.7
nerdctl=github.com/containerd/nerdctl/v2@v2.3.5
cni=github.com/containernetworking/plugins@v1.9.1

begin_part go "$0" "$(go env GOVERSION GOARCH)"

export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local
mkdir -p "$work/src" "$work/bin" "$work/cni"

# Usage: source_of MODULE@VERSION; prints a writable copy of the module.
# The copy is built with its own go.mod, so the versions of everything it
# imports are those that its authors released it with.
source_of() {
    local module=$1 copy=$work/src/$2 folder
    folder=$(cd "$work/src" && go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
    cp -r "$folder" "$copy"
    chmod -R u+w "$copy"
    printf '%s\n' "$copy"
}

echo "building containerd, ctr and the runc shim (about 3 minutes)" >&2
cd "$(source_of $containerd containerd)"
go build -trimpath -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=${containerd##*@}" \
    -tags 'no_btrfs no_devmapper no_zfs no_aufs' -o "$work/bin/" \
    ./cmd/containerd ./cmd/ctr ./cmd/containerd-shim-runc-v2

# The registry's copy of nerdctl lacks the nested module of its test harness;
# only the module file and one test aid name it.
echo "building nerdctl (about 2 minutes)" >&2
cd "$(source_of $nerdctl nerdctl)"
go mod edit -droprequire github.com/containerd/nerdctl/mod/tigron \
    -dropreplace github.com/containerd/nerdctl/mod/tigron
rm -f cmd/nerdctl/helpers/testing_linux.go
go build -mod=mod -trimpath -ldflags "-s -w -X github.com/containerd/nerdctl/v2/pkg/version.Version=${nerdctl##*@}" \
    -o "$work/bin/" ./cmd/nerdctl

echo "building the CNI plugins" >&2
cd "$(source_of $cni cni)"
go build -trimpath -ldflags '-s -w' -o "$work/cni/" ./plugins/main/bridge ./plugins/main/loopback \
    ./plugins/ipam/host-local ./plugins/meta/portmap ./plugins/meta/firewall ./plugins/meta/tuning

rm -rf "$work/src"
finish_part
