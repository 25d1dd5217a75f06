//! From the names of a profile to numbered rules, one table per architecture.

use std::collections::BTreeMap;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use crate::container::SetupError;

/// Most arguments of a system call.
const MAX_ARGUMENTS: usize = 6;

/// What one architecture's system calls meet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// `AUDIT_ARCH_*`.
    pub(super) architecture: u32,
    /// Rules by system call number.
    pub(super) rules: BTreeMap<u32, Rules>,
    /// The action (`SECCOMP_RET_*` with data) of calls without a rule.
    pub(super) default: u32,
    /// The first of the calls that the profile is too old to know: they fail as if the kernel didn't have them, so that
    /// programs take an older way.
    pub(super) unknown: Option<u32>,
    /// Whether calls of the x32 ABI meet the same as the native ones; else they are killed.
    pub(super) has_x32: bool,
}

/// The rules of one system call. `always` decides alone; else the first whose conditions all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) conditional: Vec<(Vec<Condition>, u32)>,
    pub(super) always: Option<u32>,
}

/// A comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) mask: u64,
    pub(super) test: Test,
    pub(super) value: u64,
}

/// How a masked argument compares to the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// An architecture a filter can speak about: its audit number and how its calls are numbered.
struct Architecture {
    audit: u32,
    number: fn(&str) -> Option<u32>,
}

#[cfg(target_arch = "x86_64")]
const NATIVE: Architecture = Architecture { audit: 0xc000_003e, number: number_x86_64 };
#[cfg(target_arch = "aarch64")]
const NATIVE: Architecture = Architecture { audit: 0xc000_00b7, number: number_aarch64 };

#[cfg(target_arch = "x86_64")]
const X86: Architecture = Architecture { audit: 0x4000_0003, number: number_x86 };

/// Builds the native table, and the 32-bit one where the profile names that architecture. Others that it names can't
/// run here; their calls are killed, as are those of every architecture it doesn't name.
pub(super) fn tables(profile: &LinuxSeccomp) -> Result<Vec<Table>, SetupError> {
    #[cfg(target_arch = "x86_64")]
    if profile.architectures().iter().flatten().any(|arch| *arch == Arch::ScmpArchX86) {
        return Ok(vec![table(profile, &NATIVE)?, table(profile, &X86)?]);
    }
    Ok(vec![table(profile, &NATIVE)?])
}

fn table(profile: &LinuxSeccomp, architecture: &Architecture) -> Result<Table, SetupError> {
    let default = action("linux.seccomp.defaultAction", profile.default_action(), profile.default_errno_ret())?;
    let mut rules = BTreeMap::<u32, Rules>::new();
    let mut last = None;
    for (index, entry) in profile.syscalls().iter().flatten().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let action = action(&format!("{field}.action"), entry.action(), entry.errno_ret())?;
        let alternatives = alternatives(&field, entry)?;
        // Names this architecture doesn't have are passed over: profiles list those of all architectures.
        for number in entry.names().iter().filter_map(|name| (architecture.number)(name)) {
            last = last.max(Some(number));
            if action == default {
                continue;
            }
            let rules = rules.entry(number).or_default();
            if alternatives.is_empty() {
                rules.always.get_or_insert(action);
            }
            rules.conditional.extend(alternatives.iter().map(|conditions| (conditions.clone(), action)));
        }
    }
    use LinuxSeccompAction::{ScmpActAllow, ScmpActLog, ScmpActTrace};
    let is_lenient = matches!(profile.default_action(), ScmpActAllow | ScmpActLog | ScmpActTrace);
    let unknown = last.filter(|_| !is_lenient).map(|last| last.saturating_add(1));
    let has_x32 = profile.architectures().iter().flatten().any(|arch| *arch == Arch::ScmpArchX32);
    Ok(Table { architecture: architecture.audit, rules, default, unknown, has_x32 })
}

/// The condition sets of an entry, any of which is enough. Arguments are alternatives when one is named twice: a single
/// rule could never compare the same argument with two values.
fn alternatives(field: &str, entry: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, SetupError> {
    let arguments = entry.args().as_deref().unwrap_or_default();
    let conditions: Vec<Condition> =
        arguments.iter().map(|argument| condition(field, argument)).collect::<Result<_, _>>()?;
    if conditions.is_empty() {
        return Ok(Vec::new());
    }
    let repeated = conditions
        .iter()
        .enumerate()
        .any(|(index, condition)| conditions.iter().skip(index + 1).any(|other| other.argument == condition.argument));
    Ok(if repeated { conditions.into_iter().map(|condition| vec![condition]).collect() } else { vec![conditions] })
}

fn condition(field: &str, argument: &LinuxSeccompArg) -> Result<Condition, SetupError> {
    let index = u8::try_from(argument.index()).ok().filter(|index| usize::from(*index) < MAX_ARGUMENTS);
    let Some(index) = index else {
        return Err(SetupError::spec(
            format!("{field}.args"),
            format_args!("argument {} doesn't exist", argument.index()),
        ));
    };
    let (mask, test, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => (u64::MAX, Test::Equal, argument.value()),
        LinuxSeccompOperator::ScmpCmpNe => (u64::MAX, Test::NotEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (u64::MAX, Test::Less, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (u64::MAX, Test::LessOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (u64::MAX, Test::GreaterOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (u64::MAX, Test::Greater, argument.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (argument.value(), Test::Equal, argument.value_two().unwrap_or(0)),
    };
    Ok(Condition { argument: index, mask, test, value })
}

fn action(field: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SetupError> {
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(SetupError::spec(field, "SCMP_ACT_NOTIFY needs a listener on the host, which a VM can't have"));
    }
    let errno = errno.map(|errno| errno & libc::SECCOMP_RET_DATA);
    Ok(action.as_u32(errno))
}

#[cfg(target_arch = "x86_64")]
fn number_x86_64(name: &str) -> Option<u32> {
    name.parse::<syscalls::x86_64::Sysno>().ok().and_then(|number| u32::try_from(number.id()).ok())
}

#[cfg(target_arch = "x86_64")]
fn number_x86(name: &str) -> Option<u32> {
    name.parse::<syscalls::x86::Sysno>().ok().and_then(|number| u32::try_from(number.id()).ok())
}

#[cfg(target_arch = "aarch64")]
fn number_aarch64(name: &str) -> Option<u32> {
    name.parse::<syscalls::aarch64::Sysno>().ok().and_then(|number| u32::try_from(number.id()).ok())
}
