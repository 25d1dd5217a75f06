# What `nerdctl run` can bring along is in the container as under runc: directories, a
# single file without what is beside it, read-only and nested ones, named and anonymous
# volumes, --tmpfs and --shm-size; owners and modes are the files' own.
# limit: 300
mkdir -p data/sub nested
echo on the host >data/file
echo beside >data/beside
echo nested >nested/file
install -o 1000 -g 1000 -m 0640 /dev/null data/owned
ln -s file data/link
ln data/file data/hard

look() {
    nerdctl run "${flags[@]}" --rm --volume "$PWD/data:/data" --volume "$PWD/nested:/data/sub" \
        --volume "$PWD/data/file:/one:ro" --volume "$PWD/data:/fixed:ro" --volume "$NAME-named:/named" --volume /anonymous \
        --tmpfs /scratch:size=1m --shm-size 3m busybox sh -c '
        ls -l /data | sed 1d | tr -s " " | cut -d " " -f 1,3-5,9-
        cat /data/file /data/link /data/hard /data/sub/file /one
        ls -A /data/sub /named /anonymous /scratch
        echo more >>/one || echo the file is read-only
        touch /fixed/new || echo the directory is read-only
        mkdir -p /data/made/deep && echo written >/data/made/deep/file && chown -R 7:8 /data/made && chmod 1711 /data/made
        mv /data/made/deep/file /data/moved && ln -s moved /data/alias && ln /data/moved /data/again
        echo kept >>/named/file && cat /named/file
        df -k /scratch /dev/shm | awk "{ print \$1, \$2, \$6 }"
        mount | grep -E " on (/one|/fixed) " | grep -oE "\((ro|rw)"'
    (cd data && find . -printf '%p %M %u %g %n %l\n' | sort)
    cat data/moved
    rm -rf data/made data/moved data/alias data/again
    nerdctl volume rm "$NAME-named" >/dev/null
}
same_as_runc look

# The rest of the directory isn't there, nor what the file is on.
vmm_root() {
    nerdctl_run --detach --name "$NAME-one" --volume "$PWD/data/file:/one" busybox sleep 1000 >/dev/null
    local pid
    pid=$(nerdctl inspect --format '{{.State.Pid}}' "$NAME-one")
    find "/proc/$pid/root/" -mindepth 1 | wc -l
    nerdctl rm --force "$NAME-one" >/dev/null
}
assert_eq 1 "$(vmm_root)" 'files that the machine can reach'
