# Containers restored from one bake are others to whoever looks: by host name, random numbers, boot id, MAC and IP address.
# limit: 300
require_bake
# The image's machine id is what its containers have, under runc as well.
identity='hostname; head -c 16 /dev/urandom | base64; cat /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address
    ip address show eth0 | grep -o "inet [0-9./]*"'
for number in 1 2 3; do
    nerdctl_bridge --detach --name "$NAME-$number" busybox sleep 1000 >/dev/null
    assert_contains "$(last_start_mode)" restored
done
for number in 1 2 3; do
    nerdctl exec "$NAME-$number" sh -c "$identity" >"identity-$number"
    assert_eq 5 "$(wc -l <"identity-$number")" 'facts of an identity'
done
for line in 1 2 3 4 5; do
    different=$(for number in 1 2 3; do sed -n "${line}p" "identity-$number"; done | sort -u | wc -l)
    assert_eq 3 "$different" "different facts in line $line"
done
nerdctl rm --force "$NAME-1" "$NAME-2" "$NAME-3" >/dev/null
