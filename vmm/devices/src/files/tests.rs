//! A FUSE client of a few words (kernel: include/uapi/linux/fuse.h).

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::process::{chdir, chroot, geteuid};
use tempfile::TempDir;

use super::FileServer;
use crate::driver::{DriverQueue, Piece, bring_up, get, kick, put, ram, readable, wait_complete, writable};
use crate::layout::{FILES_SLOT, NOTICES_ABSENT, NOTICES_DIRECTORY, NOTICES_FILE, NOTICES_UID};
use crate::{Backings, DeviceError, DeviceSet, GuestRam, Window};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const READLINK: u32 = 5;
const MKNOD: u32 = 8;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RMDIR: u32 = 11;
const OPEN: u32 = 14;
const READ: u32 = 15;
const SETXATTR: u32 = 21;
const INIT: u32 = 26;
const READDIR: u32 = 28;
const CREATE: u32 = 35;
const FALLOCATE: u32 = 43;
const READDIRPLUS: u32 = 44;
/// A flag: about an open file.
const GETATTR_FH: u64 = 1;
/// Past the last word.
const WORDS: u32 = 53;

const ROOT: u64 = 1;
const HEADER_BYTES: usize = 16;
const QUESTION: u64 = 0x40_000;
const ANSWER: u64 = 0x80_000;

struct Client {
    ram: GuestRam,
    set: DeviceSet,
    requests: DriverQueue,
    /// User and group that ask.
    asks: (u32, u32),
}

impl Client {
    fn new(files: Option<FileServer>) -> Self {
        let ram = ram();
        let set = DeviceSet::new(ram.clone(), &Window::default(), Backings { files, ..Backings::default() }).unwrap();
        let (urgent, requests) = (DriverQueue::new(&ram, 0x10_000, 64), DriverQueue::new(&ram, 0x20_000, 256));
        bring_up(&set, FILES_SLOT, &[&urgent, &requests]);
        set.start(|| (), || ()).unwrap();
        Self { ram, set, requests, asks: (0, 0) }
    }

    /// A client of a server, the two of which have said hello.
    fn of(root: &str, open_files: File) -> Self {
        let mut client = Self::new(Some(FileServer::new(root, open_files, 1024).unwrap()));
        let hello = [7_u32, 38, 0, 1 << 27].map(u32::to_le_bytes).concat();
        client.ask(INIT, 0, &hello, 64).unwrap();
        client
    }

    fn pieces(&self, word: u32, node: u64, body: &[u8], room: u32) -> Vec<Piece> {
        let length = 40 + body.len() as u32;
        let mut question = [length.to_le_bytes(), word.to_le_bytes()].concat();
        question.extend([7_u64, node].map(u64::to_le_bytes).concat());
        question.extend([self.asks.0, self.asks.1, 0, 0].map(u32::to_le_bytes).concat());
        question.extend(body);
        put(&self.ram, QUESTION, &question);
        put(&self.ram, ANSWER, &[0; HEADER_BYTES]);
        let mut pieces = vec![readable(QUESTION, length)];
        pieces.extend((room > 0).then(|| writable(ANSWER, room)));
        pieces
    }

    fn send(&mut self, pieces: &[Piece]) -> u32 {
        let (head, wanted) = self.requests.offer(pieces);
        if wanted {
            kick(&self.set, FILES_SLOT, 1);
        }
        let (answered, written) = wait_complete(&self.set, FILES_SLOT, &mut self.requests);
        assert_eq!(answered, head);
        written
    }

    /// What follows the answer's header, or the error in it.
    fn ask(&mut self, word: u32, node: u64, body: &[u8], room: u32) -> Result<Vec<u8>, i32> {
        let pieces = self.pieces(word, node, body, HEADER_BYTES as u32 + room);
        let written = self.send(&pieces) as usize;
        let answer = get(&self.ram, ANSWER, written.max(HEADER_BYTES));
        let field = |at: usize| <[u8; 4]>::try_from(&answer[at..at + 4]).unwrap();
        assert_eq!(u32::from_le_bytes(field(0)) as usize, written);
        assert_eq!(answer[8], 7, "the request's number");
        match i32::from_le_bytes(field(4)) {
            0 => Ok(answer[HEADER_BYTES..].to_vec()),
            error => Err(-error),
        }
    }

    /// A name's node, and its inode on the host.
    fn look_up(&mut self, node: u64, name: &str) -> Result<(u64, u64), i32> {
        let entry = self.ask(LOOKUP, node, &name_of(name), 128)?;
        let field = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
        let half = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        // Asked by the agent, everything is pretended.
        let is_directory = half(100) & libc::S_IFMT == libc::S_IFDIR && self.asks.0 == 0;
        let moment = u32::from(is_directory);
        assert_eq!(
            (field(16), field(24), half(32), half(36)),
            (0, 0, moment, moment),
            "only directories hold, a moment"
        );
        Ok((field(0), field(40)))
    }
}

