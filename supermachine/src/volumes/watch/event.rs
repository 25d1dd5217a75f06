//! What the kernel says of a file that changed (fanotify(7), with file handles).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use mount_tree::FileHandle;
use nix::sys::fanotify::MaskFlags;

/// Length of `struct fanotify_event_metadata`.
const METADATA_BYTES: usize = 24;
/// Length of `struct fanotify_event_info_header` and the file system's id after it.
const INFO_BYTES: usize = 12;
/// Length of what stands before a handle's bytes in `struct file_handle`.
const HANDLE_BYTES: usize = 8;
/// `FAN_EVENT_INFO_TYPE_FID`.
const FILE: u8 = 1;
/// `FAN_EVENT_INFO_TYPE_DFID_NAME`.
const NAME_IN_DIRECTORY: u8 = 2;

/// Something was done to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// All that was done.
    pub(super) done: MaskFlags,
    /// The process that did it.
    pub(super) pid: i32,
    /// The file.
    pub(super) subjects: Vec<Subject>,
}

/// A way in which a file is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    /// The file, or the directory that it is in.
    pub(super) handle: FileHandle,
    /// Its name in that.
    pub(super) name: Option<OsString>,
}

/// The events that were read. What doesn't make sense ends them.
pub(super) fn parse(mut read: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some((event, rest)) = parse_one(read) {
        events.push(event);
        read = rest;
    }
    events
}

fn parse_one(read: &[u8]) -> Option<(Event, &[u8])> {
    let (event, rest) = read.split_at_checked(u32_at(read, 0)? as usize)?;
    let mut infos = event.get(METADATA_BYTES..)?;
    let done = MaskFlags::from_bits_retain(u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?));
    let pid = u32_at(event, 20)?.cast_signed();
    let mut subjects = Vec::new();
    while let Some((info, more)) = info_length(infos).and_then(|length| infos.split_at_checked(length)) {
        subjects.extend(parse_info(info));
        infos = more;
    }
    Some((Event { done, pid, subjects }, rest))
}

fn info_length(infos: &[u8]) -> Option<usize> {
    let length = u16::from_ne_bytes(infos.get(2..4)?.try_into().ok()?).into();
    (length >= INFO_BYTES).then_some(length)
}

fn parse_info(info: &[u8]) -> Option<Subject> {
    let handle = info.get(INFO_BYTES..)?;
    let (bytes, kind) = (u32_at(handle, 0)? as usize, u32_at(handle, 4)?.cast_signed());
    let (bytes, name) = handle.get(HANDLE_BYTES..)?.split_at_checked(bytes)?;
    let name = match *info.first()? {
        FILE => None,
        NAME_IN_DIRECTORY => Some(OsStr::from_bytes(name.split(|byte| *byte == 0).next()?).to_owned()),
        _ => return None,
    };
    Some(Subject { handle: FileHandle { kind, bytes: bytes.to_vec() }, name })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_left_out() {
        let name = b"file\0\0\0\0";
        let handle = [&4_u32.to_ne_bytes()[..], &1_i32.to_ne_bytes(), &[7; 4], name].concat();
        let length = (INFO_BYTES + handle.len()) as u16;
        let info = [&[NAME_IN_DIRECTORY, 0][..], &length.to_ne_bytes(), &[0; 8], &handle].concat();
        let length = (METADATA_BYTES + info.len()) as u32;
        let done = MaskFlags::FAN_CREATE;
        let event = [
            &length.to_ne_bytes()[..],
            &[3, 0, 24, 0],
            &done.bits().to_ne_bytes(),
            &(-1_i32).to_ne_bytes(),
            &42_i32.to_ne_bytes(),
            &info,
        ]
        .concat();
        let handle = FileHandle { kind: 1, bytes: vec![7; 4] };
        let expected = Event { done, pid: 42, subjects: vec![Subject { handle, name: Some("file".into()) }] };
        assert_eq!(parse(&event.repeat(2)), [expected.clone(), expected.clone()]);
        for end in 0..event.len() {
            assert_eq!(parse(&event[..end]), []);
            assert_eq!(parse(&[&event, &event[..end]].concat()), std::slice::from_ref(&expected));
            let mut zeroed = event.clone();
            zeroed[end..].fill(0);
            assert!(parse(&zeroed).len() <= 1);
        }
    }
}
