use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener as StdListener};
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::{Mutex, mpsc};

use super::*;
use crate::volumes::Access;

/// A guest whose processes connect when they are told to.
struct Fake(Mutex<mpsc::Receiver<UnixStream>>);

#[async_trait::async_trait]
impl Guest for Fake {
    async fn call(&self, name: &[u8; SOCKET_NAME_BYTES]) -> Result<UnixStream, NoCall> {
        assert_eq!(agent_proto::decode_socket_name(name), Some("c.1"));
        self.0.lock().await.recv().await.ok_or(NoCall::Gone)
    }
}

/// A directory with a socket `s` that is served, and processes that connect.
struct Bench {
    directory: tempfile::TempDir,
    processes: mpsc::Sender<UnixStream>,
    served: ServedSockets,
}

fn volume(name: &str, source: &Path) -> Volume {
    let source = source.to_owned();
    Volume { name: name.into(), source, recursive: true, access: Access::Full, follows_host: false }
}

impl Bench {
    /// With what is at `s`.
    fn new<T>(make: impl FnOnce(&Path) -> T) -> (Self, T) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let made = make(&path);
        let mut volumes = vec![volume("c.0", directory.path()), volume("c.1", &path)];
        let sockets = HostSockets::take(&mut volumes).unwrap();
        assert_eq!(volumes, [volume("c.0", directory.path())]);
        let (processes, calls) = mpsc::channel(1);
        let guest: Arc<dyn Guest> = Arc::new(Fake(Mutex::new(calls)));
        let served = sockets.serve(&guest);
        (Self { directory, processes, served }, made)
    }

    /// A process connects. Its connection, and whether it was answered.
    async fn connect(&self) -> (UnixStream, bool) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        self.processes.send(theirs).await.unwrap();
        let is_answered = match ours.read_u8().await {
            Ok(answer) => answer == ANSWERED,
            Err(_closed) => false,
        };
        (ours, is_answered)
    }
}

async fn echo(listener: UnixListener) {
    while let Ok((mut peer, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).await.unwrap();
            peer.write_all(&all).await.unwrap();
        });
    }
}

#[test]
fn a_likeness_has_the_owner_and_permissions_of_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let _listener = StdListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    std::os::unix::fs::symlink(&path, directory.path().join("link")).unwrap();
    let mut volumes = vec![volume("c.0", &directory.path().join("link"))];
    let sockets = HostSockets::take(&mut volumes).unwrap();
    let likenesses = sockets.likenesses();
    let [likeness] = likenesses.as_slice() else { panic!("{likenesses:?}") };
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!((likeness.name.as_str(), likeness.mode, (likeness.uid, likeness.gid)), ("c.0", 0o660, own));
    let error = HostSockets::take(&mut vec![volume("c.0", &directory.path().join("missing"))]).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::NotFound);
    let error = HostSockets::take(&mut vec![volume(&"x".repeat(256), &path)]).unwrap_err();
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[tokio::test]
async fn what_is_said_arrives_both_ways_and_so_do_its_ends() {
    let (bench, listener) = Bench::new(|path| UnixListener::bind(path).unwrap());
    tokio::spawn(echo(listener));
    let said: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
    // All are there before the first has said all.
    let mut processes = Vec::new();
    for _ in 0..3 {
        let (mut process, is_answered) = bench.connect().await;
        assert!(is_answered);
        process.write_all(&said[..1000]).await.unwrap();
        processes.push(process);
    }
    for process in &mut processes {
        process.write_all(&said[1000..]).await.unwrap();
        process.shutdown().await.unwrap();
        let mut heard = Vec::new();
        process.read_to_end(&mut heard).await.unwrap();
        assert!(heard == said);
    }
}

#[tokio::test]
async fn a_socket_is_what_it_was_whatever_takes_its_place() {
    let (bench, listener) = Bench::new(|path| UnixListener::bind(path).unwrap());
    let path = bench.directory.path().join("s");
    fs::rename(&path, bench.directory.path().join("moved")).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    let (mut process, is_answered) = bench.connect().await;
    assert!(is_answered);
    listener.accept().await.unwrap().0.write_all(b"the first").await.unwrap();
    let mut heard = String::new();
    process.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "the first");
    // Nobody has it any more, as after a restart of the server.
    drop(listener);
    assert!(!bench.connect().await.1);
}

#[tokio::test]
async fn what_is_no_stream_is_not_answered() {
    let (bench, _socket) = Bench::new(|path| UnixDatagram::bind(path).unwrap());
    assert!(!bench.connect().await.1);
    let error = io::Error::from_raw_os_error(libc::EPROTOTYPE);
    assert!(in_words(&error).contains("only streams"));
}

#[tokio::test]
async fn a_listener_whose_queue_is_full_is_waited_for() {
    let (bench, listener) = Bench::new(|path| {
        let listener =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &rustix::net::SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        StdListener::from(listener)
    });
    let first = bench.connect().await;
    let (second, accepted) = tokio::join!(bench.connect(), async {
        // Longer than it takes to find that there is no room.
        sleep(2 * LOOK_EVERY).await;
        listener.accept().unwrap()
    });
    assert!(first.1 && second.1);
    drop(accepted);
}

#[tokio::test]
async fn no_more_are_connected_than_there_is_room_for() {
    let (bench, listener) = Bench::new(|path| UnixListener::bind(path).unwrap());
    tokio::spawn(echo(listener));
    let mut open = Vec::new();
    for _ in 0..MAX_OPEN {
        let (process, is_answered) = bench.connect().await;
        assert!(is_answered);
        open.push(process);
    }
    let one_more = bench.connect();
    tokio::pin!(one_more);
    assert!(timeout(Duration::from_millis(100), &mut one_more).await.is_err());
    drop(open.pop());
    assert!(one_more.await.1);
}

#[tokio::test]
async fn connections_end_when_they_are_served_no_more() {
    let (bench, listener) = Bench::new(|path| UnixListener::bind(path).unwrap());
    let (mut process, _) = bench.connect().await;
    let (mut peer, _) = listener.accept().await.unwrap();
    let Bench { processes, served, directory: _directory } = bench;
    drop(served);
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(process.read(&mut [0]).await.unwrap(), 0);
    processes.closed().await;
}

#[tokio::test]
async fn with_its_vm_all_ends() {
    let (bench, _listener) = Bench::new(|path| UnixListener::bind(path).unwrap());
    let Bench { processes, mut served, .. } = bench;
    drop(processes);
    served._tasks.join_next().await.unwrap().unwrap();
}
