# limit: 600
# What a container has written is in the image that is made of it, while it runs and when
# it has stopped, as with runc: new, changed and deleted files, a directory that was
# deleted and made again, links, modes, devices. The image runs.
write='set -e; umask 022
mkdir -p /new/below; echo new >/new/file; chmod 4751 /new/file; chown 33:34 /new/file
ln -s file /new/link; ln /new/file /new/below/second; mkfifo /new/pipe; mknod /new/null c 1 3
echo user:x:1:1:::/bin/sh >>/etc/passwd; rm /etc/group
rm -r /var; mkdir /var; echo again >/var/file
touch -d @1000000000 /new/old; mkdir -m 1777 /new/sticky; chmod 700 /root
dd if=/dev/zero of=/new/sparse bs=1 count=1 seek=50000000 2>/dev/null'
# A directory's size and links are its file system's.
look='find / -xdev ! -path "/proc*" ! -path "/sys*" ! -path "/dev*" | sort | while read -r path; do
    if [ -d "$path" ] && [ ! -L "$path" ]; then facts="%A %u:%g"; else facts="%A %u:%g %s %h %t:%T"; fi
    stat -c "%n $facts" "$path"; done
find /new /etc/passwd /var -type f | sort | xargs sha256sum; stat -c %Y /new/old; readlink /new/link; ls /etc/group 2>&1'
committed() {
    nerdctl run --detach "${flags[@]}" --name "$NAME" busybox sh -c 'trap "exit 0" TERM; sleep 1000 & wait' >&2
    nerdctl exec "$NAME" sh -c "$write"
    nerdctl commit "$NAME" "$NAME" >&2
    nerdctl exec "$NAME" sh -c 'echo more >/new/file; rm -r /new/below'
    nerdctl stop "$NAME" >&2
    nerdctl commit "$NAME" "$NAME:stopped" >&2
    nerdctl rm "$NAME" >&2
    for image in "$NAME" "$NAME:stopped"; do
        nerdctl run --rm "${flags[@]}" "$image" sh -c "$look" || true
        nerdctl rmi "$image" >&2
    done
}
same_as_runc committed
