//! Drives a VMM process the way its callers do. Needs a usable `/dev/kvm`, a guest kernel and a static busybox:
//! `SUPERMACHINE_VMM`, `SUPERMACHINE_KERNEL`, `SUPERMACHINE_BUSYBOX` say where, with the installed host's paths as
//! defaults.

use crate::initrd;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use vmm_api::{
    Boot, ControlError, ControlSocket, Disks, Fd, Host, MemoryExtent, MemoryFile, Network, Pages, Reply, Request,
    Restore, Shape, Timeline,
};

/// How long anything may take in an emulated machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A kernel that finds fault with something says so and ends, before anything else is written over it.
const CMDLINE: &str = "console=ttyS0 loglevel=5 reboot=k panic=-1 oops=panic no_timer_check \
                       random.trust_cpu=off";
/// How much of a console is shown.
const CONSOLE_LINES: usize = 100;

fn path_from(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| default.into(), PathBuf::from)
}

/// A capture.
pub(crate) struct Bake {
    state: File,
    memory: File,
    pub(crate) extents: Vec<MemoryExtent>,
    pub(crate) shape: Shape,
    /// What it lies over.
    pub(crate) over: Option<Box<Bake>>,
}

impl Bake {
    /// Size of the memory file in bytes, number of extents, size of the state file in bytes.
    pub(crate) fn sizes(&self) -> (u64, usize, u64) {
        (self.memory.metadata().unwrap().len(), self.extents.len(), self.state.metadata().unwrap().len())
    }

    /// It and what it lies over, lowest first.
    fn stack(&self) -> Vec<&Self> {
        let mut stack = self.over.as_ref().map_or_else(Vec::new, |over| over.stack());
        stack.push(self);
        stack
    }

    /// The state file.
    pub(crate) fn state(&self) -> &File {
        &self.state
    }
}

fn started(reply: Reply) -> Timeline {
    match reply {
        Reply::Running(timeline) => timeline,
        other => panic!("the VM did not start: {other:?}"),
    }
}

/// A VMM process.
pub(crate) struct Vmm {
    child: Child,
    /// None once the caller hung up.
    control: Option<ControlSocket>,
    console: PathBuf,
    shape: Shape,
    spawned: Instant,
}

