//! A busy guest survives being captured and restored, again and again, on every vCPU.
//!
//! `ROUNDS` says how often (default 3), `VCPUS` on how many vCPUs (default `1,2,4`).

use vmm_api::{Shape, exit_code};

use crate::support::{Bake, Vmm};

/// On each vCPU one loop that never sleeps and one that always does: lost registers stop the first, a lost timer the
/// second. A third, wherever the scheduler puts it, watches the clock.
const BUSY: &str = r#"
busy() { n=0; while :; do n=$((n+1)); case $n in *000) echo "busy$1 $n";; esac; done; }
timer() { n=0; while :; do sleep 0.02; n=$((n+1)); echo "timer$1 $n"; done; }
clock() {
    n=0 last=0
    while :; do
        read up idle </proc/uptime
        now=${up%.*}${up#*.} n=$((n+1))
        [ $now -ge $last ] || echo "the clock went back from $last to $now"
        last=$now
        case $n in *00) echo "clock $n";; esac
    done
}
mount -t sysfs sys /sys
cpu=1
while [ $cpu -lt $vcpus ]; do echo 1 >/sys/devices/system/cpu/cpu$cpu/online; cpu=$((cpu+1)); done
cpus=$(grep -c ^processor /proc/cpuinfo)
echo "vcpus $cpus"
clock &
cpu=0
while [ $cpu -lt $cpus ]; do
    (taskset -p $((1 << cpu)) $(sh -c 'echo $PPID') >/dev/null; busy $cpu) &
    (taskset -p $((1 << cpu)) $(sh -c 'echo $PPID') >/dev/null; timer $cpu) &
    cpu=$((cpu+1))
done
wait
"#;

/// What a guest says when it noticed that it was stopped, or lost something.
const COMPLAINTS: [&str; 6] = ["the clock went back", "soft lockup", "detected stall", "unstable", "BUG", "Call Trace"];

/// The highest count that each loop has reported.
fn counts(text: &str, vcpus: u8) -> Vec<Option<u64>> {
    let latest = |name: String| {
        let is_count = |line: &&str| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(' '));
        text.lines().rev().find(is_count).and_then(|line| line.split(' ').nth(1)?.trim().parse().ok())
    };
    let loops = (0..vcpus).flat_map(|cpu| [format!("busy{cpu}"), format!("timer{cpu}")]);
    loops.chain(["clock".into()]).map(latest).collect()
}

/// Waits until every loop has counted on from `before`.
fn await_progress(vmm: &mut Vmm, vcpus: u8, before: &[Option<u64>]) -> Vec<Option<u64>> {
    vmm.await_console("progress of every loop", |text| {
        counts(text, vcpus).iter().zip(before).all(|(now, before)| now > before)
    });
    counts(&vmm.console_text(), vcpus)
}

/// `capture` captures a guest that was restored from a bake.
fn round_trip(vcpus: u8, rounds: usize, capture: fn(&Vmm, Bake) -> Bake) {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::spawn(&folder.path().join("boot"));
    let cold = vmm.boot(BUSY, Shape { memory_bytes: 128 << 20, added_bytes: 0, vcpus });
    vmm.await_console("the number of vCPUs", |text| text.contains(&format!("vcpus {vcpus}")));
    let mut before = await_progress(&mut vmm, vcpus, &vec![None; 2 * usize::from(vcpus) + 1]);
    let mut bake = end(vmm, Vmm::capture);
    println!("{vcpus} vCPUs: booted ({cold:?}); memory, extents, state: {:?}", bake.sizes());
    for round in 1..=rounds {
        let mut vmm = Vmm::spawn(&folder.path().join(format!("round{round}")));
        let restored = vmm.restore(&bake);
        let age = vmm.age();
        before = await_progress(&mut vmm, vcpus, &before);
        let text = vmm.console_text();
        let complaint = text.lines().find(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)));
        assert!(complaint.is_none(), "{text}\nafter restore {round}: {complaint:?}");
        bake = end(vmm, |vmm| capture(vmm, bake));
        println!(
            "{vcpus} vCPUs: round {round} of {rounds}: {before:?} ({restored:?}, replied {age:?} after spawn) {:?}",
            bake.sizes()
        );
    }
}

fn end(vmm: Vmm, capture: impl FnOnce(&Vmm) -> Bake) -> Bake {
    let bake = capture(&vmm);
    assert_eq!(vmm.shut_down().code(), Some(exit_code::STOPPED));
    bake
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_busy_guest_goes_on_after_every_restore() {
    let rounds = std::env::var("ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let vcpus = std::env::var("VCPUS").unwrap_or_else(|_unset| "1,2,4".into());
    for vcpus in vcpus.split(',') {
        round_trip(vcpus.parse().unwrap(), rounds, |vmm, _before| vmm.capture());
    }
}

/// A bake that holds what differs from another, which holds what differs from a third.
#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_busy_guest_goes_on_after_restores_of_bakes_over_bakes() {
    round_trip(1, 3, Vmm::capture_over);
}
