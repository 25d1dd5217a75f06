//! Where the corpus is tried: a root file system that is fresh for every container, and things to mount and join.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{FileType, Mode};
use serde_json::{Value, json};

use super::profiles;
use super::specs::Entry;
use super::verdict::Verdict;
use crate::ground::CGROUPS;
use crate::trial::Trial;

const PROBE: &str = include_str!("probe.sh");
const SYSCALLS: &str = include_str!("syscalls.c");
/// Kinds of namespaces to join, and what `unshare` calls them.
const NAMESPACES: [(&str, &str); 6] =
    [("ipc", "ipc"), ("uts", "uts"), ("net", "net"), ("cgroup", "cgroup"), ("time", "time"), ("pid", "pid")];

/// A spec ready to be carried out.
pub(super) struct Case {
    pub(super) spec: Value,
    /// The further process that is the point of it.
    pub(super) further: Option<Value>,
}

impl Case {
    /// Whether the process that is the point of it has a terminal.
    pub(super) fn has_terminal(&self) -> bool {
        self.further.as_ref().unwrap_or(&self.spec["process"])["terminal"] == true
    }
}

/// The place itself.
pub(super) struct Site {
    folder: PathBuf,
    cgroup: PathBuf,
    /// Controllers of cgroups, capabilities, and a compiler.
    facilities: Vec<String>,
    /// Namespaces by what `/proc/<pid>/ns` shows of them.
    namespaces: Vec<(String, &'static str)>,
    /// How many mounts there are without a container.
    mounts: usize,
    _pids: Child,
}

impl Site {
    /// Prepares the root file system of `trial` and the ground beside it.
    pub(super) fn prepare(trial: &Trial) -> Result<Self> {
        let folder = trial.folder.path().to_owned();
        furnish_root(&folder.join("rootfs"))?;
        furnish_ground(&folder.join("ground"))?;
        let pids = make_namespaces(&folder.join("ground/ns"))?;
        fs::create_dir(folder.join("layers"))?;
        tmpfs(&folder.join("layers"), MsFlags::empty())?;
        let mut namespaces = Vec::new();
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
            namespaces.push((fs::read_link(format!("/proc/self/ns/{kind}"))?.display().to_string(), "the host's"));
        }
        for (kind, _) in NAMESPACES {
            let inode = fs::metadata(folder.join("ground/ns").join(kind))?.ino();
            namespaces.push((format!("{kind}:[{inode}]"), "the given one"));
        }
        let mut facilities = capabilities()?;
        facilities.extend(syscalls_program().map(|_| "cc".to_owned()));
        let controllers = fs::read_to_string(trial.cgroup.join("cgroup.controllers"))?;
        facilities.extend(controllers.split_whitespace().map(str::to_owned));
        Ok(Self { mounts: count_mounts()?, cgroup: trial.cgroup.clone(), folder, facilities, namespaces, _pids: pids })
    }

    /// The root file system.
    pub(super) fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// The path of a cgroup beside our containers'.
    pub(super) fn cgroup_of(&self, name: &str) -> PathBuf {
        Path::new("/").join(self.cgroup.strip_prefix(CGROUPS).unwrap_or(&self.cgroup)).join(name)
    }

    pub(super) fn has(&self, facility: &str) -> bool {
        self.facilities.iter().any(|known| known == facility)
    }

    /// An entry's spec with this place's paths.
    pub(super) fn fill_in(&self, entry: &Entry) -> Result<Case> {
        let text = entry.spec()?.to_string().replace("{ground}", &self.folder.join("ground").display().to_string());
        let replacements = [
            ("all", json!(capabilities()?)),
            ("containerd", profiles::containerd()),
            ("docker", profiles::docker()),
            ("strict", profiles::strict()),
        ];
        let text = replacements
            .iter()
            .fold(text, |text, (name, value)| text.replace(&format!("\"{{{name}}}\""), &value.to_string()));
        let mut spec: Value = serde_json::from_str(&text)?;
        let further = spec.as_object_mut().and_then(|fields| fields.remove("further"));
        Ok(Case { spec, further })
    }

