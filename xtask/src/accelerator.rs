//! What runs the emulated host's instructions.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::paths;

/// How QEMU runs the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// This machine's KVM.
    Kvm,
    /// Emulation: slower, the same code path.
    Emulation,
    /// Emulation with a clock that counts instructions, 2 ns each: a
    /// measurement repeats within 1 % however busy the machine is.
    CountedEmulation,
}

/// QEMU's program.
pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// Where Debian's QEMU has what is in a machine before its disk.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// All that the emulator has but
/// - `cmpxchg16b`: QEMU 7.2 was seen to mix the flags that follow from it up with those of an earlier instruction, and the
///   kernel's allocator of small objects trusts them;
/// - fast copies of single bytes, which aren't fast here: with them kernels clear and copy a page in 4096 steps, each of
///   which the emulator makes and counts as an instruction, without in 512, as the family and model say that it should: of
///   the emulator's own, which no processor has, kernels know nothing, and take 750 to clear a page and 1,280 to copy it.
const EMULATED_CPU: &str = "max,family=20,model=2,-cx16,-erms,-fsrm";

impl Accelerator {
    /// Adds QEMU and its arguments to a command; `emulator` is the one that emulates.
    pub(crate) fn add_to(self, command: &mut Command, emulator: &Path) {
        let arguments: &[_] = match self {
            Self::Kvm => {
                command.arg(QEMU).args(["-accel", "kvm", "-cpu", "host"]);
                return;
            }
            Self::Emulation => &["-accel", "tcg"],
            Self::CountedEmulation => &["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off"],
        };
        command.arg(emulator).args(FIRMWARE.iter().flat_map(|folder| ["-L", folder]));
        command.args(arguments).args(["-cpu", EMULATED_CPU]);
    }

    /// KVM where it runs a kernel and lets that kernel run VMs of its own,
    /// emulation otherwise; says which and why, once per boot of this machine.
    pub(crate) fn choose(kernel: &Path) -> anyhow::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("no boot id")?;
        let memo = paths::cache()?.join(format!("accelerator-{}", boot.trim()));
        let verdict = match fs::read_to_string(&memo) {
            Ok(verdict) => verdict,
            Err(_) => {
                let verdict = probe(kernel)?;
                println!("    {verdict}");
                fs::write(&memo, &verdict).with_context(|| format!("cannot write {}", memo.display()))?;
                verdict
            }
        };
        Ok(if verdict == USABLE { Self::Kvm } else { Self::Emulation })
    }
}

const USABLE: &str = "the host VM runs on this machine's KVM";

/// A `/dev/kvm` node proves nothing: where KVM itself is paravirtual, VMs can be
/// created, but kernel code at kernel addresses crawls in an instruction
/// emulator and dies. So a real kernel gets five seconds to print its first line.
fn probe(kernel: &Path) -> anyhow::Result<String> {
    const LIMIT: Duration = Duration::from_secs(5);
    let emulated = |reason: &str| Ok(format!("the host VM is emulated, which is slower: {reason}"));
    if !Path::new("/dev/kvm").exists() {
        return emulated("this machine has no /dev/kvm");
    }
    let nested = ["kvm_amd", "kvm_intel"].iter().any(|module| {
        fs::read_to_string(format!("/sys/module/{module}/parameters/nested"))
            .is_ok_and(|value| matches!(value.trim(), "1" | "Y"))
    });
    let console = tempfile::NamedTempFile::new()?;
    let mut qemu = Command::new(QEMU)
        .args(["-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "console=ttyS0 earlyprintk=serial panic=-1", "-serial"])
        .arg(format!("file:{}", console.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run qemu-system-x86_64: is Debian's qemu-system-x86 installed?")?;
    let deadline = Instant::now() + LIMIT;
    let mut booted = false;
    while !booted && Instant::now() < deadline && qemu.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(50));
        let printed = fs::read(console.path())?;
        booted = printed.windows(13).any(|window| window == b"Linux version");
    }
    // It may have ended by itself, which is no error.
    drop(qemu.kill());
    qemu.wait()?;
    match (booted, nested) {
        (true, true) => Ok(USABLE.to_owned()),
        (true, false) => emulated("this machine's KVM runs a kernel, but without nested virtualisation"),
        (false, _) => emulated("/dev/kvm is there, but a kernel prints nothing under it within 5 s (paravirtual KVM?)"),
    }
}
