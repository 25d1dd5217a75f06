//! The socket a shim serves on. Its name is derived, so containerd and a second shim of the same group find it.

use std::fmt::{self, Write as _};
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Longest path of a Unix socket (`sun_path` less its terminator, and what containerd accepts).
const PATH_LIMIT: usize = 106;

/// Why a shim has no socket.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    /// The path can't be a socket's.
    #[error("socket path {path} is longer than {PATH_LIMIT} bytes: choose a shorter socket directory")]
    TooLong {
        /// The path in question.
        path: PathBuf,
    },
    /// The directory or socket could not be made.
    #[error("create socket {path}")]
    Create {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Where a shim listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketPath(PathBuf);

/// The socket as `start` finds it.
#[derive(Debug)]
pub(crate) enum Bound {
    /// Ours to serve.
    New(UnixListener),
    /// A running shim of the same group serves it.
    Served,
}

impl SocketPath {
    /// The name by containerd's rule: sha256 of address, namespace and group.
    pub(super) fn new(dir: &Path, grpc_address: &str, namespace: &str, group: &str) -> Self {
        let name = Path::new(grpc_address).join(namespace).join(group);
        let digest = Sha256::digest(name.as_os_str().as_encoded_bytes());
        let mut file = String::with_capacity(2 * digest.len());
        for byte in digest {
            let _infallible = write!(file, "{byte:02x}");
        }
        Self(dir.join(file))
    }

    /// Reads an address as containerd writes it.
    pub(crate) fn parse(address: &str) -> Self {
        Self(address.strip_prefix("unix://").unwrap_or(address).into())
    }

    /// Listens, unless a live shim already does; a dead shim's socket is replaced.
    pub(super) fn bind(&self) -> Result<Bound, SocketError> {
        if self.0.as_os_str().len() > PATH_LIMIT {
            return Err(SocketError::TooLong { path: self.0.clone() });
        }
        self.bind_path().map_err(|source| SocketError::Create { path: self.0.clone(), source })
    }

    fn bind_path(&self) -> io::Result<Bound> {
        let listener = match UnixListener::bind(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(dir) = self.0.parent() {
                    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                }
                UnixListener::bind(&self.0)?
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if UnixStream::connect(&self.0).is_ok() {
                    return Ok(Bound::Served);
                }
                fs::remove_file(&self.0)?;
                UnixListener::bind(&self.0)?
            }
            result => result?,
        };
        fs::set_permissions(&self.0, Permissions::from_mode(0o600))?;
        Ok(Bound::New(listener))
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// Removes a socket; one that is gone is as good.
pub(crate) fn remove(socket: &SocketPath) -> io::Result<()> {
    match fs::remove_file(&socket.0) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_follows_the_rule_of_containerd() {
        let socket =
            SocketPath::new(Path::new("/run/containerd/s"), "/run/containerd/containerd.sock", "default", "123");
        let hash = "0ddfbd72d02b3551e75f3a0ed90b9965b533401be618f43a568bc522764e0ad0";
        assert_eq!(socket.to_string(), format!("unix:///run/containerd/s/{hash}"));
        assert_eq!(SocketPath::parse(&socket.to_string()), socket);
    }

    #[test]
    fn live_socket_is_found_and_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let socket = SocketPath::new(&dir.path().join("s"), "a", "ns", "id");
        let Bound::New(listener) = socket.bind().unwrap() else { panic!("nobody listens yet") };
        assert_eq!(fs::metadata(&socket.0).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("s")).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(socket.bind().unwrap(), Bound::Served));
        drop(listener);
        assert!(matches!(socket.bind().unwrap(), Bound::New(_)));
        remove(&socket).unwrap();
        remove(&socket).unwrap();
    }

    #[test]
    fn long_path_is_refused_by_name() {
        let socket = SocketPath::new(Path::new(&format!("/{}", "d".repeat(80))), "a", "ns", "id");
        assert!(matches!(socket.bind(), Err(SocketError::TooLong { .. })));
    }
}
