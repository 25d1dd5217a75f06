# limit: 300
# An export that was cut off with the daemon leaves nothing, and is done again by its
# successor.
nerdctl_run --name "$NAME" busybox sh -c 'dd if=/dev/zero bs=1M count=96 | tr "\0" x >/large; sha256sum </large' >sum
id=$(nerdctl inspect --format '{{.Id}}' "$NAME")
folder=$(dirname "$(ls -t -d /var/lib/supermachine/snapshotter/snapshots/*/upper.ext4 | head -n 1)")
export_begun() { [ -n "$(find "$folder" -path "$folder/export-*/large")" ]; }
nerdctl export "$NAME" >cut.tar 2>said &
wait_until 60 export_begun
kill -KILL "$(systemctl show --property MainPID --value supermachine-snapshotter)"
assert_eq '' "$(find "$folder/fs" -name large)" 'too late'
wait $! || true
is_swept() { ctr snapshots --snapshotter $snapshotter info "$id" && [ -z "$(find "$folder" -name 'export-*')" ]; }
wait_until 60 is_swept >/dev/null 2>&1
nerdctl export "$NAME" | tar -xO large | sha256sum | diff - sum
nerdctl rm "$NAME"
