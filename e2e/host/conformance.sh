#!/bin/bash
# Builds containerd's own client test-suite and the images that it pulls, and prints
# the directory that holds them:
#   client.test   the suite
#   registry/     manifests and blobs by digest; tags/ has a name for each image
#   registries    the names of registries that it knows

source "$(dirname "$0")/part.sh"
source "$here/go-modules.sh"

images=$("$here/images.sh")
begin_part conformance "$0" "$here/go-modules.sh" "$images" "$(go env GOVERSION GOARCH)"

echo "building containerd's client suite (about 2 minutes)" >&2
(
    cd "$(source_of $containerd containerd)"
    # Not all tests ask which snapshotter they are run for: those that take the default's name get that.
    sed -i '/DefaultSnapshotter = "overlayfs"/d' defaults/defaults_linux.go
    printf 'package defaults\n\nimport "os"\n\nvar DefaultSnapshotter = os.Getenv("TEST_SNAPSHOTTER")\n' \
        >defaults/snapshotter.go
    # Renaming a lower layer's directory, which no overlay can, isn't asked of those that it knows for one.
    sed -i 's/case "overlayfs", /&"supermachine", /' core/snapshots/testsuite/issues.go
    grep -ohE '"[a-z0-9-]+(\.[a-z0-9-]+)+/' integration/images/image_list.go integration/client/*_test.go |
        tr -d '"/' | sort -u >"$work/registries"
    go test -c -trimpath -ldflags '-s -w' -tags "$containerd_tags" -o "$work/client.test" ./integration/client
)
rm -rf "$work/src"

layout=$work/layout registry=$work/registry
mkdir -p "$layout" "$registry/tags"
tar -C "$layout" -xf "$images/images.tar"
# Each under its own name, which is how umoci finds it.
jq -c '.manifests |= map(.annotations["org.opencontainers.image.ref.name"] =
    (.annotations["io.containerd.image.name"] | split("/")[-1] | split(":")[0]))' \
    "$layout/index.json" >"$work/index.json"
mv "$work/index.json" "$layout/index.json"

# Usage: derive NAME BASE: makes NAME, the same as BASE so far.
derive() { umoci tag --image "$layout:$2" "$1"; }
# Usage: insert NAME WHAT...: adds a layer; WHAT is SOURCE TARGET, or --whiteout TARGET.
insert() {
    local name=$1
    shift
    umoci --log=warn insert --image "$layout:$name" "$@"
}

# Usage: descriptor NAME ARCHITECTURE [VARIANT]; prints the manifest's entry in an index, and publishes the manifest.
# Only one is ever run: the others have the same programs, and a layer that tells them apart.
descriptor() {
    local name=$1 architecture=$2 variant=${3:-} entry
    umoci config --image "$layout:$name" --tag "$name-$architecture" --architecture "$architecture" --os linux
    [ "$architecture" = amd64 ] || insert "$name-$architecture" "$work/file" "/$name-$architecture"
    entry=$(jq -c --arg name "$name-$architecture" --arg architecture "$architecture" --arg variant "$variant" \
        '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $name)
        | {mediaType, digest, size, platform: ({os: "linux", architecture: $architecture}
        + if $variant == "" then {} else {variant: $variant} end)}' "$layout/index.json")
    publish "$layout/blobs/sha256/$(jq -r '.digest | ltrimstr("sha256:")' <<<"$entry")" manifest
    printf '%s\n' "$entry"
}

# Usage: publish FILE KIND: what the file's media type is told by.
publish() {
    local digest
    digest=$(sha256sum <"$1" | cut -d' ' -f1)
    cp "$1" "$registry/sha256:$digest.$2"
}

# Usage: image REPOSITORY:TAG NAME: makes NAME pullable, for three architectures.
image() {
    local index=$work/index.json digest
    jq -cs '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: .}' >"$index" <<<"$(
        descriptor "$2" amd64
        descriptor "$2" arm64 v8
        descriptor "$2" s390x
    )"
    publish "$index" index
    digest=$(sha256sum <"$index" | cut -d' ' -f1)
    mkdir -p "$registry/tags/${1%:*}"
    ln -sr "$registry/sha256:$digest.index" "$registry/tags/${1%:*}/${1##*:}.index"
}

echo made >"$work/file"

derive layered busybox
for number in 1 2 3; do insert layered "$work/file" "/srv/file-$number"; done

derive whiteouts busybox
insert whiteouts "$work/file" /file-to-delete
insert whiteouts "$work/file" /dir-to-delete/file
insert whiteouts --whiteout /file-to-delete
insert whiteouts --whiteout /dir-to-delete

# A shell called bash, and a program that changes its user.
derive setuid busybox
printf '#!/bin/sh\nexec /bin/sh "$@"\n' >"$work/bash"
chmod 755 "$work/bash"
insert setuid "$work/bash" /bin/bash
cp "$work/file" "$work/passwd"
chmod 4755 "$work/passwd"
insert setuid "$work/passwd" /usr/bin/passwd

# The suite pulls, counts and deletes these: none may hold what another needs.
for name in pause older other; do
    derive $name busybox
    insert $name "$work/file" /$name
done

image containerd/busybox:1.36 busybox
image containerd/volume-copy-up:2.2 layered
image containerd/volume-ownership:2.1 setuid
image containerd/whiteout-test:1.0 whiteouts
image pause:3.10.2 pause
image pause:3.6 older
image e2e-test-images/busybox:1.29-2 other

# Layers and configurations, whose type nobody asks.
umoci gc --layout "$layout"
for blob in "$layout"/blobs/sha256/*; do
    cp "$blob" "$registry/sha256:$(basename "$blob")"
done
rm -rf "$work"/{layout,index.json,file,bash,passwd}
finish_part
