# Containers restored from one bake are others to whoever looks: by host name, MAC and IP address, boot id and VM.
# limit: 300
require_bake
# The image's machine id is what its containers have, under runc as well.
identity='hostname; cat /proc/sys/kernel/random/boot_id; ip -o link show eth0 | grep -o "ether [0-9a-f:]*"
    ip -o -4 address show eth0 | grep -o "inet [0-9./]*"'
for number in 1 2 3; do
    nerdctl_bridge --detach --name "$NAME-$number" debian sleep 1000 >/dev/null
    assert_contains "$(last_start_mode)" restored
done
for number in 1 2 3; do
    nerdctl exec "$NAME-$number" sh -c "$identity" >"identity-$number"
    assert_eq 4 "$(wc -l <"identity-$number")" 'facts of an identity'
done
for line in 1 2 3 4; do
    different=$(for number in 1 2 3; do sed -n "${line}p" "identity-$number"; done | sort -u | wc -l)
    assert_eq 3 "$different" "different facts in line $line"
done
nerdctl rm --force "$NAME-1" "$NAME-2" "$NAME-3" >/dev/null
