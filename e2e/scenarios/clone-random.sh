# Fifty containers restored from one bake, five at a time: no random number that the kernel, OpenSSL or Python gives to
# one is given to another, nor what the kernel gives programs unasked (canaries, addresses, boot id).
# limit: 900
python=docker.io/library/python3:latest
cat >ask.py <<'PY'
import ctypes, os, random, secrets, ssl, subprocess, uuid
def read(path):
    return open(path, "rb").read(16).hex()
getauxval = ctypes.CDLL(None).getauxval
getauxval.restype, getauxval.argtypes = ctypes.c_void_p, [ctypes.c_ulong]
AT_RANDOM = 25
print("getrandom", os.getrandom(16).hex())
print("urandom", read("/dev/urandom"))
print("random", read("/dev/random"))
print("libssl", ssl.RAND_bytes(16).hex())
print("openssl", subprocess.check_output(["openssl", "rand", "-hex", "16"], text=True).strip())
print("secrets", secrets.token_hex(16))
print("uuid4", uuid.uuid4())
print("seed", random.getrandbits(128))
print("hash", hash("a text"))
print("canary", ctypes.string_at(getauxval(AT_RANDOM), 16).hex())
print("stack", [line.split("-")[0] for line in open("/proc/self/maps") if "[stack]" in line][0])
print("kernel-uuid", open("/proc/sys/kernel/random/uuid").read().strip())
print("boot-id", open("/proc/sys/kernel/random/boot_id").read().strip())
PY
require_image_bake $python
clones=50 at_once=5
clone() { ctr_run --rm $python "$NAME-$1" python3 -c "$(cat ask.py)" >"clone-$1"; }
for first in $(seq 1 $at_once $clones); do
    running=()
    for number in $(seq "$first" $((first + at_once - 1))); do
        clone "$number" &
        running+=($!)
    done
    for pid in "${running[@]}"; do wait "$pid"; done
done
bakes_of_clones() { start_lines | tail -n $clones | grep -F 'mode=restored(image)' | grep -o 'bake [0-9a-f]\{64\}'; }
assert_eq $clones "$(bakes_of_clones | sort | uniq -c | awk '{ print $1 }')" 'starts from one bake'
for kind in $(cut -d' ' -f1 clone-1); do
    different=$(cat clone-* | awk -v kind="$kind" '$1 == kind && NF > 1' | sort -u | wc -l)
    assert_eq $clones "$different" "different values of $kind"
done
