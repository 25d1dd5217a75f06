//! The name server that an engine has for a container in the container's network namespace on the host, as Docker has at
//! 127.0.0.11: what is asked at the same address here is passed on to it, through likenesses of sockets that lead there.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_proto::{RESOLVER, Resolver};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UdpSocket, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::descriptor::Descriptor;
use crate::namespace::within;
use crate::relay;

/// Most questions and connections that are open at a time.
const MAX_OPEN: usize = 64;
/// How long an answer may take: longer than those who ask wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Longest question in a datagram, in bytes: what RFC 6891 (6.2.5) has as the longest that is useful.
const QUESTION_BYTES: usize = 4096;
/// Passes questions on until it is dropped.
#[derive(Debug)]
pub(crate) struct RunningResolver {
    _tasks: JoinSet<()>,
}

impl RunningResolver {
    /// Listens in the network namespace of containers. The sockets that lead to the name server are in a directory.
    pub(crate) fn start(network: Option<&Path>, directory: &Path, server: &Resolver) -> io::Result<Self> {
        Self::start_at(SocketAddr::new(RESOLVER.into(), 53), network, directory, server)
    }

    fn start_at(address: SocketAddr, network: Option<&Path>, directory: &Path, server: &Resolver) -> io::Result<Self> {
        let (datagrams, connections) =
            within(network, || Ok((StdUdpSocket::bind(address)?, StdTcpListener::bind(address)?)))?;
        datagrams.set_nonblocking(true)?;
        let room = Arc::new(Semaphore::new(MAX_OPEN));
        let mut tasks = JoinSet::new();
        let (datagrams, connections) = (UdpSocket::from_std(datagrams)?, Descriptor::new(OwnedFd::from(connections))?);
        tasks.spawn(answer_datagrams(datagrams, directory.join(&server.datagrams), Arc::clone(&room)));
        tasks.spawn(answer_connections(connections, directory.join(&server.connections), room));
        Ok(Self { _tasks: tasks })
    }
}

async fn answer_datagrams(socket: UdpSocket, likeness: PathBuf, room: Arc<Semaphore>) {
    let (socket, mut open) = (Arc::new(socket), JoinSet::new());
    let mut buffer = vec![0; QUESTION_BYTES];
    loop {
        // An error is about a datagram before, whose receiver is gone.
        let Ok((length, asker)) = socket.recv_from(&mut buffer).await else { continue };
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        while open.try_join_next().is_some() {}
        // Who gets no answer asks again.
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        open.spawn(answer_datagram(Arc::clone(&socket), asker, question, likeness.clone(), place));
    }
}

async fn answer_datagram(
    socket: Arc<UdpSocket>,
    asker: SocketAddr,
    question: Vec<u8>,
    likeness: PathBuf,
    _place: OwnedSemaphorePermit,
) {
    if let Ok(Ok(answer)) = timeout(ANSWER_WITHIN, ask(&likeness, &question)).await {
        // Who asked may be gone.
        let _unheard = socket.send_to(&answer, asker).await;
    }
}

async fn ask(likeness: &Path, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = UnixStream::connect(likeness).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    server.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; server.read_u16().await?.into()];
    server.read_exact(&mut answer).await?;
    Ok(answer)
}

async fn answer_connections(listener: Descriptor, likeness: PathBuf, room: Arc<Semaphore>) {
    let mut open = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let connection = listener.next_connection("who asks for a name").await;
        while open.try_join_next().is_some() {}
        open.spawn(pass_on(connection, likeness.clone(), place));
    }
}

async fn pass_on(connection: Descriptor, likeness: PathBuf, _place: OwnedSemaphorePermit) {
    let reached = async {
        let server = UnixStream::connect(&likeness).await?.into_std()?;
        Descriptor::new(OwnedFd::from(server))
    };
    if let Ok(server) = reached.await {
        relay::carry(&connection, &server).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpStream, UnixListener};

    use super::*;

    /// Answers each question with itself twice, after the name of who answers.
    async fn serve(listener: UnixListener, name: &'static [u8]) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut question = vec![0; length.into()];
                    stream.read_exact(&mut question).await.unwrap();
                    let answer = [name, &question, &question].concat();
                    stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    }

    fn resolver() -> (tempfile::TempDir, SocketAddr, RunningResolver) {
        let directory = tempfile::tempdir().unwrap();
        for name in ["connections", "datagrams"] {
            tokio::spawn(serve(UnixListener::bind(directory.path().join(name)).unwrap(), name.as_bytes()));
        }
        let free = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let server =
            Resolver { connections: "connections".into(), datagrams: "datagrams".into(), ..Default::default() };
        let resolver = RunningResolver::start_at(free, None, directory.path(), &server).unwrap();
        (directory, free, resolver)
    }

    #[tokio::test]
    async fn datagrams_are_answered_until_the_end() {
        let (_directory, address, resolver) = resolver();
        let asker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        asker.connect(address).await.unwrap();
        for question in [&b"one"[..], b"", &[7; 600]] {
            asker.send(question).await.unwrap();
            let mut answer = vec![0; 4096];
            let length = asker.recv(&mut answer).await.unwrap();
            assert_eq!(answer[..length], [b"datagrams", question, question].concat());
        }
        drop(resolver);
        // The tasks' end is asynchronous.
        while StdUdpSocket::bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_asks_a_server_that_is_gone_gets_no_answer_and_the_next_one_does() {
        let (directory, address, _resolver) = resolver();
        let asker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        asker.connect(address).await.unwrap();
        let (path, hidden) = (directory.path().join("datagrams"), directory.path().join("hidden"));
        std::fs::rename(&path, &hidden).unwrap();
        asker.send(b"lost").await.unwrap();
        let mut answer = [0; 100];
        timeout(Duration::from_millis(100), asker.recv(&mut answer)).await.unwrap_err();
        std::fs::rename(&hidden, &path).unwrap();
        asker.send(b"x").await.unwrap();
        assert_eq!(asker.recv(&mut answer).await.unwrap(), b"datagramsxx".len());
    }

    #[tokio::test]
    async fn connections_are_passed_on() {
        let (_directory, address, _resolver) = resolver();
        let mut stream = TcpStream::connect(address).await.unwrap();
        for question in [&b"one"[..], &[7; 30_000]] {
            stream.write_u16(question.len().try_into().unwrap()).await.unwrap();
            stream.write_all(question).await.unwrap();
            let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, [b"connections", question, question].concat());
        }
    }
}
