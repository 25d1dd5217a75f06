# A container with a network and three volumes is restored from the same bake as one
# without.
# limit: 300
require_image_bake $busybox
mkdir one two
echo 1 >one/file
bake() { start_lines | tail -n 1 | grep -oE 'reason="?bake [0-9a-f]+'; }
ctr_run --rm $busybox "$NAME" true
without=$(bake)
assert_eq 1 "$(nerdctl_bridge --rm --volume "$PWD/one:/one" --volume "$PWD/two:/two" --volume "$PWD/one/file:/file:ro" \
    busybox sh -c 'cat /file && ip addr show eth0 | grep -q "inet " && touch /two/file')"
test -e two/file
assert_contains "$(last_start_mode)" restored
assert_eq "$without" "$(bake)" 'the bake'
