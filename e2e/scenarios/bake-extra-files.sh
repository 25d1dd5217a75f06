# limit: 300
# `supermachine bake IMAGE --extra-file HOST:GUEST --tag NAME` makes an image that has files of the host too, and its bake,
# which its containers are restored from. The image it is made of stays as it is. From the same content nothing is made
# anew, whenever it was written; from another, another.
require_bake
mkdir -p tree/sub
echo one >file
echo two >tree/sub/two
chmod 750 tree/sub
ln -s sub/two tree/link
extend() { supermachine bake --memory 208M busybox --extra-file "$PWD/file:/etc/extra/one" --extra-file tree:/opt/tree --tag extended "$@"; }
within() { nerdctl_run --rm --annotation io.supermachine.config.vm.memory=208M "$@"; }

made=$(extend --json)
assert_eq "$(bake_keys image 208) false" "$(jq -r '"\(.key) \(.already_there)"' <<<"$made")"
assert_eq $'one\ntwo\n750 0:0' "$(within extended sh -c 'cat /etc/extra/one /opt/tree/link; stat -c "%a %u:%g" /opt/tree/sub')"
assert_eq 'restored(image)' "$(last_start_mode)"
assert_eq 'no such file' "$(within busybox sh -c 'cat /etc/extra/one || echo no such file' 2>/dev/null)"

touch --date=tomorrow file tree/sub/two
assert_eq "$(jq -r .key <<<"$made") true" "$(extend --json | jq -r '"\(.key) \(.already_there)"')"
echo three >file
assert_eq false "$(extend --json | jq .already_there)"
assert_eq three "$(within extended cat /etc/extra/one)"
assert_eq 'restored(image)' "$(last_start_mode)"

# Nothing is made of what isn't there, or makes no sense.
expect_status 1 supermachine bake busybox --extra-file absent:/a --tag other
assert_contains "$output" 'cannot read absent'
expect_status 1 supermachine bake absent --extra-file file:/a --tag other
assert_contains "$output" 'containerd has no image docker.io/library/absent:latest'
expect_status 2 supermachine bake busybox --extra-file file:relative --tag other
assert_contains "$output" 'GUEST is an absolute path'
assert_eq '' "$(nerdctl images --quiet other)"
nerdctl rmi --force extended
remove_bakes 208