fn name_of(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

fn open_files() -> File {
    File::open("/proc/self/fd").unwrap()
}

/// A directory to be shared, with a file and links that lead out of it, beside a secret.
fn shared() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "content").unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    symlink(dir.path(), shared.join("up")).unwrap();
    symlink("../secret", shared.join("link")).unwrap();
    (dir, shared.to_str().unwrap().to_owned())
}

#[test]
fn a_file_is_read() {
    let (_dir, shared) = shared();
    let mut client = Client::of(&shared, open_files());
    let (node, inode) = client.look_up(ROOT, "file").unwrap();
    assert_eq!(inode, fs::metadata(Path::new(&shared).join("file")).unwrap().ino());
    let handle = client.ask(OPEN, node, &[0; 8], 16).unwrap()[..8].to_vec();
    let read = [handle, 2_u64.to_le_bytes().to_vec(), 100_u32.to_le_bytes().to_vec(), vec![0; 20]].concat();
    assert_eq!(client.ask(READ, node, &read, 100).unwrap(), b"ntent");
    assert_eq!(client.look_up(ROOT, "missing"), Err(libc::ENOENT));
}

#[test]
fn attributes_of_files_hold_for_no_time_but_those_of_new_and_open_ones() {
    let (_dir, shared) = shared();
    let mut client = Client::of(&shared, open_files());
    let (file, _) = client.look_up(ROOT, "file").unwrap();
    let opened = client.ask(OPEN, file, &[0; 8], 16).unwrap()[..8].to_vec();
    for (node, flags, moment) in [(file, 0, 0), (ROOT, 0, 1), (file, GETATTR_FH, 1)] {
        let request = [&flags.to_le_bytes()[..], &opened].concat();
        let attributes = client.ask(GETATTR, node, &request, 104).unwrap();
        assert_eq!(attributes[..12], [&[0; 8][..], &u32::to_le_bytes(moment)].concat());
    }
    let request = [libc::O_CREAT | libc::O_WRONLY, 0o600, 0, 0].map(i32::to_le_bytes).concat();
    let created = client.ask(CREATE, ROOT, &[request, name_of("new")].concat(), 144).unwrap();
    assert_eq!(created[16..40], [&[0; 20][..], &u32::to_le_bytes(1)].concat());
}

#[test]
fn names_and_links_lead_nowhere_else() {
    let (dir, shared) = shared();
    let secret = fs::metadata(dir.path().join("secret")).unwrap().ino();
    let mut client = Client::of(&shared, open_files());
    let secret_path = dir.path().join("secret");
    for name in ["../secret", "up/secret", "./../secret", "nothing/../../secret", secret_path.to_str().unwrap()] {
        assert_eq!(client.look_up(ROOT, name), Err(libc::ENOENT), "{name}");
    }
    let above = client.look_up(ROOT, "..").unwrap();
    assert_eq!(above.1, fs::metadata(&shared).unwrap().ino());
    let (link, inode) = client.look_up(ROOT, "link").unwrap();
    assert_ne!(inode, secret, "a link is a link");
    assert_eq!(client.ask(READLINK, link, &[], 100).unwrap(), b"../secret");
    client.ask(OPEN, link, &[0; 8], 16).unwrap_err();
}

