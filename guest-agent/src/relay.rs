//! Bytes moved from one descriptor to another, as they are.

use crate::descriptor::Descriptor;

/// What one copy moves at most. Made when the first byte is there, so that silent streams cost nothing.
const BUFFER_BYTES: usize = 32 * 1024;

/// Why a copy ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// The source is at its end. (A terminal whose other end is closed answers with an error.)
    All,
    /// The destination takes no more.
    Refused,
}

/// Moves bytes, as many as the destination takes at a time.
pub(crate) async fn copy(from: &Descriptor, to: &Descriptor) -> Copied {
    let mut buffer = Vec::new();
    loop {
        let read = from.when_readable(|fd| {
            buffer.resize(BUFFER_BYTES, 0);
            Ok(rustix::io::read(fd, &mut buffer[..])?)
        });
        let count = read.await.unwrap_or(0);
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Copied::All };
        if to.write_all(bytes).await.is_err() {
            return Copied::Refused;
        }
    }
}

/// Carries what two connections say to each other, until both have said all or one of them is gone.
pub(crate) async fn carry(one: &Descriptor, other: &Descriptor) {
    // Whoever takes no more ends both ways.
    let _ended = tokio::try_join!(pass_on(one, other), pass_on(other, one));
}

/// One way, up to the end of what the one says.
async fn pass_on(from: &Descriptor, to: &Descriptor) -> Result<(), Copied> {
    match copy(from, to).await {
        Copied::All => {
            to.finish_writing();
            Ok(())
        }
        refused @ Copied::Refused => Err(refused),
    }
}
