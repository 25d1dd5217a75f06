//! The daemon's sockets: only root may connect.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use tokio::net::UnixListener;

/// A listening socket whose file goes when the value does, unless it is the service manager's.
#[derive(Debug)]
pub(crate) struct SocketFile(Option<PathBuf>);

/// Listening sockets that the service manager has handed over. It keeps them open while the daemon restarts, so that
/// clients wait meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<StdListener>);

impl Inherited {
    /// Takes those of this process. Once.
    pub(crate) fn take() -> io::Result<Self> {
        let mut fds = ListenFd::from_env();
        let listeners = (0..fds.len()).filter_map(|place| fds.take_unix_listener(place).transpose());
        Ok(Self(listeners.collect::<io::Result<_>>()?))
    }

    #[cfg(test)]
    pub(crate) fn of(listener: StdListener) -> Self {
        Self(vec![listener])
    }

    /// The one at a path, if it was handed over; else a new one.
    pub(crate) fn listen(&mut self, path: &Path) -> io::Result<(UnixListener, SocketFile)> {
        let is_at = |listener: &StdListener| listener.local_addr().is_ok_and(|at| at.as_pathname() == Some(path));
        let Some(place) = self.0.iter().position(is_at) else { return listen(path) };
        let listener = self.0.swap_remove(place);
        listener.set_nonblocking(true)?;
        Ok((UnixListener::from_std(listener)?, SocketFile(None)))
    }
}

/// Listens at `path`, replacing what an earlier daemon left there. The caller holds the daemon's lock, so nobody is
/// listening on it. The socket appears under its name with its final mode.
fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
    }
    let fresh = PathBuf::from(format!("{}.new", path.display()));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok((listener, SocketFile(Some(path.to_owned()))))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Some(path) = &self.0 else { return };
        if let Err(error) = fs::remove_file(path) {
            tracing::debug!(path = %path.display(), %error, "the socket's file is gone already");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn an_inherited_socket_is_served_and_its_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut inherited = Inherited::of(StdListener::bind(&path).unwrap());
        // Before there is anybody to accept it.
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(b"?").await.unwrap();
        let (other, other_file) = inherited.listen(&folder.path().join("other")).unwrap();
        let (listener, file) = inherited.listen(&path).unwrap();
        let mut question = [0];
        listener.accept().await.unwrap().0.read_exact(&mut question).await.unwrap();
        assert_eq!(&question, b"?");
        drop((listener, file, other, other_file));
        assert!(path.exists());
        assert!(!folder.path().join("other").exists());
    }
}
