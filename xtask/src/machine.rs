//! The emulated host: its parts, and QEMU running them.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::accelerator::{Accelerator, QEMU};
use crate::clock::Clock;
use crate::job::{Flavour, Job};
use crate::paths;
use crate::product::Product;
use crate::step::step;

/// What a host is made of, in the cache.
#[derive(Debug)]
pub(crate) struct Parts {
    host: PathBuf,
    images: PathBuf,
    emulator: PathBuf,
    accelerator: Accelerator,
}

impl Parts {
    /// Builds the parts that aren't in the cache.
    pub(crate) fn build() -> anyhow::Result<Self> {
        let host = paths::built_by("e2e/host/disk.sh")?;
        let images = paths::built_by("e2e/host/images.sh")?;
        let emulator = paths::built_by("e2e/host/emulator.sh")?.join(QEMU);
        let accelerator = Accelerator::choose(&host.join("vmlinuz"))?;
        Ok(Self { host, images, emulator, accelerator })
    }

    /// A disk on which the test images are imported and, for runc's sake,
    /// unpacked: importing them costs more than all else that a boot does.
    pub(crate) fn ready_disk(&self, flavour: Flavour) -> anyhow::Result<PathBuf> {
        let name = format!("ready-{}-{}-{}", key(&self.host), key(&self.images), flavour.name());
        let folder = paths::cache()?.join(&name);
        let disk = folder.join("disk.qcow2");
        if disk.exists() {
            return Ok(disk);
        }
        step(&format!("importing the test images into the {} host's disk", flavour.name()), || {
            let filling = tempfile::Builder::new().prefix(".ready.").tempdir_in(paths::cache()?)?;
            let unfinished = filling.path().join("disk.qcow2");
            paths::run(
                Command::new("qemu-img")
                    .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
                    .arg(self.host.join("disk.ext4"))
                    .arg(&unfinished),
            )?;
            let job = Job::new(flavour, &Product::none())?;
            job.add(&self.images.join("images.tar"))?;
            job.write("keep-disk", "")?;
            job.write("run", "ctr images import /job/images.tar && systemctl stop containerd")?;
            let host = Host { keep_disk: true, ..Host::new(self, unfinished, &job) };
            let mut output = Vec::new();
            let ending = host.run(Task::Job, Duration::from_secs(900), |line| {
                output.extend_from_slice(line);
                Ok(())
            })?;
            ensure!(
                matches!(ending, Ending::Finished(0)),
                "importing the images failed ({ending:?}):\n{}\n{}",
                String::from_utf8_lossy(&output),
                job.console_tail()
            );
            fs::set_permissions(filling.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            if fs::rename(filling.path(), &folder).is_err() {
                ensure!(disk.exists(), "cannot publish {}", folder.display());
            }
            Ok(())
        })?;
        Ok(disk)
    }
}

/// The content key at the end of a part's name.
fn key(part: &Path) -> String {
    let name = part.to_string_lossy();
    name.rsplit('-').next().unwrap_or_default().chars().take(8).collect()
}

/// What a host does once it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Runs `/job/run`.
    Job,
    /// Gives a shell on this terminal.
    Shell,
}

/// How a host's job ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// With this exit status.
    Finished(u8),
    /// It was switched off at its time limit.
    TimedOut,
    /// The machine stopped first.
    Died,
    /// The emulated machine stood still and was switched off.
    Stuck,
}

impl Ending {
    /// What happened, for a person.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Finished(status) => format!("its job ended with status {status}"),
            Self::TimedOut => "the host was switched off at its time limit".to_owned(),
            Self::Died => "the host stopped before its job ended".to_owned(),
            Self::Stuck => "the emulated host lost its clock and was switched off; run it again".to_owned(),
        }
    }

    /// The exit code for this ending; shows the console when there is no status.
    pub(crate) fn report(&self, job: &Job) -> ExitCode {
        let code = match self {
            Self::Finished(status) => return ExitCode::from(*status),
            Self::TimedOut => 124,
            Self::Died | Self::Stuck => 125,
        };
        eprintln!("{}; its console ends:\n{}", self.describe(), job.console_tail());
        ExitCode::from(code)
    }
}

/// One boot of the emulated host. Its disk is as new in each.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    /// Its kernel.
    pub(crate) kernel: PathBuf,
    /// What its disk starts from.
    pub(crate) disk: PathBuf,
    /// The folder at `/job`.
    pub(crate) job: &'a Job,
    /// What the disk becomes is kept.
    pub(crate) keep_disk: bool,
    /// A directory of this machine that the host sees at `/host`.
    pub(crate) shared: Option<PathBuf>,
    /// The host's memory.
    pub(crate) memory_mib: u32,
    /// What runs its instructions.
    pub(crate) accelerator: Accelerator,
    /// The program that does if they are emulated.
    pub(crate) emulator: PathBuf,
}

impl<'a> Host<'a> {
    /// A host with 3 GiB that shares nothing but its job.
    pub(crate) fn new(parts: &Parts, disk: PathBuf, job: &'a Job) -> Self {
        Self {
            kernel: parts.host.join("vmlinuz"),
            disk,
            job,
            keep_disk: false,
            shared: None,
            memory_mib: 3072,
            accelerator: parts.accelerator,
            emulator: parts.emulator.clone(),
        }
    }

