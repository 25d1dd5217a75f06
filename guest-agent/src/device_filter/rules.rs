//! From a spec's list of rules to a table, the way the devices controller of cgroup v1 did it, for which specs are
//! written: everything is allowed or denied, with exceptions.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use crate::container::{DEFAULT_DEVICES, SetupError};

/// Ways to use a device, numbered as in `linux/bpf.h`.
pub(super) const MAKE: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const ALL: u8 = MAKE | READ | WRITE;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block,
    Character,
}

/// Devices: of a kind, with one number or any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Devices {
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
}

/// What may be done with devices.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) allows_by_default: bool,
    /// Devices, and in which ways they can be used for which the opposite holds.
    pub(super) exceptions: BTreeMap<Devices, u8>,
}

/// Major and minor number of what is no default device and can be used all the same: terminals, their multiplexer, and
/// tunnels.
const TERMINALS_AND_TUNNELS: [(u32, Option<u32>); 3] = [(136, None), (5, Some(2)), (10, Some(200))];

/// Builds the table of a container with these rules and these nodes. Every container may make any node, and use those
/// that it has by default, its terminals and tunnels, even if its spec denies it; unless the spec brings a device under
/// the same path, which then takes its rules from the spec alone.
pub(super) fn table(rules: &[LinuxDeviceCgroup], nodes: &[LinuxDevice]) -> Result<Table, SetupError> {
    let mut table = Table::default();
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("linux.resources.devices[{index}]");
        let access = access(rule.access().as_deref().unwrap_or_default(), &field)?;
        match kind(rule, &field)? {
            // A rule about all kinds starts anew.
            None => table = Table { allows_by_default: rule.allow(), exceptions: BTreeMap::new() },
            Some(kind) => {
                let devices = Devices { kind, major: number(rule.major()), minor: number(rule.minor()) };
                table.apply(rule.allow(), devices, access, &field)?;
            }
        }
    }
    for kind in [Kind::Character, Kind::Block] {
        table.apply(true, Devices { kind, major: None, minor: None }, MAKE, "linux.resources.devices")?;
    }
    let is_replaced = |path: &str| nodes.iter().any(|node| node.path() == Path::new(path));
    let defaults = DEFAULT_DEVICES.iter().filter(|(path, ..)| !is_replaced(path));
    let defaults = defaults.map(|(_, major, minor)| (*major, Some(*minor)));
    for (major, minor) in defaults.chain(TERMINALS_AND_TUNNELS) {
        let devices = Devices { kind: Kind::Character, major: Some(major), minor };
        table.apply(true, devices, ALL, "linux.resources.devices")?;
    }
    Ok(table)
}

impl Table {
    fn apply(&mut self, allow: bool, devices: Devices, access: u8, field: &str) -> Result<(), SetupError> {
        if allow != self.allows_by_default {
            *self.exceptions.entry(devices).or_default() |= access;
            return Ok(());
        }
        // An exception to an exception can't be told.
        let wider = [
            Devices { major: None, ..devices },
            Devices { minor: None, ..devices },
            Devices { major: None, minor: None, ..devices },
        ];
        for wider in wider.into_iter().filter(|wider| *wider != devices) {
            if self.exceptions.get(&wider).is_some_and(|known| known & access != 0) {
                let reason = format_args!("is about {devices}, and an earlier rule about {wider}, the other way");
                return Err(SetupError::spec(field, reason));
            }
        }
        if let Some(known) = self.exceptions.get_mut(&devices) {
            *known &= !access;
        }
        self.exceptions.retain(|_, access| *access != 0);
        Ok(())
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let kind = if self.kind == Kind::Block { "b" } else { "c" };
        write!(formatter, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

fn kind(rule: &LinuxDeviceCgroup, field: &str) -> Result<Option<Kind>, SetupError> {
    match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => Ok(None),
        LinuxDeviceType::B => Ok(Some(Kind::Block)),
        LinuxDeviceType::C => Ok(Some(Kind::Character)),
        LinuxDeviceType::U | LinuxDeviceType::P => {
            Err(SetupError::spec(format!("{field}.type"), "is none of \"a\", \"b\" and \"c\""))
        }
    }
}

/// Letters that mean nothing are passed over, as other runtimes do.
fn access(letters: &str, field: &str) -> Result<u8, SetupError> {
    if letters.is_empty() {
        return Err(SetupError::spec(format!("{field}.access"), "is empty"));
    }
    Ok(letters.chars().fold(0, |access, letter| {
        access
            | match letter {
                'm' => MAKE,
                'r' => READ,
                'w' => WRITE,
                _ => 0,
            }
    }))
}

/// Negative numbers stand for any.
fn number(number: Option<i64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(rules: serde_json::Value) -> Result<Table, String> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
        super::table(&rules, &[]).map_err(|error| error.to_string())
    }

    fn character(major: u32, minor: u32) -> Devices {
        Devices { kind: Kind::Character, major: Some(major), minor: Some(minor) }
    }

    #[test]
    fn what_is_not_allowed_is_denied() {
        let table = table(json!([])).unwrap();
        assert!(!table.allows_by_default);
        assert_eq!(table.exceptions[&character(1, 3)], ALL);
        let any = Devices { kind: Kind::Block, major: None, minor: None };
        assert_eq!(table.exceptions[&any], MAKE);
        assert!(!table.exceptions.contains_key(&character(10, 229)));
    }

    #[test]
    fn later_rules_change_earlier_ones() {
        let rules = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "wm"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "m"},
        ]);
        assert_eq!(table(rules).unwrap().exceptions[&character(10, 229)], READ | WRITE);
    }

    #[test]
    fn a_rule_about_all_kinds_starts_anew() {
        let rules = json!([
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": true, "access": "rwm"},
            {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"},
        ]);
        let table = table(rules).unwrap();
        assert!(table.allows_by_default);
        assert_eq!(table.exceptions, BTreeMap::from([(character(1, 11), WRITE)]));
    }

    #[test]
    fn no_hole_in_an_exception() {
        let rules = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "access": "rwm"},
            {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"},
        ]);
        let error = table(rules).unwrap_err();
        assert!(
            error.starts_with("linux.resources.devices[2]: is about c 1:11, and an earlier rule about c 1:*"),
            "{error}"
        );
        assert!(table(json!([{"allow": true, "type": "p", "access": "r"}])).is_err());
        assert!(table(json!([{"allow": true, "type": "c"}])).is_err());
    }

    #[test]
    fn a_device_of_the_spec_has_no_rule_by_default() {
        let node: LinuxDevice =
            serde_json::from_value(json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 3})).unwrap();
        assert!(!super::table(&[], &[node]).unwrap().exceptions.contains_key(&character(1, 3)));
    }
}
