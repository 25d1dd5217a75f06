//! The bake that a start has missed, kept beside its record for whoever makes it by hand.

use std::io::{self, ErrorKind};
use std::path::Path;

use protobuf::Message as _;

use crate::daemon::RequestBakeRequest;
use crate::start_record::{RecordError, Recorder, read};

const FILE: &str = "wanted";
/// Most bytes of it: specifications of containers have some tens of thousands.
const MAX_BYTES: u64 = 4 << 20;

impl Recorder {
    /// Notes what bake the start would have liked; nothing if the VM is gone.
    pub fn note_wanted(&self, wanted: &RequestBakeRequest) -> io::Result<()> {
        self.beside(FILE).replace(&wanted.write_to_bytes()?)
    }
}

/// The bake that a start would have liked, from its VM's directory. None if the start had the best that there can be.
/// It is taken from root and this user only, and parsed as untrusted.
pub fn read_wanted(directory: &Path) -> Result<Option<RequestBakeRequest>, RecordError> {
    let path = directory.join(FILE);
    let bytes = match read(&path, MAX_BYTES) {
        Err(RecordError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let wanted = RequestBakeRequest::parse_from_bytes(&bytes);
    Ok(Some(wanted.map_err(|source| RecordError::Message { path, source: source.into() })?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_no_such_note_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_wanted(dir.path()).unwrap().is_none());
        let wanted = RequestBakeRequest { vcpus: 3, layers: vec!["/layer".to_owned()], ..Default::default() };
        let write = |bytes: &[u8]| std::fs::write(dir.path().join(FILE), bytes).unwrap();
        write(&wanted.write_to_bytes().unwrap());
        assert_eq!(read_wanted(dir.path()).unwrap(), Some(wanted));
        write(b"\xff\xff");
        assert!(matches!(read_wanted(dir.path()), Err(RecordError::Message { .. })));
        write(&vec![0; (4 << 20) + 1]);
        assert!(matches!(read_wanted(dir.path()), Err(RecordError::TooLarge { .. })));
    }
}
