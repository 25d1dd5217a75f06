//! The generation id: 16 random bytes by which a guest learns that it goes on as another machine (Microsoft, "Virtual
//! Machine Generation ID"; Linux' `drivers/virt/vmgenid.c`).

use std::io;

use devices::layout::GENERATION_GSI;
use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::{Bytes, GuestAddress};

use super::layout::GENERATION;
use crate::kvm::{KvmError, Vm};
use crate::memory::GuestRam;

/// Length of a generation id, in bytes.
const ID_BYTES: usize = 16;

/// The machine can't be told apart from others.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The host has no randomness for it.
    #[error("this host's kernel gives no random bytes")]
    Random(#[source] io::Error),
    /// Guest memory could not be written.
    #[error("guest memory can't be written")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// The guest can't be interrupted.
    #[error("the guest can't be told")]
    Interrupt(#[from] KvmError),
}

/// Makes the machine another one than any before. While no vCPU runs.
pub fn begin_generation(ram: &GuestRam) -> Result<(), GenerationError> {
    let mut id = [0; ID_BYTES];
    // So few bytes come all at once or not at all.
    getrandom(&mut id, GetRandomFlags::empty()).map_err(|error| GenerationError::Random(error.into()))?;
    Ok(ram.write_slice(&id, GuestAddress(GENERATION))?)
}

/// Tells a guest that was another machine before. After the interrupt controllers' state, of which the interrupt
/// becomes a part, and before the vCPUs run: it is then the first thing that the guest sees.
pub fn announce_generation(vm: &Vm) -> Result<(), GenerationError> {
    Ok(vm.line(GENERATION_GSI).pulse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::PAGE_BYTES;

    #[test]
    fn each_generation_has_an_id_of_its_own_and_nothing_else_is_written() {
        let ram = crate::memory::reserve(&[(GuestAddress(0), 64 << 20)]).unwrap();
        let mut ids = vec![[0; ID_BYTES]];
        for _ in 0..3 {
            begin_generation(&ram).unwrap();
            ids.push(ram.read_obj(GuestAddress(GENERATION)).unwrap());
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4);
        let mut around = vec![1; 2 * PAGE_BYTES as usize];
        ram.read_slice(&mut around, GuestAddress(GENERATION - PAGE_BYTES)).unwrap();
        around.drain(PAGE_BYTES as usize..PAGE_BYTES as usize + ID_BYTES);
        assert!(around.iter().all(|byte| *byte == 0));
    }
}
