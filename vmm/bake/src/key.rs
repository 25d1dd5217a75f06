//! Which machines a bake is good for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::manifest::FORMAT_VERSION;

/// Separates this use of SHA-256 from every other.
const DOMAIN: &[u8] = b"supermachine bake key\0";

/// Everything a captured guest depends on. Two machines with equal facts may share a bake; any difference makes
/// another [`Key`], so that a mismatch is a miss and never an error. Contents of files enter by digest: a rebuilt
/// kernel of the same name and size is another kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// Instruction set, for example `x86_64`.
    pub architecture: String,
    /// What virtualises, with its API version: `kvm-12`.
    pub backend: String,
    /// CPU vendor as CPUID spells it.
    pub cpu_vendor: String,
    /// CPU family.
    pub cpu_family: u32,
    /// CPU model.
    pub cpu_model: u32,
    /// CPU stepping.
    pub cpu_stepping: u32,
    /// Digest of the CPUID and MSR template that guests are given.
    pub cpuid: Digest,
    /// Frequency of the guest's time stamp counter in kHz.
    pub tsc_khz: u32,
    /// Release of the host's kernel (`uname -r`).
    pub host_kernel: String,
    /// Digest of the VMM's binary.
    pub vmm: Digest,
    /// Digest of the guest kernel.
    pub kernel: Digest,
    /// Digest of the initial ramdisk, which holds the agent.
    pub initrd: Digest,
    /// Version of the device layout.
    pub device_layout: u32,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// Virtual CPUs that the guest has room for. It was captured with one of them.
    pub vcpus: u8,
    /// Guest kernel command line.
    pub cmdline: String,
}

impl MachineFacts {
    /// The key: SHA-256 over a domain, the format version and the facts in their declared order, numbers in fixed
    /// width and texts with their length in front.
    pub fn key(&self) -> Key {
        // No `..`: a new fact must be added here, or this stops compiling.
        let Self {
            architecture,
            backend,
            cpu_vendor,
            cpu_family,
            cpu_model,
            cpu_stepping,
            cpuid,
            tsc_khz,
            host_kernel,
            vmm,
            kernel,
            initrd,
            device_layout,
            memory_bytes,
            vcpus,
            cmdline,
        } = self;
        let mut hasher = Hasher::default();
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        for each in [architecture, backend, cpu_vendor, host_kernel, cmdline] {
            text(each);
        }
        for number in [*cpu_family, *cpu_model, *cpu_stepping, *tsc_khz, *device_layout] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&memory_bytes.to_le_bytes());
        hasher.update(&[*vcpus]);
        for digest in [cpuid, vmm, kernel, initrd] {
            hasher.update(&digest.0);
        }
        let mut outer = Hasher::default();
        outer.update(DOMAIN);
        outer.update(&FORMAT_VERSION.to_le_bytes());
        outer.update(&hasher.finish().0);
        Key(outer.finish())
    }

    /// Names the first fact but the machine's shape that differs, with both values: why no machine here could be restored
    /// from such a bake, of whatever size.
    pub fn difference_apart_from_shape(&self, other: &Self) -> Option<String> {
        let alike = Self { memory_bytes: other.memory_bytes, vcpus: other.vcpus, ..self.clone() };
        alike.difference(other)
    }

    /// Names the first fact that differs, with both values: why a bake is foreign.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let differs = |name: &str, ours: &dyn fmt::Display, theirs: &dyn fmt::Display| {
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            (ours != theirs).then(|| format!("{name} {theirs}, here {ours}"))
        };
        differs("architecture", &self.architecture, &other.architecture)
            .or_else(|| differs("backend", &self.backend, &other.backend))
            .or_else(|| differs("CPU vendor", &self.cpu_vendor, &other.cpu_vendor))
            .or_else(|| differs("CPU family", &self.cpu_family, &other.cpu_family))
            .or_else(|| differs("CPU model", &self.cpu_model, &other.cpu_model))
            .or_else(|| differs("CPU stepping", &self.cpu_stepping, &other.cpu_stepping))
            .or_else(|| differs("CPU features", &self.cpuid, &other.cpuid))
            .or_else(|| differs("TSC kHz", &self.tsc_khz, &other.tsc_khz))
            .or_else(|| differs("host kernel", &self.host_kernel, &other.host_kernel))
            .or_else(|| differs("VMM", &self.vmm, &other.vmm))
            .or_else(|| differs("guest kernel", &self.kernel, &other.kernel))
            .or_else(|| differs("agent", &self.initrd, &other.initrd))
            .or_else(|| differs("device layout", &self.device_layout, &other.device_layout))
            .or_else(|| differs("memory", &self.memory_bytes, &other.memory_bytes))
            .or_else(|| differs("vCPUs", &self.vcpus, &other.vcpus))
            .or_else(|| differs("command line", &self.cmdline, &other.cmdline))
    }
}

