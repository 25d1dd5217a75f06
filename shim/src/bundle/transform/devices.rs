//! Block devices: those that a container is given become its VM's. The guest has other numbers for them, and its agent
//! puts those in place of the host's.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::makedev;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Spec};
use supermachine::{DeviceNumber, HostDevice};

/// The block devices that a container is given, each once: those that it may read or write.
///
/// A privileged container is listed every device of the host, the disk with its root file system among them, and may use
/// any. That says what it may do to the host which it would run on, and not that a VM is to be given the host's disks.
/// Given are those of which the specification says more than such a list: by a rule of their own, by another path than
/// the host's, or once more.
pub(super) fn given(spec: &Spec) -> Vec<HostDevice> {
    given_beside(spec, is_at)
}

/// The same on a host that has these devices at these paths.
fn given_beside(spec: &Spec, is_at: impl Fn(&Path, DeviceNumber) -> bool) -> Vec<HostDevice> {
    let Some(linux) = spec.linux() else { return Vec::new() };
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let nodes = linux.devices().as_deref().unwrap_or_default();
    let is_once = |node: &LinuxDevice| nodes.iter().filter(|other| other.path() == node.path()).count() == 1;
    let mut given: Vec<HostDevice> = Vec::new();
    for node in nodes.iter().filter(|node| node.typ() == LinuxDeviceType::B) {
        // The agent refuses others, and says which.
        let Some(number) = number(node) else { continue };
        let access = Access::to(number, rules);
        let is_listed = access.is_anybodys && is_once(node) && is_at(node.path(), number);
        if (access.reads || access.writes) && !is_listed && given.iter().all(|device| device.number != number) {
            given.push(HostDevice { path: node.path().clone(), number, writable: access.writes });
        }
    }
    given
}

fn number(node: &LinuxDevice) -> Option<DeviceNumber> {
    Some(DeviceNumber { major: node.major().try_into().ok()?, minor: node.minor().try_into().ok()? })
}

/// What rules say of a block device.
#[derive(Debug, Default, PartialEq, Eq)]
struct Access {
    reads: bool,
    writes: bool,
    /// Whether every device may be used, and this one isn't named.
    is_anybodys: bool,
}

impl Access {
    /// Rules count in their order, and one about all kinds of devices starts anew, as the agent takes them.
    fn to(device: DeviceNumber, rules: &[LinuxDeviceCgroup]) -> Self {
        let mut access = Self::default();
        for rule in rules {
            let allows = rule.allow();
            match rule.typ().unwrap_or(LinuxDeviceType::A) {
                LinuxDeviceType::A => access = Self { reads: allows, writes: allows, is_anybodys: allows },
                LinuxDeviceType::B if covers(rule, device) => {
                    let ways = rule.access().as_deref().unwrap_or_default();
                    access.reads = if ways.contains('r') { allows } else { access.reads };
                    access.writes = if ways.contains('w') { allows } else { access.writes };
                    access.is_anybodys &= !(allows && names(rule));
                }
                _ => {}
            }
        }
        access
    }
}

fn covers(rule: &LinuxDeviceCgroup, device: DeviceNumber) -> bool {
    let is = |named: Option<i64>, number: u32| named.is_none_or(|named| named < 0 || named == i64::from(number));
    is(rule.major(), device.major) && is(rule.minor(), device.minor)
}

/// Whether a rule is about one device.
fn names(rule: &LinuxDeviceCgroup) -> bool {
    [rule.major(), rule.minor()].iter().all(|number| number.is_some_and(|number| number >= 0))
}

