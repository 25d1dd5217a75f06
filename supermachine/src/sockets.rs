//! Unix sockets of the host that a container has: who connects to the likeness of one in the guest talks to whoever
//! listens at the host's, to whom the connection is one of this process.
//!
//! Only the host opens connections to a guest. So one waits there for each socket, until a process connects
//! (`agent_proto`'s `socket.rs`).

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_proto::{ANSWERED, RESOLVER, Resolver, SOCKET_NAME_BYTES, Socket, encode_socket_name};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::relay;
use crate::vm::StreamError;
use crate::volumes::{Volume, VolumeError};

/// Most connections to the sockets of one container at a time, those that wait for a process among them. A VM has four
/// times as many for everything.
const MAX_OPEN: usize = 256;
/// How long a listener may have no room in its queue for one more.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether there is room, of which nobody tells.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a name server may take: longer than those who ask wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Where it listens.
const DNS_PORT: u16 = 53;
/// How long a guest that takes no connection is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// A guest, as the host's sockets need it.
#[async_trait::async_trait]
pub(crate) trait Guest: Send + Sync + 'static {
    /// The connection of the next process that connects to the likeness of a socket, however long it takes.
    async fn call(&self, name: &[u8; SOCKET_NAME_BYTES]) -> Result<UnixStream, NoCall>;
}

/// Nobody can connect to the likeness of a socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCall {
    /// The VM has ended.
    #[error("the virtual machine is gone")]
    Gone,
    /// No stream.
    #[error("the virtual machine can't be reached")]
    Stream(#[source] StreamError),
    /// The guest has no such socket, or no connections left.
    #[error("the guest doesn't take the connection")]
    Refused,
}

/// Sockets of one container, held as they are now whatever happens to their paths.
#[derive(Debug, Default)]
pub struct HostSockets(Vec<HostSocket>);

#[derive(Debug)]
struct HostSocket {
    target: Target,
    likeness: Socket,
    /// Its name as it travels.
    name: [u8; SOCKET_NAME_BYTES],
    /// Whether it couldn't be connected to the last time.
    is_out_of_reach: AtomicBool,
}

/// Where a connection goes.
#[derive(Debug)]
enum Target {
    Socket {
        path: PathBuf,
        file: OwnedFd,
    },
    /// The name server in a network namespace, by a connection.
    Resolver(File),
    /// The same by datagrams.
    Datagrams(File),
}

/// One that has been made.
enum Connection {
    Socket(UnixStream),
    Resolver(TcpStream),
    /// For one question and its answer.
    Datagrams(UdpSocket),
}

/// What is done for a container's sockets. Dropping it ends that, and every connection.
#[derive(Debug)]
pub struct ServedSockets {
    _tasks: JoinSet<()>,
}

impl HostSockets {
    /// Takes those that are sockets out of volumes.
    pub fn take(volumes: &mut Vec<Volume>) -> Result<Self, VolumeError> {
        let (mut sockets, mut others) = (Vec::new(), Vec::new());
        for volume in std::mem::take(volumes) {
            match HostSocket::open(&volume)? {
                Some(socket) => sockets.push(socket),
                None => others.push(volume),
            }
        }
        *volumes = others;
        Ok(Self(sockets))
    }

    /// Adds those that lead to the name server in a network namespace, at [`RESOLVER`] there, with names that begin so.
    pub fn add_resolver(&mut self, name: &str, namespace: &File) -> Result<Resolver, VolumeError> {
        let mut add = |target: fn(File) -> Target, kind| -> io::Result<String> {
            // For the agent, which is root, alone.
            let likeness = Socket { name: format!("{name}.{kind}"), mode: 0o600, ..Default::default() };
            let name = likeness.name.clone();
            self.0.push(HostSocket::new(target(namespace.try_clone()?), likeness)?);
            Ok(name)
        };
        let failed = |source: io::Error| VolumeError::Open { path: name.into(), source };
        let connections = add(Target::Resolver, "tcp").map_err(failed)?;
        let datagrams = add(Target::Datagrams, "udp").map_err(failed)?;
        Ok(Resolver { connections, datagrams, ..Default::default() })
    }

    /// Their likenesses, to be named when the container is created.
    pub fn likenesses(&self) -> Vec<Socket> {
        self.0.iter().map(|socket| socket.likeness.clone()).collect()
    }

    /// Connects who connects in the guest, from now on.
    pub(crate) fn serve(self, guest: &Arc<dyn Guest>) -> ServedSockets {
        let room = Arc::new(Semaphore::new(MAX_OPEN));
        let tasks = self.0.into_iter().map(|socket| socket.serve(Arc::clone(guest), Arc::clone(&room)));
        ServedSockets { _tasks: tasks.collect() }
    }
}

