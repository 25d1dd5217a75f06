//! The five capability sets of a process.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::error::{SetupError, Step};

/// The sets a process is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CapabilityPlan {
    known: CapabilitySet,
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl CapabilityPlan {
    /// Reads a spec; what it doesn't name is empty. Capabilities the kernel doesn't know are left out.
    pub(crate) fn from_spec(spec: Option<&LinuxCapabilities>) -> Self {
        let known = known();
        let set = |select: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
            bits(spec.and_then(|spec| select(spec).as_ref()).into_iter().flatten()) & known
        };
        Self {
            known,
            bounding: set(LinuxCapabilities::bounding),
            effective: set(LinuxCapabilities::effective),
            permitted: set(LinuxCapabilities::permitted),
            inheritable: set(LinuxCapabilities::inheritable),
            ambient: set(LinuxCapabilities::ambient),
        }
    }

    /// Gives up what isn't in the bounding set. Must happen while the process is still privileged.
    pub(crate) fn drop_bounding(&self) -> Result<(), SetupError> {
        for capability in (self.known - self.bounding).iter() {
            rustix::thread::remove_capability_from_bounding_set(capability)
                .step("drop capability", name(capability))?;
        }
        Ok(())
    }

    /// Sets the other four, after the user was changed.
    pub(crate) fn apply(&self) -> Result<(), SetupError> {
        let sets =
            CapabilitySets { effective: self.effective, permitted: self.permitted, inheritable: self.inheritable };
        rustix::thread::set_capabilities(None, sets).step("set", "capabilities")?;
        rustix::thread::clear_ambient_capability_set().step("clear", "ambient capabilities")?;
        // The kernel refuses one that isn't both permitted and inheritable; container runtimes pass over that.
        for capability in (self.ambient & self.permitted & self.inheritable).iter() {
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .step("raise ambient capability", name(capability))?;
        }
        Ok(())
    }
}

/// Every capability this kernel has.
fn known() -> CapabilitySet {
    CapabilitySet::all()
        .iter_names()
        .map(|(_, capability)| capability)
        .filter(|capability| rustix::thread::capability_is_in_bounding_set(*capability).is_ok())
        .collect()
}

fn name(capability: CapabilitySet) -> String {
    capability.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

fn bits<'a>(names: impl Iterator<Item = &'a Capability>) -> CapabilitySet {
    names.map(|name| bit(*name)).collect()
}

fn bit(name: Capability) -> CapabilitySet {
    // Both libraries use the kernel's names: `CAP_` is only written by one of them.
    let name = name.to_string();
    CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap_or(&name)).unwrap_or(CapabilitySet::empty())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use oci_spec::runtime::LinuxCapabilitiesBuilder;

    use super::*;

    #[test]
    fn every_capability_of_a_spec_has_a_bit() {
        for number in 0..=40 {
            let bit = CapabilitySet::from_bits_retain(1 << number);
            let text = format!("\"{}\"", name(bit));
            let parsed: Capability = serde_json::from_str(&text).unwrap();
            assert_eq!(super::bit(parsed), bit, "{text}");
        }
    }

    #[test]
    fn keeps_the_five_sets_apart() {
        let one = |capability| HashSet::from([capability]);
        let spec = LinuxCapabilitiesBuilder::default()
            .bounding(one(Capability::Kill))
            .effective(one(Capability::Chown))
            .permitted(one(Capability::Fowner))
            .inheritable(one(Capability::Setuid))
            .ambient(one(Capability::Setgid))
            .build()
            .unwrap();
        let plan = CapabilityPlan::from_spec(Some(&spec));
        assert_eq!(plan.bounding, CapabilitySet::KILL);
        assert_eq!(plan.effective, CapabilitySet::CHOWN);
        assert_eq!(plan.permitted, CapabilitySet::FOWNER);
        assert_eq!(plan.inheritable, CapabilitySet::SETUID);
        assert_eq!(plan.ambient, CapabilitySet::SETGID);
    }

    #[test]
    fn what_is_not_named_is_empty() {
        let spec: LinuxCapabilities = serde_json::from_str(r#"{"bounding": ["CAP_KILL"]}"#).unwrap();
        let plan = CapabilityPlan::from_spec(Some(&spec));
        assert_eq!((plan.bounding, plan.effective), (CapabilitySet::KILL, CapabilitySet::empty()));
        assert_eq!(CapabilityPlan::from_spec(None).bounding, CapabilitySet::empty());
    }
}
