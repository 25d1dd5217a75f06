# A real project is cloned and built on a volume and on the writable layer, by the host's
# compiler, which is a volume itself.
# limit: 900
# part: rust-parts
cp -r /job/rust-parts/bzip2 project
git -C project init --quiet
git -C project add .
git -C project -c user.name=e2e -c user.email=e2e@localhost commit --quiet --message all
mkdir work
nerdctl_run --rm --volume "$PWD:/scenario" --volume /usr:/usr:ro debian sh -ec '
    git config --global --add safe.directory "*"
    for place in /scenario/work /root; do
        git clone --quiet /scenario/project $place/project
        cd $place/project
        make --silent CFLAGS=-O0 bzip2
        ./bzip2 --keep --best blocksort.c
        ./bzip2 --decompress --stdout blocksort.c.bz2 | cmp - blocksort.c
        git status --porcelain --untracked-files=no
    done'
work/project/bzip2 --version 2>&1 </dev/null | grep -q 1.0.8
git -C work/project fsck
