//! How long what a guest is told holds.
//!
//! Names and attributes hold for one system call, so that what changes on the host is seen at once, but for those of
//! directories, each step of each path being one, which asks for its name and then for its permissions; and attributes of a
//! file that was made a moment ago, or that is asked about because it is open, which every `read` does. They hold until the
//! guest's clock has ticked, the shortest time that its kernel knows. Who opens a file asks for its name, and has what
//! there is by then.

use virtiofsd::fuse::{Attr, AttrOut, EntryOut, OutHeader};
use vm_memory::ByteValued;

use crate::ring::Buffers;

/// In nanoseconds: the kernel rounds up to ticks.
const UNTIL_THE_NEXT_TICK: u32 = 1;

/// An answer's content that says how long it holds.
pub(super) trait Standing: ByteValued {
    fn attributes(&self) -> &Attr;
    /// Has its attributes hold until the next tick.
    fn let_attributes_stand(&mut self);
    /// Has all of it hold until the next tick.
    fn let_stand(&mut self) {
        self.let_attributes_stand();
    }
}

impl Standing for EntryOut {
    fn attributes(&self) -> &Attr {
        &self.attr
    }

    fn let_attributes_stand(&mut self) {
        self.attr_valid_nsec = UNTIL_THE_NEXT_TICK;
    }

    fn let_stand(&mut self) {
        self.entry_valid_nsec = UNTIL_THE_NEXT_TICK;
        self.let_attributes_stand();
    }
}

impl Standing for AttrOut {
    fn attributes(&self) -> &Attr {
        &self.attr
    }

    fn let_attributes_stand(&mut self) {
        self.attr_valid_nsec = UNTIL_THE_NEXT_TICK;
    }
}

/// An answer's content and where it is.
pub(super) struct Content<'m, T> {
    content: T,
    place: Buffers<'m>,
}

/// Reads the beginning of an answer's content, if that and `rest` more bytes are what was written: one that failed is
/// shorter.
pub(super) fn content_of<T: Standing + Default>(
    mut answer: Buffers<'_>,
    written: u32,
    rest: usize,
) -> Option<Content<'_, T>> {
    if written as usize != size_of::<OutHeader>() + size_of::<T>() + rest {
        return None;
    }
    answer.take(size_of::<OutHeader>())?;
    let place = answer.take(size_of::<T>())?;
    let mut content = T::default();
    place.copy_to(content.as_mut_slice());
    Some(Content { content, place })
}

/// Lets an answer about a directory hold.
pub(super) fn let_directory_stand<T: Standing>(answer: Content<'_, T>) {
    let Content { mut content, place } = answer;
    if content.attributes().mode & libc::S_IFMT == libc::S_IFDIR {
        content.let_stand();
        place.copy_from(content.as_slice());
    }
}

/// Lets the attributes in an answer hold.
pub(super) fn let_attributes_stand<T: Standing>(answer: Content<'_, T>) {
    let Content { mut content, place } = answer;
    content.let_attributes_stand();
    place.copy_from(content.as_slice());
}
