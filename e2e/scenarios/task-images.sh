# limit: 300
# A root file system can be made of images as they are: containerd's own erofs
# snapshotter has one for each layer and one to write to, and leaves it to the shim to
# put them together. What is written stays for the next start.
configuration=/etc/containerd/conf.d/erofs.toml
restart_containerd() {
    systemctl restart containerd
    wait_until 30 ctr version >/dev/null
}
forget() {
    rm -f $configuration
    restart_containerd
}
modprobe -a erofs loop
printf 'version = 3\n[plugins."io.containerd.snapshotter.v1.erofs"]\ndefault_size = "512MiB"\n' >$configuration
trap forget EXIT
restart_containerd

look='cd / && find etc usr/bin usr/sbin -xdev -type f | sort | xargs sha256sum | sha256sum
cat /file 2>&1; echo written >/file'
image=docker.io/library/nginx:latest
ctr run --rm $image "$NAME-runc" sh -c "$look" >theirs
ctr run --snapshotter erofs --runtime $runtime $image "$NAME" sh -c "$look" >ours
diff theirs ours || fail 'the files differ (< runc, > ours)'
ctr tasks start "$NAME" >again
{ head -n 1 theirs && echo written; } | diff - again || fail 'what was written is not there'
ctr containers delete "$NAME"
