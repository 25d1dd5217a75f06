//! Bytes moved between two connections, as they are.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

/// What is moved at a time, one way.
const BUFFER_BYTES: usize = 32 * 1024;

/// Carries what two connections say to each other, until both have said all; an error if one of them is gone before.
pub(crate) async fn carry<A, B>(one: &mut A, other: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional_with_sizes(one, other, BUFFER_BYTES, BUFFER_BYTES).await.map(drop)
}