    /// Puts an empty layer over the root file system.
    pub(super) fn lay_out(&self) -> Result<()> {
        let (rootfs, layers) = (self.rootfs(), self.folder.join("layers"));
        for name in ["upper", "work"] {
            fs::create_dir(layers.join(name))?;
        }
        fs::set_permissions(layers.join("upper"), fs::Permissions::from_mode(0o755))?;
        let options = format!("lowerdir={0},upperdir={1}/upper,workdir={1}/work", rootfs.display(), layers.display());
        mount(Some("overlay"), &rootfs, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(())
    }

    /// Takes the layer away; what a container left in it becomes part of the verdict.
    pub(super) fn clear(&self, mut verdict: Verdict) -> Result<Verdict> {
        umount2(&self.rootfs(), MntFlags::MNT_DETACH)?;
        let layers = self.folder.join("layers");
        if let Verdict::Ran(report) = &mut verdict {
            let mut made = Vec::new();
            list(&layers.join("upper"), Path::new("/"), &mut made)?;
            made.sort();
            report.add("made", made);
        }
        for name in ["upper", "work"] {
            fs::remove_dir_all(layers.join(name))?;
        }
        // The probe tries to write into what is bound.
        for folder in ["dev", "volume", "volume/below", "restricted"] {
            let _ = fs::remove_file(self.folder.join("ground").join(folder).join("touched"));
        }
        ensure!(count_mounts()? == self.mounts, "a mount was left");
        Ok(verdict)
    }

    /// A line of a report without what differs from run to run: names of cgroups, numbers of namespaces and processes.
    pub(super) fn plain(&self, section: &str, line: &str) -> String {
        let kind = |name: &str| name.split_once(":[").map(|(kind, _)| kind.to_owned());
        match section {
            "namespaces" => match self.namespaces.iter().find(|(name, _)| name == line) {
                Some((name, whose)) => format!("{} {whose}", kind(name).unwrap_or_default()),
                None => kind(line).map_or(line.to_owned(), |kind| format!("{kind} its own")),
            },
            "status" if line.starts_with("NSpid:") && line != "NSpid:\t1" => "NSpid: another".to_owned(),
            "descriptors" => plain_descriptor(line),
            "mounts" => plain_tags(&self.plain("", line)),
            _ => {
                let root = self.cgroup_of("");
                let root = root.display().to_string();
                ["container-a", "oracle"]
                    .iter()
                    .fold(line.to_owned(), |line, name| line.replace(&format!("{root}{name}"), "/CGROUP"))
            }
        }
    }
}

/// A line about a descriptor, without dates and the numbers of pipes.
fn plain_descriptor(line: &str) -> String {
    match line.split_once(" -> ") {
        Some((name, target)) => {
            format!("{} {}", name.rsplit(' ').next().unwrap_or_default(), target.split(':').next().unwrap_or_default())
        }
        None => String::new(),
    }
}

/// A line about a mount, without the numbers of the groups that it gets mounts from and gives them to.
fn plain_tags(line: &str) -> String {
    let plain = |word: &str| {
        let (bracket, word) = word.strip_prefix('[').map_or(("", word), |word| ("[", word));
        let tag = ["shared:", "master:", "propagate_from:"].into_iter().find(|tag| word.starts_with(tag));
        format!("{bracket}{}", tag.unwrap_or(word))
    };
    line.split(' ').map(plain).collect::<Vec<_>>().join(" ")
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self._pids.kill();
        let _ = self._pids.wait();
        for path in ["layers", "ground/restricted", "ground/volume/below"] {
            let _ = umount2(&self.folder.join(path), MntFlags::MNT_DETACH);
        }
        for (kind, _) in NAMESPACES {
            let _ = umount2(&self.folder.join("ground/ns").join(kind), MntFlags::MNT_DETACH);
        }
    }
}

