//! Likenesses of the host's unix sockets: a process that connects to one here talks to whoever listens at the host's.
//! Only the host opens connections, so it keeps one waiting for the next process (`agent_proto`'s `socket.rs`).

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_proto::{ANSWERED, CALLED, SOCKET_NAME_BYTES, Socket, decode_socket_name, encode_socket_name};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::descriptor::Descriptor;
use crate::refusal::{Kind, Refusal};
use crate::relay;

/// How long a connection may take to say which socket it is for.
const DEADLINE: Duration = Duration::from_secs(10);
/// Most sockets that one container may have.
const MAX_SOCKETS: usize = 64;
/// What a socket is called until it is as it is to be. No socket's own name begins like this.
const UNFINISHED: &str = ".unfinished";

/// A container's sockets can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketsError {
    #[error("sockets: at most {MAX_SOCKETS}")]
    TooMany,
    #[error("sockets: {name:?} is no name of a socket")]
    Name { name: String },
    #[error("sockets: {name:?} exists already")]
    Taken { name: String },
    #[error("make the socket {}: {source}", path.display())]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl From<SocketsError> for Refusal {
    fn from(error: SocketsError) -> Self {
        let kind = match error {
            SocketsError::TooMany | SocketsError::Name { .. } => Kind::InvalidArgument,
            SocketsError::Taken { .. } => Kind::AlreadyExists,
            SocketsError::Make { .. } => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

/// Every container's, by their names.
#[derive(Debug)]
pub(crate) struct HostSockets {
    directory: PathBuf,
    likenesses: Mutex<BTreeMap<String, Likeness>>,
}

/// One that processes can connect to.
#[derive(Debug)]
struct Likeness {
    container: String,
    listener: Arc<Descriptor>,
    /// What is done for those who connect ends with this.
    life: watch::Sender<()>,
}

impl HostSockets {
    /// None yet, to be made in a directory.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, likenesses: Mutex::default() }
    }

    /// Makes those of a container. If one can't be made, the others are still to be removed.
    pub(crate) fn make(&self, container: &str, sockets: &[Socket]) -> Result<(), SocketsError> {
        if sockets.len() > MAX_SOCKETS {
            return Err(SocketsError::TooMany);
        }
        for socket in sockets {
            let name = &socket.name;
            if encode_socket_name(name).is_none() || name.starts_with('.') || name.contains('/') {
                return Err(SocketsError::Name { name: name.clone() });
            }
            let mut likenesses = self.lock();
            if likenesses.contains_key(name) {
                return Err(SocketsError::Taken { name: name.clone() });
            }
            let failed = |source| SocketsError::Make { path: self.directory.join(name), source };
            let listener = Arc::new(listen(&self.directory, socket).map_err(failed)?);
            let likeness = Likeness { container: container.to_owned(), listener, life: watch::Sender::new(()) };
            likenesses.insert(name.clone(), likeness);
        }
        Ok(())
    }

    /// Removes those of a container, and ends what is said through them.
    pub(crate) fn remove(&self, container: &str) -> io::Result<()> {
        let mut likenesses = self.lock();
        let gone = likenesses.extract_if(.., |_, likeness| likeness.container == container);
        let removals = gone.map(|(name, _)| fs::remove_file(self.directory.join(name)));
        removals.fold(Ok(()), io::Result::and)
    }

    /// Takes the host's connections for ever.
    pub(crate) async fn run(self: Arc<Self>, listener: Descriptor) {
        loop {
            let connection = listener.next_connection("a connection for a socket").await;
            drop(tokio::spawn(Arc::clone(&self).receive(connection)));
        }
    }

    /// Serves one connection, which is for one process that connects. One that is for no socket is closed.
    async fn receive(self: Arc<Self>, connection: Descriptor) {
        let mut name = [0; SOCKET_NAME_BYTES];
        let Ok(Ok(())) = timeout(DEADLINE, connection.read_exact(&mut name)).await else { return };
        let Some((listener, mut life)) = decode_socket_name(&name).and_then(|name| self.find(name)) else { return };
        tokio::select! {
            _ended = life.changed() => {}
            () = serve(&listener, &connection) => {}
        }
    }

    fn find(&self, name: &str) -> Option<(Arc<Descriptor>, watch::Receiver<()>)> {
        let likenesses = self.lock();
        likenesses.get(name).map(|likeness| (Arc::clone(&likeness.listener), likeness.life.subscribe()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Likeness>> {
        self.likenesses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the next process and connects it to the host's socket. Where nobody answers there, it is hung up on.
async fn serve(listener: &Descriptor, connection: &Descriptor) {
    let mut answer = [0];
    let process = tokio::select! {
        // The host has nothing to say before it is called: it has gone.
        _gone = connection.read(&mut answer) => return,
        process = listener.next_connection("who connects to a socket") => process,
    };
    let answered = async {
        connection.write_all(&[CALLED]).await?;
        connection.read_exact(&mut answer).await
    };
    if answered.await.is_ok() && answer == [ANSWERED] {
        relay::carry(&process, connection).await;
    }
}

/// Makes one and listens there.
fn listen(directory: &Path, socket: &Socket) -> io::Result<Descriptor> {
    fs::create_dir_all(directory)?;
    // Bound under a name that fits into an address, which the path that it is to have may not.
    let unfinished = directory.join(UNFINISHED);
    let listener = UnixListener::bind(&unfinished)?;
    let finish = || {
        chown(&unfinished, Some(socket.uid), Some(socket.gid))?;
        fs::set_permissions(&unfinished, Permissions::from_mode(socket.mode & 0o7777))?;
        fs::rename(&unfinished, directory.join(&socket.name))?;
        Descriptor::new(OwnedFd::from(listener))
    };
    finish().inspect_err(|_| drop(fs::remove_file(&unfinished)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    /// Sockets of containers `c` and `d`, in a directory whose path is as long as an address allows.
    fn sockets() -> (tempfile::TempDir, Arc<HostSockets>, String) {
        let directory = tempfile::tempdir().unwrap();
        let sockets = Arc::new(HostSockets::new(directory.path().join("sockets")));
        let long = "x".repeat(200);
        let socket = |name: &str| Socket {
            name: name.into(),
            mode: 0o620,
            gid: own_group(),
            uid: own_user(),
            ..Default::default()
        };
        sockets.make("c", &[socket("c.0"), socket(&long)]).unwrap();
        sockets.make("d", &[socket("d.0")]).unwrap();
        (directory, sockets, long)
    }

    fn own_user() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn own_group() -> u32 {
        rustix::process::getegid().as_raw()
    }

    /// The host's connection that waits for whoever connects to a socket.
    async fn waiting(sockets: &Arc<HostSockets>, name: &str) -> UnixStream {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let theirs = Descriptor::new(theirs.into_std().unwrap().into()).unwrap();
        tokio::spawn(Arc::clone(sockets).receive(theirs));
        ours.write_all(&encode_socket_name(name).unwrap()).await.unwrap();
        ours
    }

    async fn is_closed(stream: &mut UnixStream) -> bool {
        matches!(stream.read(&mut [0]).await, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn owners_permissions_and_names_are_the_hosts() {
        let (directory, sockets, long) = sockets();
        let names = || {
            let entries = fs::read_dir(directory.path().join("sockets")).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["c.0", "d.0", &long]);
        let status = fs::metadata(directory.path().join("sockets/c.0")).unwrap();
        assert!(status.file_type().is_socket());
        assert_eq!((status.mode() & 0o7777, status.uid(), status.gid()), (0o620, own_user(), own_group()));
        sockets.remove("c").unwrap();
        sockets.remove("c").unwrap();
        assert_eq!(names(), ["d.0"]);
    }

    #[tokio::test]
    async fn what_is_said_arrives_both_ways_and_so_do_its_ends() {
        let (directory, sockets, _) = sockets();
        let path = directory.path().join("sockets/c.0");
        for _ in 0..2 {
            let mut host = waiting(&sockets, "c.0").await;
            let mut process = UnixStream::connect(&path).await.unwrap();
            assert_eq!(host.read_u8().await.unwrap(), CALLED);
            host.write_all(&[ANSWERED]).await.unwrap();
            let said: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
            let say = async {
                process.write_all(&said).await.unwrap();
                process.shutdown().await.unwrap();
            };
            let mut heard = Vec::new();
            tokio::join!(say, async { host.read_to_end(&mut heard).await.unwrap() });
            assert!(heard == said);
            host.write_all(b"answer").await.unwrap();
            drop(host);
            let mut answer = String::new();
            process.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer");
        }
    }

    #[tokio::test]
    async fn who_isnt_answered_is_hung_up_on() {
        let (directory, sockets, _) = sockets();
        let mut host = waiting(&sockets, "d.0").await;
        let mut process = UnixStream::connect(directory.path().join("sockets/d.0")).await.unwrap();
        assert_eq!(host.read_u8().await.unwrap(), CALLED);
        drop(host);
        assert!(is_closed(&mut process).await);
        assert!(process.write_all(b"x").await.is_err());
    }

    #[tokio::test]
    async fn a_host_that_has_gone_takes_nobody_with_it() {
        let (directory, sockets, _) = sockets();
        drop(waiting(&sockets, "d.0").await);
        let mut speaks = waiting(&sockets, "d.0").await;
        speaks.write_all(&[ANSWERED]).await.unwrap();
        assert!(is_closed(&mut speaks).await);
        let mut host = waiting(&sockets, "d.0").await;
        let _process = UnixStream::connect(directory.path().join("sockets/d.0")).await.unwrap();
        assert_eq!(host.read_u8().await.unwrap(), CALLED);
    }

    #[tokio::test]
    async fn with_its_container_a_socket_ends_and_what_is_said_through_it() {
        let (directory, sockets, _) = sockets();
        let path = directory.path().join("sockets/c.0");
        let mut talking = waiting(&sockets, "c.0").await;
        let mut process = UnixStream::connect(&path).await.unwrap();
        assert_eq!(talking.read_u8().await.unwrap(), CALLED);
        talking.write_all(&[ANSWERED, b'x']).await.unwrap();
        assert_eq!(process.read_u8().await.unwrap(), b'x');
        let mut waits = waiting(&sockets, "c.0").await;
        let mut other = waiting(&sockets, "d.0").await;
        // Until it was heard.
        let mut second = UnixStream::connect(&path).await.unwrap();
        assert_eq!(waits.read_u8().await.unwrap(), CALLED);
        let mut waits_still = waiting(&sockets, "c.0").await;
        sockets.remove("c").unwrap();
        for stream in [&mut talking, &mut process, &mut second, &mut waits, &mut waits_still] {
            assert!(is_closed(stream).await);
        }
        assert!(UnixStream::connect(&path).await.is_err());
        assert!(is_closed(&mut waiting(&sockets, "c.0").await).await);
        let _process = UnixStream::connect(directory.path().join("sockets/d.0")).await.unwrap();
        assert_eq!(other.read_u8().await.unwrap(), CALLED);
    }

    #[tokio::test]
    async fn names_are_names_and_their_own() {
        let (_directory, sockets, long) = sockets();
        let make = |name: &str| sockets.make("e", &[Socket { name: name.into(), ..Default::default() }]);
        for name in ["", ".", "..", UNFINISHED, "/etc", "a/b", &"x".repeat(256)] {
            assert!(matches!(make(name), Err(SocketsError::Name { .. })), "{name:?}");
        }
        assert!(matches!(make(&long), Err(SocketsError::Taken { .. })));
        let many = vec![Socket::default(); MAX_SOCKETS + 1];
        assert!(matches!(sockets.make("e", &many), Err(SocketsError::TooMany)));
    }
}
