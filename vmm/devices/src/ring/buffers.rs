//! A run of guest memory, in as many pieces as the guest chose.

use vm_memory::VolatileSlice;

/// Pieces of guest memory that are read or written as one run of bytes.
#[derive(Debug, Default)]
pub(crate) struct Buffers<'m> {
    slices: Vec<VolatileSlice<'m>>,
    bytes: usize,
}

impl<'m> Buffers<'m> {
    /// Appends a piece. The callers' limits on pieces keep the sum far below overflow.
    pub(super) fn push(&mut self, slice: VolatileSlice<'m>) {
        self.bytes = self.bytes.saturating_add(slice.len());
        self.slices.push(slice);
    }

    /// Length of the whole run.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The pieces in order.
    pub(crate) fn slices(&self) -> &[VolatileSlice<'m>] {
        &self.slices
    }

    /// Removes the first `bytes` bytes and returns them; `None`, and no change, if there are fewer.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<Buffers<'m>> {
        if bytes > self.bytes {
            return None;
        }
        let mut taken = Buffers::default();
        let mut rest = Buffers::default();
        for slice in self.slices.drain(..) {
            let wanted = bytes - taken.bytes;
            if wanted >= slice.len() {
                taken.push(slice);
            } else if wanted == 0 {
                rest.push(slice);
            } else if let Ok((head, tail)) = slice.split_at(wanted) {
                taken.push(head);
                rest.push(tail);
            }
        }
        *self = rest;
        Some(taken)
    }

    /// Removes the last byte and returns it.
    pub(crate) fn take_last(&mut self) -> Option<Buffers<'m>> {
        let before = self.take(self.bytes.checked_sub(1)?)?;
        Some(std::mem::replace(self, before))
    }

    /// Copies from the start of the run to `target`; returns how many bytes.
    pub(crate) fn copy_to(&self, target: &mut [u8]) -> usize {
        let mut copied = 0;
        for slice in &self.slices {
            let rest = target.get_mut(copied..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            copied += slice.copy_to(rest);
        }
        copied
    }

    /// Copies `source` to the start of the run; returns how many bytes.
    pub(crate) fn copy_from(&self, source: &[u8]) -> usize {
        let mut copied = 0;
        for slice in &self.slices {
            let rest = source.get(copied..).unwrap_or_default();
            let bytes = rest.len().min(slice.len());
            if bytes == 0 {
                break;
            }
            slice.copy_from(&rest[..bytes]);
            copied += bytes;
        }
        copied
    }

    /// Fills the run with zeros.
    pub(crate) fn zero(&self) {
        const ZEROS: [u8; 4096] = [0; 4096];
        for slice in &self.slices {
            let mut rest = *slice;
            while !rest.is_empty() {
                let bytes = rest.len().min(ZEROS.len());
                rest.copy_from(&ZEROS[..bytes]);
                let Ok(next) = rest.offset(bytes) else { break };
                rest = next;
            }
        }
    }
}
