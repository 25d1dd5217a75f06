//! What is dialled on the host at an address of this machine's network, its loopback addresses among them: each
//! connection to the dial port is carried on to whoever listens here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use agent_proto::{DIAL_BYTES, DIALLED, decode_dial};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::descriptor::Descriptor;
use crate::namespace::within;
use crate::relay;

/// How long a connection may take to say where it goes, and to get there.
const DEADLINE: Duration = Duration::from_secs(10);

/// Carries connections on for ever. `network` answers which network namespace containers are in, if it isn't this one.
pub(crate) async fn run(listener: Descriptor, network: impl Fn() -> Option<PathBuf>) {
    loop {
        let connection = listener.next_connection("what is dialled").await;
        drop(tokio::spawn(carry(connection, network())));
    }
}

/// Carries one connection on, until both sides have said all or one of them is gone. One that leads nowhere is closed.
async fn carry(connection: Descriptor, network: Option<PathBuf>) {
    let dialled = async {
        let mut address = [0; DIAL_BYTES];
        connection.read_exact(&mut address).await?;
        dial(decode_dial(address), network).await
    };
    let Ok(Ok(stream)) = timeout(DEADLINE, dialled).await else { return };
    let reached = async {
        stream.set_nodelay(true)?;
        let stream = Descriptor::new(OwnedFd::from(stream.into_std()?))?;
        connection.write_all(&[DIALLED]).await.map(|()| stream)
    };
    let Ok(stream) = reached.await else { return };
    relay::carry(&connection, &stream).await;
}

/// Connects to whoever listens at an address. "Localhost" is two addresses: who dials the one may find the listener at
/// the other, as after a refusal he can't try again.
async fn dial(address: SocketAddr, network: Option<PathBuf>) -> io::Result<TcpStream> {
    match (connect(address, network.clone()).await, twin(address)) {
        (Err(_refused), Some(twin)) => connect(twin, network).await,
        (result, _) => result,
    }
}

/// The address by which the other family calls this machine.
fn twin(address: SocketAddr) -> Option<SocketAddr> {
    let other: IpAddr = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.into(),
        _ => return None,
    };
    Some(SocketAddr::new(other, address.port()))
}

async fn connect(address: SocketAddr, network: Option<PathBuf>) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = within(network.as_deref(), || Ok(socket_with(family, SocketType::STREAM, flags, None)?))?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};
    use std::os::unix::net::UnixStream as StdStream;
    use std::thread::JoinHandle;

    use agent_proto::encode_dial;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    /// A connection to the dial port, and the task that serves it.
    fn dialled(address: SocketAddr) -> (UnixStream, tokio::task::JoinHandle<()>) {
        let (mut ours, theirs) = StdStream::pair().unwrap();
        io::Write::write_all(&mut ours, &encode_dial(address)).unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(ours).unwrap();
        let task = tokio::spawn(carry(Descriptor::new(theirs.into()).unwrap(), None));
        (stream, task)
    }

    /// Serves one connection: answers with what it was sent, once all of that has come.
    fn echo(at: &str) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind(at).unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            io::Read::read_to_end(&mut stream, &mut all).unwrap();
            io::Write::write_all(&mut stream, &all).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        (address, server)
    }

    #[tokio::test]
    async fn all_that_is_said_arrives_both_ways_and_so_do_its_ends() {
        let (address, server) = echo("127.0.0.1:0");
        let (mut stream, task) = dialled(address);
        assert_eq!(stream.read_u8().await.unwrap(), DIALLED);
        let said: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
        let (mut read, mut write) = stream.split();
        let mut heard = Vec::new();
        let say = async {
            write.write_all(&said).await.unwrap();
            write.shutdown().await.unwrap();
        };
        tokio::join!(say, async { read.read_to_end(&mut heard).await.unwrap() });
        assert!(heard == said);
        task.await.unwrap();
        server.join().unwrap();
    }

    #[tokio::test]
    async fn localhost_is_either_address() {
        if TcpListener::bind("[::1]:0").is_err() {
            return eprintln!("this machine has no IPv6");
        }
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (address, server) = echo(at);
            let (mut stream, task) = dialled(twin(address).unwrap());
            assert_eq!(stream.read_u8().await.unwrap(), DIALLED, "{address}");
            drop(stream);
            task.await.unwrap();
            server.join().unwrap();
        }
        assert_eq!(twin("127.0.0.2:80".parse().unwrap()), None);
    }

    #[tokio::test]
    async fn where_nobody_listens_the_connection_is_closed() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (mut stream, task) = dialled(nobody);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        task.await.unwrap();
    }
}
