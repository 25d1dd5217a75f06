# Programs that watch a volume (inotify) hear of what the host does there: to the files and directories that
# were there, to new ones, and to a single file that is shared. They hear of the container's own doings once,
# and nothing that they hear of changes a file. A tree with too many directories isn't watched, and the log
# says so.
# limit: 400

mkdir -p tree/old && echo 1 >tree/old/file && echo 1 >single
mkdir large && (cd large && seq 0 1100 | xargs mkdir)
# Prints what the kernel tells, a line each (inotify(7); the numbers are system calls and events of x86-64).
watcher='
    $| = 1;
    my $inotify = syscall(294, 0);
    my %watched = map { syscall(254, $inotify, "$_", 0x3ce) => $_ } @ARGV;
    my %events = (2 => "written", 4 => "attributes", 8 => "closed", 64 => "from", 128 => "to", 256 => "made", 512 => "removed");
    open(my $in, "<&=", $inotify);
    while (sysread($in, my $told, 65536)) {
        while (length $told) {
            my ($watch, $mask, $cookie, $length) = unpack("iIII", $told);
            my $name = unpack("Z*", substr($told, 16, $length));
            $told = substr($told, 16 + $length);
            print map { "$events{$_} $watched{$watch} $name\n" } grep { $mask & $_ } sort { $a <=> $b } keys %events;
        }
    }'
nerdctl_run --detach --name "$NAME" -v "$PWD/tree:/tree" -v "$PWD/single:/single" -v "$PWD/large:/large" \
    debian perl -e "$watcher" /tree /tree/old /single >/dev/null

# Usage: hears LINE
hears() { nerdctl logs "$NAME" 2>&1 | grep -qx -- "$1"; }
# The host begins to watch soon after the start; it has when the container hears of this.
begins() { touch tree/begin && hears 'attributes /tree begin'; }
wait_until 60 begins

echo 2 >>tree/old/file
wait_until 20 hears 'written /tree/old file'
wait_until 20 hears 'closed /tree/old file'
echo new >tree/old/new
wait_until 20 hears 'made /tree/old new'
wait_until 20 hears 'closed /tree/old new'
chmod 600 tree/old/new
wait_until 20 hears 'attributes /tree/old new'
mv tree/old/new tree/moved
wait_until 20 hears 'removed /tree/old new'
wait_until 20 hears 'made /tree moved'
wait_until 20 hears 'closed /tree moved'
rm tree/moved
wait_until 20 hears 'removed /tree moved'
# As Kubernetes replaces what a ConfigMap holds.
ln -s old tree/link.new && mv -T tree/link.new tree/link
wait_until 20 hears 'made /tree link'
mkdir tree/directory
wait_until 20 hears 'made /tree directory'
rmdir tree/directory
wait_until 20 hears 'removed /tree directory'
echo 2 >>single
wait_until 20 hears 'written /single '

assert_eq $'1\n2' "$(nerdctl exec "$NAME" cat /tree/link/file)"
assert_eq $'1\n2' "$(cat tree/old/file)"
assert_eq 'tree tree/begin tree/link tree/old tree/old/file' "$(find tree | sort | xargs)"
assert_eq 'begin link old' "$(nerdctl exec "$NAME" ls /tree | xargs)"

nerdctl exec "$NAME" sh -c 'echo own >/tree/own'
wait_until 20 hears 'closed /tree own'
# The order of what is told is kept: whatever the host were to say of it would come before this.
touch tree/end
wait_until 20 hears 'closed /tree end'
assert_eq 1 "$(nerdctl logs "$NAME" 2>&1 | grep -cx 'made /tree own')"

log_lines containerd | grep -q 'more than 1024 directories' || fail 'nothing says that the large tree is not watched'
nerdctl rm -f "$NAME"
rm -r tree large single
