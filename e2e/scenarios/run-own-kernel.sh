# A container runs on a kernel of its own, not on the host's.
guest=$(ctr_run --rm $busybox "$NAME" uname -r)
[ "$guest" != "$(uname -r)" ] || fail "the container saw the host's kernel $guest"
