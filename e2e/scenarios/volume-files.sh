# What programs do with files beyond reading and writing, on a volume and on the writable
# layer: shared mappings, locks, extended attributes, capabilities, holes, files without a name,
# renames between directories, and a directory of 100,000 entries.
# limit: 600
cat >try.py <<'PYTHON'
import errno, fcntl, mmap, os, struct, sys
os.chdir(sys.argv[1])

with open('mapped', 'wb+') as file:
    file.truncate(3 * 4096)
    first, second = mmap.mmap(file.fileno(), 0), mmap.mmap(file.fileno(), 0)
    first[5000:5004] = b'seen'
    assert second[5000:5004] == b'seen'
    first.flush()
    assert os.pread(file.fileno(), 4, 5000) == b'seen'
    if os.fork() == 0:
        first[0:5] = b'child'
        os._exit(0)
    os.wait()
    assert second[0:5] == b'child'

def tries(lock, file):
    pid = os.fork()
    if pid == 0:
        with open(file, 'r+b') as other:
            try:
                lock(other)
            except BlockingIOError:
                os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
whole = lambda file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
part = lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
other_part = lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50)
for lock in whole, part:
    with open('mapped', 'r+b') as file:
        lock(file)
        assert tries(lock, 'mapped') == 1
        assert tries(other_part, 'mapped') == 0
    assert tries(lock, 'mapped') == 0

os.setxattr('mapped', 'user.name', b'value')
assert os.listxattr('mapped') == ['user.name'] and os.getxattr('mapped', 'user.name') == b'value'
os.removexattr('mapped', 'user.name')
assert os.listxattr('mapped') == []

# Who changes a file or its owner takes its capabilities away, whoever it is.
able = struct.pack('<5I', 0x02000001, 1 << 10, 0, 0, 0)
open('able', 'w').write('content')
for change in lambda: open('able', 'a').write('more'), lambda: os.chown('able', 1, 1), lambda: os.truncate('able', 1):
    os.setxattr('able', 'security.capability', able)
    assert os.getxattr('able', 'security.capability') == able
    change()
    assert os.listxattr('able') == []

with open('sparse', 'wb') as file:
    file.seek(1 << 32)
    file.write(b'end')
status = os.stat('sparse')
assert status.st_size == (1 << 32) + 3 and status.st_blocks < 1000, status
file = os.open('sparse', os.O_RDONLY)
assert os.lseek(file, 0, os.SEEK_DATA) == 1 << 32 and os.lseek(file, 0, os.SEEK_HOLE) == 0

os.makedirs('from/below')
os.mkdir('to')
open('from/below/file', 'w').write('moved')
os.rename('from/below', 'to/below')
os.rename('to/below/file', 'from/file')
assert open('from/file').read() == 'moved' and os.listdir('to/below') == []
os.link('from/file', 'to/twin')
assert os.stat('to/twin').st_nlink == 2 and os.stat('to/twin').st_ino == os.stat('from/file').st_ino
held = open('from/file')
os.unlink('from/file')
os.unlink('to/twin')
assert held.read() == 'moved'

try:
    nameless = os.open('.', os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(nameless, b'linked')
    here = os.open('.', os.O_RDONLY)
    os.link(f'/proc/self/fd/{nameless}', 'named', src_dir_fd=here, follow_symlinks=True)
    print('nameless', open('named').read())
except OSError as error:
    print('nameless', errno.errorcode[error.errno])
PYTHON
mkdir volume many
seq -f many/entry-%.0f 100000 | xargs touch
# The host's python3 has all modules.
run() { nerdctl_run --rm --volume "$PWD:/scenario" --volume /usr:/usr:ro debian "$@"; }
# The server has no files without names (the kernel's FUSE has since 6.2).
assert_eq 'nameless ENOTSUP' "$(run python3 /scenario/try.py /scenario/volume)"
assert_eq 'nameless linked' "$(run python3 /scenario/try.py /root)"
assert_eq '100000 entry-1 entry-99999' "$(run sh -c 'cd /scenario/many; echo $(ls | wc -l) $(ls | sed -n "1p;\$p")
    seq -f entry-%.0f 1 500 | xargs rm; for n in 1 2 3; do echo >new-$n; done')"
assert_eq 99503 "$(ls many | wc -l)"
