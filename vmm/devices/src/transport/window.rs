//! The register pages as a guest reads them: memory that it is given to read, so that no read makes it leave.
//!
//! A driver reads why it was interrupted at every interrupt. What it writes it still leaves for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::layout::{MMIO_BYTES, SLOT_BYTES, SLOTS};

/// Registers in a page.
const REGISTERS: usize = SLOT_BYTES as usize / size_of::<u32>();

#[derive(Debug)]
#[repr(C, align(4096))]
struct Registers([AtomicU32; REGISTERS]);

/// The pages of all slots, one after the other; a clone refers to the same pages.
#[derive(Clone, Debug)]
pub struct Window(Arc<[Registers; SLOTS]>);

impl Default for Window {
    /// Pages that read as zeros.
    fn default() -> Self {
        Self(Arc::new([const { Registers([const { AtomicU32::new(0) }; REGISTERS]) }; SLOTS]))
    }
}

impl Window {
    /// Where the pages are in this process, for as long as a clone exists.
    #[must_use]
    pub fn address(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }

    /// Their length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        MMIO_BYTES
    }

    /// The page of a slot.
    pub(crate) fn page(&self, slot: usize) -> Page {
        Page { window: self.clone(), slot }
    }
}

/// The page of one slot.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    window: Window,
    slot: usize,
}

impl Page {
    /// What a register reads as.
    pub(crate) fn load(&self, register: u32) -> u32 {
        self.register(register).load(Ordering::SeqCst)
    }

    /// Has a register read as `value`.
    pub(crate) fn store(&self, register: u32, value: u32) {
        self.register(register).store(value, Ordering::SeqCst);
    }

    /// Adds bits to what a register reads as.
    pub(crate) fn set(&self, register: u32, bits: u32) {
        self.register(register).fetch_or(bits, Ordering::SeqCst);
    }

    /// Takes bits from what a register reads as.
    pub(crate) fn clear(&self, register: u32, bits: u32) {
        self.register(register).fetch_and(!bits, Ordering::SeqCst);
    }

    /// Every offset is that of some register.
    fn register(&self, offset: u32) -> &AtomicU32 {
        &self.window.0[self.slot].0[offset as usize / size_of::<u32>() % REGISTERS]
    }
}
