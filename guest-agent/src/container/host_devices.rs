//! Block devices of the host in a spec, which names them by the host's numbers. Here they have others.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Spec};
use serde::{Deserialize, Serialize};

/// Major and minor number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceNumber {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl DeviceNumber {
    fn is(self, major: i64, minor: i64) -> bool {
        (i64::from(self.major), i64::from(self.minor)) == (major, minor)
    }
}

/// A block device of the host by its number there and its number here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostDevice {
    pub(crate) host: DeviceNumber,
    pub(crate) guest: DeviceNumber,
}

/// Has the nodes and the rules of a spec mean these devices under their numbers here.
pub(crate) fn renumber(spec: &mut Spec, devices: &[HostDevice]) {
    let Some(linux) = spec.linux_mut().as_mut().filter(|_| !devices.is_empty()) else { return };
    for node in linux.devices_mut().iter_mut().flatten().filter(|node| node.typ() == LinuxDeviceType::B) {
        if let Some(device) = devices.iter().find(|device| device.host.is(node.major(), node.minor())) {
            node.set_major(device.guest.major.into());
            node.set_minor(device.guest.minor.into());
        }
    }
    let rules = linux.resources_mut().as_mut().and_then(|resources| resources.devices_mut().as_mut());
    if let Some(rules) = rules {
        *rules = std::mem::take(rules).into_iter().flat_map(|rule| translate(rule, devices)).collect();
    }
}

/// A rule, followed by what it says about these devices. One that names a number of the host's is about nothing else: the
/// same number here is another device's.
fn translate(rule: LinuxDeviceCgroup, devices: &[HostDevice]) -> Vec<LinuxDeviceCgroup> {
    if rule.typ() != Some(LinuxDeviceType::B) {
        return vec![rule];
    }
    let [major, minor] = [rule.major(), rule.minor()].map(|number| number.filter(|number| *number >= 0));
    let covers = |named: Option<i64>, number: u32| named.is_none_or(|named| named == i64::from(number));
    let meant = devices.iter().filter(|device| covers(major, device.host.major) && covers(minor, device.host.minor));
    let about = |device: &HostDevice| {
        let mut about = rule.clone();
        about.set_major(Some(device.guest.major.into())).set_minor(Some(device.guest.minor.into()));
        about
    };
    let mut translated: Vec<_> = meant.map(about).collect();
    if translated.is_empty() || major.is_none() || minor.is_none() {
        translated.insert(0, rule);
    }
    translated
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DEVICES: [HostDevice; 2] = [
        HostDevice { host: DeviceNumber { major: 7, minor: 0 }, guest: DeviceNumber { major: 254, minor: 18 } },
        // Its number here is that of the other one there.
        HostDevice { host: DeviceNumber { major: 254, minor: 18 }, guest: DeviceNumber { major: 259, minor: 1 } },
    ];

    fn renumbered(linux: &Value) -> Value {
        let mut spec: Spec = serde_json::from_value(json!({"ociVersion": "1.2.0", "linux": linux})).unwrap();
        renumber(&mut spec, &DEVICES);
        serde_json::to_value(spec).unwrap()["linux"].take()
    }

    #[test]
    fn nodes_are_about_the_devices_here() {
        let node = |path: &str, kind: &str, major, minor| json!({"path": path, "type": kind, "major": major, "minor": minor, "fileMode": 432, "uid": 1, "gid": 6});
        let linux = json!({"devices": [
            node("/dev/xvdc", "b", 7, 0), node("/data", "b", 7, 0), node("/dev/vdb2", "b", 254, 18),
            node("/dev/loop1", "b", 7, 1), node("/dev/x", "c", 7, 0),
        ]});
        let expected = json!([
            node("/dev/xvdc", "b", 254, 18),
            node("/data", "b", 254, 18),
            node("/dev/vdb2", "b", 259, 1),
            node("/dev/loop1", "b", 7, 1),
            node("/dev/x", "c", 7, 0),
        ]);
        assert_eq!(renumbered(&linux)["devices"], expected);
    }

    #[test]
    fn rules_are_about_the_devices_here() {
        let rule = |allow, kind: &str, major: i64, minor: i64, access: &str| json!({"allow": allow, "type": kind, "major": major, "minor": minor, "access": access});
        let linux = json!({"resources": {"devices": [
            {"allow": false, "access": "rwm"},
            rule(true, "b", 7, 0, "r"),
            rule(true, "c", 7, 0, "rwm"),
            rule(true, "b", 254, 18, "rw"),
            rule(false, "b", 7, -1, "w"),
            rule(true, "b", 8, 0, "rw"),
        ]}});
        let expected = json!([
            {"allow": false, "access": "rwm"},
            rule(true, "b", 254, 18, "r"),
            rule(true, "c", 7, 0, "rwm"),
            rule(true, "b", 259, 1, "rw"),
            rule(false, "b", 7, -1, "w"),
            rule(false, "b", 254, 18, "w"),
            rule(true, "b", 8, 0, "rw"),
        ]);
        assert_eq!(renumbered(&linux)["resources"]["devices"], expected);
    }

    #[test]
    fn without_devices_nothing_changes() {
        let linux = json!({"devices": [{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]});
        assert_eq!(renumbered(&linux), linux);
    }
}
