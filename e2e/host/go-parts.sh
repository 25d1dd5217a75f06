#!/bin/bash
# Builds containerd, ctr, its runc shim, nerdctl and the CNI plugins from the Go
# module registry and prints the directory that holds them in bin/ and cni/.

source "$(dirname "$0")/part.sh"
source "$here/go-modules.sh"

begin_part go "$0" "$here/go-modules.sh" "$(go env GOVERSION GOARCH)"

mkdir -p "$work/bin" "$work/cni"

echo "building containerd, ctr and the runc shim (about 3 minutes)" >&2
cd "$(source_of $containerd containerd)"
go build -trimpath -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=${containerd##*@}" \
    -tags "$containerd_tags" -o "$work/bin/" \
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