fn furnish_root(root: &Path) -> Result<()> {
    for program in ["sed", "find", "tr", "ionice", "sort", "env", "mknod", "rm"] {
        symlink("busybox", root.join("bin").join(program))?;
    }
    for (file, mode, text) in [
        ("bin/probe", 0o755, PROBE),
        ("bin/private", 0o700, PROBE),
        ("etc/probe", 0o644, PROBE),
        ("etc/hidden/file", 0o644, "hidden"),
        ("copied/file", 0o640, "copied"),
        ("copied/folder/file", 0o600, "deeper"),
        ("private/file", 0o600, "private"),
        ("root/secret/file", 0o600, "secret"),
    ] {
        write(&root.join(file), mode, text)?;
    }
    for (folder, mode) in
        [("private", 0o700), ("root/secret", 0o700), ("real", 0o755), ("copied", 0o1777), ("tmp", 0o1777)]
    {
        fs::create_dir_all(root.join(folder))?;
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(mode))?;
    }
    symlink("file", root.join("copied/link"))?;
    symlink("/real", root.join("link"))?;
    symlink("/tmp/outside", root.join("escape"))?;
    for path in ["private", "private/file", "copied/file"] {
        chown(root.join(path), Some(33), Some(33))?;
    }
    if let Some(program) = syscalls_program() {
        fs::write(root.join("bin/syscalls"), program)?;
        fs::set_permissions(root.join("bin/syscalls"), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// `syscalls.c`, compiled once; none where there is no compiler.
fn syscalls_program() -> Option<&'static [u8]> {
    static PROGRAM: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let compile = || {
        let folder = tempfile::tempdir().ok()?;
        let (source, program) = (folder.path().join("syscalls.c"), folder.path().join("syscalls"));
        fs::write(&source, SYSCALLS).ok()?;
        let status = Command::new("cc").args(["-static", "-O1", "-o"]).arg(&program).arg(&source).status().ok()?;
        status.success().then(|| fs::read(program).ok()).flatten()
    };
    PROGRAM.get_or_init(compile).as_deref()
}

fn furnish_ground(ground: &Path) -> Result<()> {
    for folder in ["volume/below", "restricted", "ns", "dev/pts", "dev/shm", "dev/mqueue"] {
        fs::create_dir_all(ground.join(folder))?;
    }
    write(&ground.join("file"), 0o644, "ground file\n")?;
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        ground.join("dev/null"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        null,
    )?;
    write(&ground.join("volume/file"), 0o644, "volume file\n")?;
    write(&ground.join("volume/program"), 0o755, "#!/bin/sh\necho a program ran\n")?;
    symlink("below", ground.join("volume/link"))?;
    tmpfs(&ground.join("volume/below"), MsFlags::empty())?;
    write(&ground.join("volume/below/deep"), 0o644, "deep file\n")?;
    tmpfs(&ground.join("restricted"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC)
}

/// Makes namespaces and binds them to files; answers the process that keeps the one of process ids alive.
fn make_namespaces(folder: &Path) -> Result<Child> {
    let mut unshare = Command::new("unshare");
    for (file, option) in NAMESPACES {
        fs::write(folder.join(file), "")?;
        unshare.arg(format!("--{option}={}", folder.join(file).display()));
    }
    unshare.args(["--fork", "--kill-child", "sh", "-c", "hostname given && exec sleep 100000"]);
    let child = unshare.spawn().context("run unshare")?;
    for _ in 0..500 {
        let mounted = fs::read_to_string("/proc/self/mountinfo")?;
        if NAMESPACES.iter().all(|(kind, _)| mounted.contains(&format!("{} ", folder.join(kind).display()))) {
            return Ok(child);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    anyhow::bail!("unshare made no namespaces")
}

/// Every capability this process has.
fn capabilities() -> Result<Vec<String>> {
    let own = rustix::thread::capabilities(None)?.permitted;
    Ok(own.iter_names().map(|(name, _)| format!("CAP_{name}")).collect())
}

fn write(path: &Path, mode: u32, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("no parent")?)?;
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn tmpfs(path: &Path, flags: MsFlags) -> Result<()> {
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=755"))?)
}

fn count_mounts() -> Result<usize> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().count())
}

/// Every file below `folder`, with its mode and owner.
fn list(folder: &Path, shown: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let facts = entry.path().symlink_metadata()?;
        let path = shown.join(entry.file_name());
        found.push(format!("{} {:o} {}:{} {:x}", path.display(), facts.mode(), facts.uid(), facts.gid(), facts.rdev()));
        if facts.is_dir() {
            list(&entry.path(), &path, found)?;
        }
    }
    Ok(())
}
