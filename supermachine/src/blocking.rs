//! Work that keeps a thread busy, beside those that serve others.

use tokio::task::spawn_blocking;

/// Does the work on a thread of its own; a panic goes on here.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