impl HostSocket {
    /// Takes hold of a volume that is a socket. None if it is something else.
    fn open(volume: &Volume) -> Result<Option<Self>, VolumeError> {
        let Volume { source: path, name, .. } = volume;
        let failed = |source| VolumeError::Open { path: path.clone(), source };
        let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let file = opened.map_err(|error| failed(error.into()))?;
        let status = fstat(&file).map_err(|error| failed(error.into()))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Socket {
            return Ok(None);
        }
        let likeness = Socket {
            name: name.clone(),
            mode: status.st_mode & 0o7777,
            uid: status.st_uid,
            gid: status.st_gid,
            ..Default::default()
        };
        Self::new(Target::Socket { path: path.clone(), file }, likeness).map(Some).map_err(failed)
    }

    fn new(target: Target, likeness: Socket) -> io::Result<Self> {
        let name = encode_socket_name(&likeness.name).ok_or(io::ErrorKind::InvalidFilename)?;
        Ok(Self { target, likeness, name, is_out_of_reach: AtomicBool::new(false) })
    }

    /// Connects who connects to its likeness, until the VM ends. Connections end with this.
    async fn serve(self, guest: Arc<dyn Guest>, room: Arc<Semaphore>) {
        let (socket, mut open) = (Arc::new(self), JoinSet::new());
        while let Ok(place) = Arc::clone(&room).acquire_owned().await {
            match guest.call(&socket.name).await {
                Ok(call) => {
                    while open.try_join_next().is_some() {}
                    open.spawn(Arc::clone(&socket).answer(call, place));
                }
                Err(NoCall::Gone) => return,
                Err(error) => {
                    debug!(socket = socket.likeness.name, "no call: {}", crate::error::chain(&error));
                    drop(place);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Carries one connection on, until both sides have said all. If nobody listens at the socket it is closed.
    async fn answer(self: Arc<Self>, mut call: UnixStream, _place: OwnedSemaphorePermit) {
        let connected = self.target.connect().await;
        let was_out_of_reach = self.is_out_of_reach.swap(connected.is_err(), Ordering::Relaxed);
        let connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                // Once, as a container may try again and again.
                if !was_out_of_reach {
                    warn!("a container doesn't reach who should listen at {}: {}", self.target, in_words(&error));
                }
                return;
            }
        };
        let carried = async {
            call.write_all(&[ANSWERED]).await?;
            match connection {
                Connection::Socket(mut listener) => relay::carry(&mut call, &mut listener).await,
                Connection::Resolver(mut server) => relay::carry(&mut call, &mut server).await,
                Connection::Datagrams(server) => {
                    timeout(ANSWER_WITHIN, carry_datagrams(&mut call, &server)).await.unwrap_or(Ok(()))
                }
            }
        };
        if let Err(error) = carried.await {
            debug!(socket = self.likeness.name, %error, "a connection ends");
        }
    }
}

impl Target {
    async fn connect(&self) -> io::Result<Connection> {
        let connected = async {
            match self {
                Self::Socket { file, .. } => connect_socket(file).await.map(Connection::Socket),
                Self::Resolver(namespace) => connect_resolver(namespace).await.map(Connection::Resolver),
                Self::Datagrams(namespace) => open_datagrams(namespace).await.map(Connection::Datagrams),
            }
        };
        timeout(CONNECT_WITHIN, connected).await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { path, .. } => path.display().fmt(f),
            Self::Resolver(_) | Self::Datagrams(_) => write!(f, "{RESOLVER} in its network namespace"),
        }
    }
}

async fn connect_socket(file: &OwnedFd) -> io::Result<UnixStream> {
    // Something else may be at its path by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    loop {
        match UnixStream::connect(&path).await {
            // The queue of those who wait for the listener is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(LOOK_EVERY).await,
            result => return result,
        }
    }
}

async fn connect_resolver(namespace: &File) -> io::Result<TcpStream> {
    let socket = socket_within(namespace, SocketType::STREAM)?;
    TcpSocket::from_std_stream(socket.into()).connect((RESOLVER, DNS_PORT).into()).await
}

async fn open_datagrams(namespace: &File) -> io::Result<UdpSocket> {
    let socket = UdpSocket::from_std(socket_within(namespace, SocketType::DGRAM)?.into())?;
    socket.connect((RESOLVER, DNS_PORT)).await?;
    Ok(socket)
}

/// A socket in a network namespace, made in a thread that ends with it.
fn socket_within(namespace: &File, kind: SocketType) -> io::Result<OwnedFd> {
    let make = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(socket_with(AddressFamily::INET, kind, flags, None)?)
    };
    let made = std::thread::scope(|scope| scope.spawn(make).join());
    made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Carries one question and its answer, each of which follows its length in the guest's connection.
async fn carry_datagrams(call: &mut UnixStream, server: &UdpSocket) -> io::Result<()> {
    let mut question = vec![0; call.read_u16().await?.into()];
    call.read_exact(&mut question).await?;
    server.send(&question).await?;
    let mut answer = vec![0; u16::MAX.into()];
    let length = server.recv(&mut answer).await?;
    answer.truncate(length);
    call.write_u16(u16::try_from(length).unwrap_or(u16::MAX)).await?;
    call.write_all(&answer).await
}

fn in_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPROTOTYPE) => "it is a socket for datagrams or packets; only streams are carried".to_owned(),
        Some(libc::ECONNREFUSED) => "nobody has that socket open; if another has taken its place, make the container \
                                     anew"
            .to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
