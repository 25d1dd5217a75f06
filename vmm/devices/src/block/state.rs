//! What a block device saves beyond its slot.

use serde::{Deserialize, Serialize};

use super::Block;

/// The configuration that the driver has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockState {
    sectors: u64,
}

impl Block {
    /// The state of the device; any value is valid for [`Self::changed_since`].
    pub(crate) fn save(&self) -> BlockState {
        BlockState { sectors: self.disk().sectors() }
    }

    /// Whether the driver has read a configuration that no longer holds.
    pub(crate) fn changed_since(&self, saved: BlockState) -> bool {
        saved != self.save()
    }
}
