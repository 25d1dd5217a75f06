//! How long what a guest is told holds.
//!
//! Names and attributes hold for one system call, so that what changes on the host is seen at once, but for those of
//! directories, each step of each path being one, which asks for its name and then for its permissions, and the attributes
//! of a file that was made a moment ago. They hold until the guest's clock has ticked, the shortest time that its kernel
//! knows.

use virtiofsd::fuse::{Attr, AttrOut, EntryOut, OutHeader};
use vm_memory::ByteValued;

use crate::ring::Buffers;

/// In nanoseconds: the kernel rounds up to ticks.
const UNTIL_THE_NEXT_TICK: u32 = 1;

/// An answer's content that says how long it holds.
pub(super) trait Standing: ByteValued {
    fn attributes(&self) -> &Attr;
    fn stand(&mut self, nanoseconds: u32);
}

impl Standing for EntryOut {
    fn attributes(&self) -> &Attr {
        &self.attr
    }

    fn stand(&mut self, nanoseconds: u32) {
        self.entry_valid_nsec = nanoseconds;
        self.attr_valid_nsec = nanoseconds;
    }
}

impl Standing for AttrOut {
    fn attributes(&self) -> &Attr {
        &self.attr
    }

    fn stand(&mut self, nanoseconds: u32) {
        self.attr_valid_nsec = nanoseconds;
    }
}

/// An answer's content and where it is.
pub(super) struct Content<'m, T> {
    pub(super) content: T,
    place: Buffers<'m>,
}

impl<T: ByteValued> Content<'_, T> {
    /// Puts what was changed where it is.
    pub(super) fn put(&self) {
        self.place.copy_from(self.content.as_slice());
    }
}

/// Reads the beginning of an answer's content, if that and `rest` more bytes are what was written: one that failed is
/// shorter.
pub(super) fn content_of<T: ByteValued + Default>(
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

/// Lets an answer about a directory hold until the next tick.
pub(super) fn let_directory_stand<T: Standing>(answer: &mut Content<'_, T>) {
    if answer.content.attributes().mode & libc::S_IFMT == libc::S_IFDIR {
        answer.content.stand(UNTIL_THE_NEXT_TICK);
        answer.put();
    }
}

/// Lets the attributes of a file that the guest has just made, which it asks for next, hold until the next tick.
pub(super) fn let_new_file_stand(mut answer: Content<'_, EntryOut>) {
    answer.content.attr_valid_nsec = UNTIL_THE_NEXT_TICK;
    answer.put();
}
