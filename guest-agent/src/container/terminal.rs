//! The terminal of an interactive process.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mount_tree::{attach, copy_tree};
use oci_spec::runtime::Process;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};

use super::error::{SetupError, Step};
use super::root::{Root, Shape};

/// `f_type` of a devpts file system (`linux/magic.h`).
const DEVPTS_MAGIC: u32 = 0x1cd1;

/// Size in characters; 0 leaves the kernel's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TerminalSize {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

impl TerminalSize {
    /// The size in a spec's process, which the one that the host knows goes before.
    pub(crate) fn or_of(self, process: &Process) -> Self {
        let characters = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
        match process.console_size() {
            Some(size) if self == Self::default() && size.width() != 0 && size.height() != 0 => {
                Self { columns: characters(size.width()), rows: characters(size.height()) }
            }
            _ => self,
        }
    }

    /// Gives the terminal this size, unless it is the default.
    pub(crate) fn apply(self, terminal: impl AsFd) -> std::io::Result<()> {
        if self == Self::default() {
            return Ok(());
        }
        let size = Winsize { ws_row: self.rows, ws_col: self.columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(terminal, size)?)
    }
}

/// Both ends of a new terminal.
pub(crate) struct Terminal {
    pub(crate) controller: OwnedFd,
    pub(crate) user: OwnedFd,
}

impl Terminal {
    /// Opens a terminal of the devpts instance at `/dev/pts` of the current root, which the container controls: the
    /// multiplexer is only trusted if it belongs to a devpts.
    pub(crate) fn open(size: TerminalSize) -> Result<Self, SetupError> {
        let path = "/dev/pts/ptmx";
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let controller = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            .step("open terminal multiplexer (the spec must mount devpts on /dev/pts)", path)?;
        let filesystem = rustix::fs::fstatfs(&controller).step("stat", path)?;
        if filesystem.f_type as u32 != DEVPTS_MAGIC {
            return Err(SetupError::spec("process.terminal", "/dev/pts of the container isn't a devpts file system"));
        }
        rustix::pty::unlockpt(&controller).step("unlock", "terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = rustix::pty::ioctl_tiocgptpeer(&controller, flags).step("open", "terminal")?;
        size.apply(&controller).step("set size of", "terminal")?;
        Ok(Self { controller, user })
    }

    /// Shows the terminal as the container's `/dev/console`.
    pub(crate) fn bind_console(&self, root: &Root) -> Result<(), SetupError> {
        let name = rustix::pty::ptsname(&self.controller, Vec::new()).step("name", "terminal")?;
        let name = Path::new(std::str::from_utf8(name.to_bytes()).unwrap_or_default());
        let console = Path::new("/dev/console");
        let tree = copy_tree(name, false).on("open", name)?;
        let point = root.mount_point(console, Shape::File).on("make", console)?;
        attach(tree.as_fd(), point.as_fd()).on("bind terminal to", console)
    }

    /// Makes the terminal the standard streams and the controlling terminal of this process, a session leader.
    pub(crate) fn take(&self) -> Result<(), SetupError> {
        rustix::stdio::dup2_stdin(&self.user).step("connect", "standard input")?;
        rustix::stdio::dup2_stdout(&self.user).step("connect", "standard output")?;
        rustix::stdio::dup2_stderr(&self.user).step("connect", "standard error")?;
        rustix::process::ioctl_tiocsctty(&self.user).step("take control of", "terminal")
    }
}