/// What the agent repeats for the guest's kernel to tell of: nothing of it happens.
#[test]
fn notices_change_nothing() {
    let (_dir, shared) = shared();
    let mut client = Client::of(&shared, open_files());
    let kind = |entry: &[u8]| u32::from_le_bytes(entry[100..104].try_into().unwrap()) & libc::S_IFMT;
    client.asks = (NOTICES_UID, NOTICES_ABSENT);
    assert_eq!(client.look_up(ROOT, "file"), Err(libc::ENOENT));
    let made = client.ask(MKNOD, ROOT, &[vec![0; 16], name_of("made")].concat(), 128).unwrap();
    let made_directory = client.ask(MKDIR, ROOT, &[vec![0; 8], name_of("directory")].concat(), 128).unwrap();
    assert_eq!((kind(&made), kind(&made_directory)), (libc::S_IFREG, libc::S_IFDIR));
    assert_ne!(made[..8], made_directory[..8], "each is another file");
    client.asks.1 = NOTICES_FILE;
    assert_ne!(client.look_up(ROOT, "gone").unwrap(), client.look_up(ROOT, "gone").unwrap());
    client.ask(UNLINK, ROOT, &name_of("file"), 0).unwrap();
    client.ask(RMDIR, ROOT, &name_of("up"), 0).unwrap();
    client.asks.1 = 0;
    let (node, inode) = client.look_up(ROOT, "file").unwrap();
    assert_eq!(inode, fs::metadata(Path::new(&shared).join("file")).unwrap().ino());
    let opened = client.ask(OPEN, node, &libc::O_TRUNC.to_le_bytes().repeat(2), 16).unwrap();
    client.ask(FALLOCATE, node, &[&opened[..8], &[1; 24]].concat(), 0).unwrap();
    client.ask(SETXATTR, node, &[&[0; 8][..], b"user.a\0"].concat(), 0).unwrap();
    assert_eq!(fs::read(Path::new(&shared).join("file")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 3);
}

/// Whoever is in a directory would find itself nowhere.
#[test]
fn a_directory_that_somebody_knows_is_not_made_again() {
    let (_dir, shared) = shared();
    fs::create_dir(Path::new(&shared).join("directory")).unwrap();
    let mut client = Client::of(&shared, open_files());
    let known = client.look_up(ROOT, "directory").unwrap();
    client.asks = (NOTICES_UID, NOTICES_ABSENT);
    assert_eq!(client.look_up(ROOT, "directory"), Ok(known));
    client.asks.1 = NOTICES_DIRECTORY;
    assert_ne!(client.look_up(ROOT, "directory"), Ok(known), "it is gone");
    client.asks.1 = NOTICES_ABSENT;
    assert_eq!(client.look_up(ROOT, "directory"), Err(libc::ENOENT));
}

#[test]
fn without_a_server_there_is_nothing() {
    let mut client = Client::new(None);
    assert_eq!(client.ask(INIT, 0, &[0; 16], 64), Err(libc::ENODEV));
    let forget = client.pieces(FORGET, ROOT, &[0; 8], 0);
    assert_eq!(client.send(&forget), 0, "needs no answer");
}

#[test]
fn a_session_can_not_be_saved() {
    let (_dir, shared) = shared();
    let (fresh, used) = (Client::new(None), Client::of(&shared, open_files()));
    fresh.set.quiesce().unwrap();
    fresh.set.save().unwrap();
    used.set.quiesce().unwrap();
    assert!(matches!(used.set.save(), Err(DeviceError::Mounted)));
}

/// Does something with a server as a VMM has it, whose process has no other files. In a thread of its own, as the root
/// directory is the process's otherwise.
fn jailed(act: impl FnOnce(Client) + Send) {
    if !geteuid().is_root() {
        return eprintln!("not root: the root directory can't be changed");
    }
    let (dir, shared) = shared();
    std::thread::scope(|scope| {
        let jailed = scope.spawn(|| {
            let open_files = open_files();
            unshare(CloneFlags::CLONE_FS).unwrap();
            chroot(&shared).and_then(|()| chdir("/")).unwrap();
            act(Client::of("/", open_files));
        });
        jailed.join().unwrap();
    });
    assert_eq!(fs::read(dir.path().join("secret")).unwrap(), b"secret");
    let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(beside.len(), 2, "{beside:?}");
}

#[test]
fn a_request_without_room_for_an_answer_gets_none() {
    let (_dir, shared) = shared();
    let mut client = Client::of(&shared, open_files());
    for word in [READ, READDIR, READDIRPLUS] {
        for room in [0, HEADER_BYTES as u32 - 1] {
            let pieces = client.pieces(word, ROOT, &[0; 40], room);
            assert_eq!(client.send(&pieces), 0);
        }
    }
    client.look_up(ROOT, "file").unwrap();
}

#[test]
fn a_jail_keeps_what_names_would_change_elsewhere() {
    jailed(|mut client| {
        client.ask(UNLINK, ROOT, &name_of("../secret"), 0).unwrap_err();
        client.ask(UNLINK, ROOT, &name_of("up/secret"), 0).unwrap_err();
        let mode = [0o755_u32, 0].map(u32::to_le_bytes).concat();
        // It is made, but inside.
        client.ask(MKDIR, ROOT, &[mode, name_of("../beside")].concat(), 128).unwrap();
        client.look_up(ROOT, "beside").unwrap();
    });
}

#[test]
fn any_request_is_answered() {
    jailed(|mut client| {
        client.look_up(ROOT, "file").unwrap();
        let client = RefCell::new(client);
        let users = prop::sample::select(vec![0, NOTICES_UID]);
        let body = prop::collection::vec(any::<u8>(), 0..96);
        let requests = (0..WORDS, 0..6_u64, body, 0..200_u32, any::<bool>(), (users, 0..5_u32));
        // One that isn't answered leaves a client that can't ask anything else.
        let config = Config { max_shrink_iters: 0, ..Config::default() };
        let tried = TestRunner::new(config).run(&requests, |(word, node, mut body, room, has_name, asks)| {
            if has_name {
                body.extend(b"up\0file\0");
            }
            let mut client = client.borrow_mut();
            client.asks = asks;
            let pieces = client.pieces(word, node, &body, room);
            let written = client.send(&pieces);
            prop_assert!(written <= room);
            Ok(())
        });
        tried.unwrap();
    });
}