impl Vmm {
    /// Starts the process; its console goes to `console`.
    pub(crate) fn spawn(console: &Path) -> Self {
        let (control, theirs) = ControlSocket::pair().unwrap();
        let spawned = Instant::now();
        let child = Command::new(path_from("SUPERMACHINE_VMM", env!("CARGO_BIN_EXE_supermachine-vmm")))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            control: Some(control),
            console: console.into(),
            shape: Shape { memory_bytes: 0, added_bytes: 0, vcpus: 0 },
            spawned,
        }
    }

    fn host_files(&self) -> (File, File) {
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").unwrap();
        let console = OpenOptions::new().create(true).append(true).open(&self.console).unwrap();
        (kvm, console)
    }

    /// Sends a request and returns its reply.
    pub(crate) fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Reply {
        self.try_ask(request, fds).unwrap()
    }

    /// Sends a request and returns its reply, if the process lives long enough for both.
    fn try_ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, ControlError> {
        let control = self.control.as_ref().ok_or(ControlError::Closed)?;
        control.send(request, fds)?;
        Ok(control.receive::<Reply>()?.message)
    }

    /// Connects a stream to a port of the guest.
    pub(crate) fn connect(&self, port: u32, stream: &UnixStream) -> Reply {
        self.ask(&Request::Connect { port, stream: Fd(0) }, &[stream.as_fd()])
    }

    /// Closes the control socket.
    pub(crate) fn hang_up(&mut self) {
        self.control = None;
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Boots the test kernel with `script` as its init, to which `vcpus` says how many of them there are. One is online.
    pub(crate) fn boot(&mut self, script: &str, shape: Shape) -> Timeline {
        let kernel = File::open(path_from("SUPERMACHINE_KERNEL", "/opt/supermachine/share/vmlinux")).unwrap();
        let busybox = std::fs::read(path_from("SUPERMACHINE_BUSYBOX", "/bin/busybox")).unwrap();
        let initrd = initrd::file(&busybox, &format!("vcpus={}\n{script}", shape.vcpus));
        let (kvm, console) = self.host_files();
        self.shape = shape;
        let request = Request::Boot(Boot {
            host: Host { kvm: Fd(0), console: Fd(1), network: Network::New, serves_files: false },
            shape,
            kernel: Fd(2),
            initrd: Fd(3),
            cmdline: CMDLINE.into(),
            disks: Disks::default(),
        });
        started(self.ask(&request, &[kvm.as_fd(), console.as_fd(), kernel.as_fd(), initrd.as_fd()]))
    }

    /// Restores a capture.
    pub(crate) fn restore(&mut self, bake: &Bake) -> Timeline {
        started(self.try_restore(bake))
    }

    /// Restores a capture that may be damaged.
    pub(crate) fn try_restore(&mut self, bake: &Bake) -> Reply {
        let (kvm, console) = self.host_files();
        self.shape = bake.shape;
        let request = Request::Restore(Restore {
            host: Host { kvm: Fd(0), console: Fd(1), network: Network::New, serves_files: false },
            shape: bake.shape,
            state: Fd(2),
            memory: (3..)
                .zip(bake.stack())
                .map(|(place, bake)| MemoryFile { file: Fd(place), extents: bake.extents.clone() })
                .collect(),
            written: Vec::new(),
            disks: Disks::default(),
        });
        let mut fds = vec![kvm.as_fd(), console.as_fd(), bake.state.as_fd()];
        fds.extend(bake.stack().iter().map(|bake| bake.memory.as_fd()));
        self.ask(&request, &fds)
    }

    /// Captures the VM, which stops it.
    pub(crate) fn capture(&self) -> Bake {
        self.try_capture(Pages::All).unwrap()
    }

    /// Captures what has changed since the VM was restored from `bake`, and stops it.
    pub(crate) fn capture_over(&self, bake: Bake) -> Bake {
        Bake { over: Some(Box::new(bake)), ..self.try_capture(Pages::Changed).unwrap() }
    }

    /// Captures a VM that may end before.
    pub(crate) fn try_capture(&self, pages: Pages) -> Result<Bake, String> {
        let (state, memory) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let request = Request::Capture { state: Fd(0), memory: Fd(1), pages };
        match self.try_ask(&request, &[state.as_fd(), memory.as_fd()]) {
            Ok(Reply::Captured { extents, state_bytes }) => {
                assert_eq!(state.metadata().unwrap().len(), state_bytes);
                Ok(Bake { state, memory, extents, shape: self.shape, over: None })
            }
            other => Err(format!("the VM was not captured: {other:?}")),
        }
    }

    /// What the guest has written so far.
    pub(crate) fn console_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits until the console's text is as wanted.
    pub(crate) fn await_console(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let text = self.console_text();
            if wanted(&text) {
                return;
            }
            let tail =
                text.lines().skip(text.lines().count().saturating_sub(CONSOLE_LINES)).collect::<Vec<_>>().join("\n");
            assert!(Instant::now() < deadline, "the console's last lines:\n{tail}\nno {what} on it in {DEADLINE:?}");
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the console's last lines:\n{tail}\nthe VMM ended ({status}) before {what} was on it");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks the process to end and waits for it.
    pub(crate) fn shut_down(mut self) -> ExitStatus {
        assert_eq!(self.ask(&Request::Shutdown, &[]), Reply::Stopping);
        self.child.wait().unwrap()
    }

    /// Waits for the process to end by itself.
    pub(crate) fn await_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the VMM did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the process, if it hasn't ended by itself, and returns its exit code; `None` if a signal killed it.
    pub(crate) fn end(mut self) -> Option<i32> {
        // A guest that ended by itself took the process with it.
        drop(self.try_ask(&Request::Shutdown, &[]));
        self.await_exit().code()
    }

    /// Time since the process was spawned.
    pub(crate) fn age(&self) -> Duration {
        self.spawned.elapsed()
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Already gone where a test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
