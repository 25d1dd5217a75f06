//! The virtio-mmio register file (virtio 1.3 §4.2.2) as plain data and the rules for changing it.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};

/// `status` bits that a driver may set.
const DRIVER_BITS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FAILED;

/// The registers that belong to the slot as a whole. Queues have their own, the interrupt line too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registers {
    /// Device status without the bit that the device itself sets.
    pub(super) status: u32,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u32,
    pub(super) config_generation: u32,
}

/// What a status write amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// Nothing that the device has to act on.
    None,
    /// The driver resets the device.
    Reset,
    /// The driver is done with the set-up.
    Activate,
}

impl Registers {
    /// Applies a status write. Bits are only ever added, except by a reset; `FEATURES_OK` is refused when the driver
    /// accepted features that weren't offered or not virtio 1 (§3.1.1 step 5).
    pub(super) fn write_status(&mut self, value: u32, offered: u64) -> Transition {
        if value == 0 {
            return Transition::Reset;
        }
        let mut added = value & DRIVER_BITS & !self.status;
        if !self.accepts_features(offered) {
            added &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        if (self.status | added) & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            added &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        self.status |= added;
        if added & VIRTIO_CONFIG_S_DRIVER_OK == 0 { Transition::None } else { Transition::Activate }
    }

    /// Takes back everything but the configuration generation, which belongs to the device.
    pub(super) fn reset(&mut self) {
        *self = Self { config_generation: self.config_generation, ..Self::default() };
    }

    /// Writes half of the driver's features, only before they are agreed on.
    pub(super) fn write_driver_features(&mut self, value: u32) {
        if self.has(VIRTIO_CONFIG_S_DRIVER) && !self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            self.driver_features = with_half(self.driver_features, self.driver_features_select, value);
        }
    }

    /// The selected half of the offered features.
    pub(super) fn read_device_features(&self, offered: u64) -> u32 {
        half(offered, self.device_features_select)
    }

    /// The selected one of what there is by queue index.
    pub(super) fn selected<'q, T>(&self, by_queue: &'q [T]) -> Option<&'q T> {
        by_queue.get(usize::try_from(self.queue_select).ok()?)
    }

    /// The selected one of what there is by queue index, to be changed.
    pub(super) fn selected_mut<'q, T>(&self, by_queue: &'q mut [T]) -> Option<&'q mut T> {
        by_queue.get_mut(usize::try_from(self.queue_select).ok()?)
    }

    /// Queues can be configured after the features are agreed on and before the driver is done.
    pub(super) fn can_configure_queues(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.is_active()
    }

    /// The driver said `DRIVER_OK`.
    pub(super) fn is_active(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    /// The driver accepted a feature, by bit number.
    pub(super) fn has_feature(&self, feature: u32) -> bool {
        self.driver_features & 1 << feature != 0
    }

    /// Whether a driver could have brought the registers here by way of the rules above.
    pub(super) fn is_reachable(&self, offered: u64) -> bool {
        let agreed = self.has(VIRTIO_CONFIG_S_FEATURES_OK);
        self.status & !DRIVER_BITS == 0 && (agreed || !self.is_active()) && (!agreed || self.accepts_features(offered))
    }

    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    fn accepts_features(&self, offered: u64) -> bool {
        self.driver_features & !offered == 0 && self.has_feature(VIRTIO_F_VERSION_1)
    }
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn with_half(features: u64, select: u32, value: u32) -> u64 {
    match select {
        0 => features & !0xffff_ffff | u64::from(value),
        1 => features & 0xffff_ffff | u64::from(value) << 32,
        _ => features,
    }
}