    /// Boots the host, passes on each line that its job prints, and waits until
    /// it is off.
    pub(crate) fn run(
        &self,
        task: Task,
        limit: Duration,
        mut on_line: impl FnMut(&[u8]) -> io::Result<()> + Send,
    ) -> anyhow::Result<Ending> {
        let mut folders = vec![FolderServer::start(&self.job.path(), &self.job.outside("job.sock"), "job")?];
        if let Some(shared) = &self.shared {
            self.job.write("host-is-shared", "")?;
            folders.push(FolderServer::start(shared, &self.job.outside("host.sock"), "host")?);
        }
        let mut qemu = self.command(task, &folders);
        if task == Task::Shell {
            qemu.status().context("cannot run setpriv: is Debian's util-linux installed?")?;
            return Ok(Ending::Died);
        }
        // QEMU's stdin stays open: the job's port is closed when it ends.
        let mut child = qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run setpriv: is Debian's util-linux installed?")?;
        let output = child.stdout.take().context("QEMU without an output")?;
        // With the other accelerators the main thread has no timers to keep.
        let clock = (self.accelerator == Accelerator::Emulation).then(|| Clock::new(child.id()));
        let ending = std::thread::scope(|scope| {
            let copier = scope.spawn(|| copy_lines(output, &mut on_line));
            let ending = wait(&mut child, limit, clock);
            copier.join().map_err(|_panic| anyhow::anyhow!("the thread that reads the job's output panicked"))??;
            ending
        })?;
        Ok(self.job.status().map_or(ending, Ending::Finished))
    }

    fn command(&self, task: Task, folders: &[FolderServer]) -> Command {
        let memory = self.memory_mib;
        let (format, snapshot) = match self.disk.extension() {
            Some(extension) if extension == "qcow2" => ("qcow2", if self.keep_disk { "off" } else { "on" }),
            _ => ("raw", "on"),
        };
        // However this process ends, the machine ends with it.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL"]);
        self.accelerator.add_to(&mut qemu, &self.emulator);
        // One vCPU: with two, nested guests hang whatever they run.
        qemu.args(["-smp", "1", "-m", &format!("{memory}M"), "-nodefaults", "-display", "none", "-no-reboot"]);
        qemu.args(["-object", &format!("memory-backend-memfd,id=ram,size={memory}M,share=on")]);
        qemu.args(["-machine", "pc,memory-backend=ram", "-device", "virtio-rng-pci"]);
        qemu.arg("-kernel").arg(&self.kernel);
        qemu.args([
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off root=/dev/nvme0n1 rw init=/sbin/host-init systemd.show_status=0",
        ]);
        qemu.arg("-drive").arg(format!(
            "file={},format={format},if=none,id=root,snapshot={snapshot},cache=unsafe",
            self.disk.display()
        ));
        qemu.args(["-device", "nvme,drive=root,serial=root"]);
        for folder in folders {
            qemu.args(folder.qemu_arguments());
        }
        if task == Task::Shell {
            qemu.args(["-serial", "mon:stdio"]);
        } else {
            qemu.arg("-serial").arg(format!("file:{}", self.job.outside("console.log").display()));
            qemu.args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=job,signal=off"]);
            qemu.args(["-device", "virtserialport,chardev=job,name=job"]);
        }
        qemu
    }
}

/// Waits for QEMU's end; kills it at the limit, or when the host's clock is lost.
fn wait(qemu: &mut Child, limit: Duration, mut clock: Option<Clock>) -> anyhow::Result<Ending> {
    let started = Instant::now();
    loop {
        if qemu.try_wait()?.is_some() {
            return Ok(Ending::Died);
        }
        let timed_out = started.elapsed() > limit;
        if timed_out || clock.as_mut().is_some_and(Clock::is_lost) {
            qemu.kill()?;
            qemu.wait()?;
            return Ok(if timed_out { Ending::TimedOut } else { Ending::Stuck });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn copy_lines(output: impl io::Read, on_line: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        on_line(&line)?;
        line.clear();
    }
    Ok(())
}

/// Serves one folder of this machine to a host by virtio-fs, which Debian's
/// cloud kernel has built in.
#[derive(Debug)]
struct FolderServer {
    process: Child,
    socket: PathBuf,
    tag: &'static str,
}

impl FolderServer {
    fn start(folder: &Path, socket: &Path, tag: &'static str) -> anyhow::Result<Self> {
        const LIMIT: Duration = Duration::from_secs(10);
        let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        let mut command = virtiofsd(&folder)?;
        let log = fs::File::create(socket.with_extension("log"))?;
        let process = command
            .arg(format!("--socket-path={}", socket.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run virtiofsd")?;
        let mut server = Self { process, socket: socket.to_path_buf(), tag };
        let deadline = Instant::now() + LIMIT;
        while !socket.exists() {
            let log = || fs::read_to_string(socket.with_extension("log")).unwrap_or_default();
            ensure!(server.process.try_wait()?.is_none(), "virtiofsd ended: {}", log());
            ensure!(Instant::now() < deadline, "virtiofsd made no socket within {} s: {}", LIMIT.as_secs(), log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    fn qemu_arguments(&self) -> [String; 4] {
        let Self { socket, tag, .. } = self;
        [
            "-chardev".into(),
            format!("socket,id=fs-{tag},path={}", socket.display()),
            "-device".into(),
            format!("vhost-user-fs-pci,chardev=fs-{tag},tag={tag}"),
        ]
    }
}

impl Drop for FolderServer {
    fn drop(&mut self) {
        // It ends by itself with QEMU; when QEMU never started, it doesn't.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Debian 12 has virtiofsd in qemu-system-common, Debian 13 a package of that
/// name, another program with other options.
fn virtiofsd(folder: &Path) -> anyhow::Result<Command> {
    let candidates = [("/usr/libexec/virtiofsd", "--shared-dir="), ("/usr/lib/qemu/virtiofsd", "-osource=")];
    let (program, option) = candidates
        .into_iter()
        .find(|(program, _)| Path::new(program).exists())
        .context("virtiofsd isn't installed: run make setup")?;
    let mut command = Command::new(program);
    command.arg(format!("{option}{}", folder.display()));
    Ok(command)
}
