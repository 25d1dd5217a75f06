//! The bake's state file: everything but memory.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use devices::{ConsoleState, DeviceSetState};
use serde::{Deserialize, Serialize};
use vmm_api::Shape;

use crate::arch::{StateError, VcpuState, VmState};

const MAGIC: [u8; 8] = *b"SMSTATE\0";
/// Any change of what is saved is a new version; there is no reading of old ones: a bake is made anew instead.
pub const VERSION: u32 = 4;
const HEADER_BYTES: usize = 12;
/// Far above what 64 vCPUs and all devices take.
const MAX_BYTES: u64 = 16 << 20;

/// A state file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It can't be read.
    #[error("the bake's state can't be read")]
    Read(#[source] io::Error),
    /// It can't be written.
    #[error("the bake's state can't be written; is the disk full?")]
    Write(#[source] io::Error),
    /// It is something else.
    #[error("the bake's state has {bytes} bytes or isn't one")]
    NotState {
        /// Size of the file.
        bytes: u64,
    },
    /// Another version wrote it.
    #[error("the bake's state is of version {found}, this VMM reads version {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// It doesn't decode.
    #[error("the bake's state doesn't decode")]
    Decode(#[source] postcard::Error),
    /// It doesn't encode.
    #[error("the machine's state doesn't encode")]
    Encode(#[source] postcard::Error),
    /// It is of another machine.
    #[error(
        "the bake's state has {vcpus} vCPUs and {memory_bytes} bytes of memory, which is more than this machine has, or another size"
    )]
    Shape {
        /// Its number of vCPUs.
        vcpus: usize,
        /// Its memory.
        memory_bytes: u64,
    },
    /// Processor state breaks a rule.
    #[error("the bake's state contradicts itself")]
    Processor(#[from] StateError),
}

/// State of a stopped machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// Size of guest memory.
    pub memory_bytes: u64,
    /// State that vCPUs share.
    pub vm: VmState,
    /// The vCPUs that it had, in order: at least one. Those that another machine has besides wait to be brought up.
    pub vcpus: Vec<VcpuState>,
    /// The virtio devices; they check it themselves.
    pub devices: DeviceSetState,
    /// The console.
    pub console: ConsoleState,
}

impl MachineState {
    /// Writes the state and returns its size in bytes.
    pub fn write(&self, file: &mut File) -> Result<u64, StateFileError> {
        let bytes = self.encode()?;
        file.write_all(&bytes).map_err(StateFileError::Write)?;
        Ok(bytes.len() as u64)
    }

    /// Reads a state that nobody vouches for.
    pub fn read(file: &File, shape: Shape) -> Result<Self, StateFileError> {
        let size = file.metadata().map_err(StateFileError::Read)?.len();
        if size > MAX_BYTES {
            return Err(StateFileError::NotState { bytes: size });
        }
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, 0).map_err(StateFileError::Read)?;
        Self::decode(&bytes, shape)
    }

    fn encode(&self) -> Result<Vec<u8>, StateFileError> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&VERSION.to_le_bytes());
        postcard::to_extend(self, header).map_err(StateFileError::Encode)
    }

    fn decode(bytes: &[u8], shape: Shape) -> Result<Self, StateFileError> {
        let not_state = || StateFileError::NotState { bytes: bytes.len() as u64 };
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(not_state)?;
        let (magic, version) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(not_state());
        }
        let found = u32::from_le_bytes(version.try_into().map_err(|_length| not_state())?);
        if found != VERSION {
            return Err(StateFileError::Version { found });
        }
        let state: Self = postcard::from_bytes(body).map_err(StateFileError::Decode)?;
        if !(1..=usize::from(shape.vcpus)).contains(&state.vcpus.len()) || state.memory_bytes != shape.memory_bytes {
            return Err(StateFileError::Shape { vcpus: state.vcpus.len(), memory_bytes: state.memory_bytes });
        }
        state.vm.validate()?;
        state.vcpus.iter().try_for_each(VcpuState::validate)?;
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use devices::{Backings, Console, DeviceSet, Window};
    use proptest::prelude::*;

    use super::*;

    const SHAPE: Shape = Shape { memory_bytes: 64 << 20, added_bytes: 0, vcpus: 2 };

    fn state() -> MachineState {
        let ram = crate::memory::reserve(&crate::arch::ram_ranges(SHAPE)).unwrap();
        let devices = DeviceSet::new(ram, &Window::default(), Backings::default()).unwrap();
        devices.quiesce().unwrap();
        MachineState {
            memory_bytes: SHAPE.memory_bytes,
            vm: VmState::blank(),
            vcpus: vec![VcpuState::blank(), VcpuState::blank()],
            devices: devices.save().unwrap(),
            console: Console::new(tempfile::tempfile().unwrap()).unwrap().save(),
        }
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes = state().write(&mut file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes);
        let again = MachineState::read(&file, SHAPE).unwrap();
        assert_eq!(again.encode().unwrap(), state().encode().unwrap());
    }

    #[test]
    fn a_machine_may_have_more_vcpus_than_its_state() {
        let good = state().encode().unwrap();
        assert_eq!(MachineState::decode(&good, Shape { vcpus: 64, ..SHAPE }).unwrap().vcpus.len(), 2);
    }

    #[test]
    fn another_version_shape_or_kind_of_file_is_told_apart() {
        let good = state().encode().unwrap();
        let mut newer = good.clone();
        newer[8] += 1;
        assert!(
            matches!(MachineState::decode(&newer, SHAPE), Err(StateFileError::Version { found }) if found == VERSION + 1)
        );
        let smaller = Shape { vcpus: 1, ..SHAPE };
        assert!(matches!(MachineState::decode(&good, smaller), Err(StateFileError::Shape { vcpus: 2, .. })));
        let roomier = Shape { memory_bytes: 128 << 20, ..SHAPE };
        assert!(matches!(MachineState::decode(&good, roomier), Err(StateFileError::Shape { .. })));
        assert!(matches!(MachineState::decode(b"\x7fELF", SHAPE), Err(StateFileError::NotState { bytes: 4 })));
        let none = MachineState { vcpus: vec![], ..state() };
        assert!(matches!(
            MachineState::decode(&none.encode().unwrap(), SHAPE),
            Err(StateFileError::Shape { vcpus: 0, .. })
        ));
        let contradiction = MachineState { vm: VmState::blank(), vcpus: vec![], ..state() };
        assert!(MachineState::decode(&contradiction.encode().unwrap(), SHAPE).is_err());
    }

    proptest! {
        #[test]
        fn damage_never_panics(offset in 0..8192usize, value: u8, length in 0..16384usize) {
            let mut bytes = state().encode().unwrap();
            let offset = offset % bytes.len();
            bytes[offset] = value;
            bytes.truncate(length);
            let _ = MachineState::decode(&bytes, SHAPE);
        }
    }
}