/// Whether the host has the device at that path.
fn is_at(path: &Path, number: DeviceNumber) -> bool {
    let rdev = makedev(number.major.into(), number.minor.into());
    fs::metadata(path).is_ok_and(|node| node.file_type().is_block_device() && node.rdev() == rdev)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// On a host whose disk is 8:0, as `/dev/sda`, and 7:0, as `/dev/loop0`.
    fn given_with(nodes: &Value, rules: &Value) -> Vec<(String, String, bool)> {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0", "linux": {"devices": nodes, "resources": {"devices": rules}}
        }))
        .unwrap();
        let host = |path: &Path, number: DeviceNumber| {
            let at = match path.to_str() {
                Some("/dev/sda") => (8, 0),
                Some("/dev/loop0") => (7, 0),
                _ => return false,
            };
            at == (number.major, number.minor)
        };
        let given = given_beside(&spec, host).into_iter();
        given.map(|device| (device.path.display().to_string(), device.number.to_string(), device.writable)).collect()
    }

    fn node(path: &str, kind: &str, major: i64, minor: i64) -> Value {
        json!({"path": path, "type": kind, "major": major, "minor": minor})
    }

    fn rule(major: i64, minor: i64, access: &str) -> Value {
        json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": access})
    }

    fn owned(given: &[(&str, &str, bool)]) -> Vec<(String, String, bool)> {
        given.iter().map(|(path, number, writable)| ((*path).to_owned(), (*number).to_owned(), *writable)).collect()
    }

    #[test]
    fn block_devices_are_given_as_the_rules_say() {
        let nodes = json!([
            node("/dev/sda", "b", 8, 0),
            node("/dev/xvdc", "b", 7, 0),
            node("/dev/again", "b", 7, 0),
            node("/dev/kmsg", "c", 1, 11),
            node("/dev/odd", "b", -1, 0),
            node("/dev/unruled", "b", 7, 1),
            node("/dev/only-made", "b", 7, 2),
        ]);
        let rules = json!([{"allow": false, "access": "rwm"}, rule(8, 0, "rwm"), rule(7, 0, "r"), rule(7, 2, "m")]);
        assert_eq!(given_with(&nodes, &rules), owned(&[("/dev/sda", "8:0", true), ("/dev/xvdc", "7:0", false)]));
        let rules = json!([
            rule(8, 0, "w"), {"allow": false, "access": "rwm"}, rule(7, -1, "rw"),
            {"allow": false, "type": "b", "major": 7, "minor": 1, "access": "w"},
            {"allow": false, "type": "b", "major": 7, "minor": 2, "access": "rw"},
        ]);
        let expected = [("/dev/xvdc", "7:0", true), ("/dev/unruled", "7:1", false)];
        assert_eq!(given_with(&nodes, &rules), owned(&expected));
    }

    #[test]
    fn a_list_of_what_the_host_has_gives_nothing() {
        let listed = [node("/dev/sda", "b", 8, 0), node("/dev/loop0", "b", 7, 0)];
        let all = json!({"allow": true, "access": "rwm"});
        assert_eq!(given_with(&json!(listed), &json!([all])), []);
        assert_eq!(given_with(&json!(listed), &json!([rule(8, 0, "rwm"), all])), [], "a rule that no longer counts");
        let nodes = json!({"allow": true, "type": "b", "access": "m"});
        let denied = json!({"allow": false, "type": "b", "major": 8, "minor": 0, "access": "w"});
        assert_eq!(given_with(&json!(listed), &json!([all, nodes, denied])), [], "rules that give nothing");
        // What is said beside the list counts.
        let given = given_with(&json!(listed), &json!([all, rule(8, 0, "rwm")]));
        assert_eq!(given, owned(&[("/dev/sda", "8:0", true)]));
        let given = given_with(&json!([listed[1], listed[0], listed[1]]), &json!([all]));
        assert_eq!(given, owned(&[("/dev/loop0", "7:0", true)]));
        let [disk, other] = listed;
        let given = given_with(&json!([disk, other, node("/dev/xvdc", "b", 7, 0)]), &json!([all]));
        assert_eq!(given, owned(&[("/dev/xvdc", "7:0", true)]));
    }

    #[test]
    fn without_devices_there_are_none() {
        let spec: Spec = serde_json::from_value(json!({"ociVersion": "1.2.0"})).unwrap();
        assert_eq!(given(&spec), []);
    }
}