/// Name of a bake in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Key(pub Digest);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for Key {
    type Error = ParseKeyError;

    fn try_from(text: String) -> Result<Self, ParseKeyError> {
        text.parse()
    }
}

/// A text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a bake key; a key is 64 lower-case hexadecimal digits")]
pub struct ParseKeyError {
    /// What was read.
    pub text: String,
}

impl FromStr for Key {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseKeyError { text: text.to_owned() };
        if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(error());
        }
        let mut digest = [0; 32];
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_error| error())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_error| error())?;
        }
        Ok(Self(Digest(digest)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn facts() -> MachineFacts {
        MachineFacts {
            architecture: "x86_64".to_owned(),
            backend: "kvm-12".to_owned(),
            cpu_vendor: "AuthenticAMD".to_owned(),
            cpu_family: 15,
            cpu_model: 107,
            cpu_stepping: 1,
            cpuid: Digest([1; 32]),
            tsc_khz: 1_000_000,
            host_kernel: "6.12.1".to_owned(),
            vmm: Digest([2; 32]),
            kernel: Digest([3; 32]),
            initrd: Digest([4; 32]),
            device_layout: 1,
            memory_bytes: 256 << 20,
            vcpus: 1,
            cmdline: "quiet".to_owned(),
        }
    }

    type Change = fn(&mut MachineFacts);

    const CHANGES: [(&str, Change); 16] = [
        ("architecture", |facts| facts.architecture.push('x')),
        ("backend", |facts| facts.backend.push('x')),
        ("CPU vendor", |facts| facts.cpu_vendor.push('x')),
        ("CPU family", |facts| facts.cpu_family += 1),
        ("CPU model", |facts| facts.cpu_model += 1),
        ("CPU stepping", |facts| facts.cpu_stepping += 1),
        ("CPU features", |facts| facts.cpuid.0[31] ^= 1),
        ("TSC kHz", |facts| facts.tsc_khz += 1),
        ("host kernel", |facts| facts.host_kernel.push('x')),
        ("VMM", |facts| facts.vmm.0[0] ^= 1),
        ("guest kernel", |facts| facts.kernel.0[0] ^= 1),
        ("agent", |facts| facts.initrd.0[0] ^= 1),
        ("device layout", |facts| facts.device_layout += 1),
        ("memory", |facts| facts.memory_bytes += 2 << 20),
        ("vCPUs", |facts| facts.vcpus += 1),
        ("command line", |facts| facts.cmdline.push('x')),
    ];

    #[test]
    fn every_fact_changes_the_key_and_is_named_as_the_difference() {
        let mut keys = vec![facts().key()];
        for (name, change) in CHANGES {
            let mut changed = facts();
            change(&mut changed);
            keys.push(changed.key());
            let difference = facts().difference(&changed).unwrap();
            assert!(difference.starts_with(name), "{difference}");
        }
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert_eq!(facts().difference(&facts()), None);
    }

    #[test]
    fn another_shape_is_no_other_machine() {
        for (name, change) in CHANGES {
            let mut changed = facts();
            change(&mut changed);
            let difference = facts().difference_apart_from_shape(&changed);
            assert_eq!(difference.is_none(), ["memory", "vCPUs"].contains(&name), "{name}");
        }
    }

    #[test]
    fn neighbouring_texts_do_not_run_into_each_other() {
        let (mut a, mut b) = (facts(), facts());
        (a.architecture, a.backend) = ("ab".to_owned(), "c".to_owned());
        (b.architecture, b.backend) = ("a".to_owned(), "bc".to_owned());
        assert_ne!(a.key(), b.key());
    }

    #[test]
    fn a_key_reads_back_from_its_text() {
        let key = facts().key();
        assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
        let upper = key.to_string().to_uppercase();
        for text in ["", "ab", upper.as_str(), &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
    }
}
