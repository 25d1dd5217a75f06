//! Reading ahead what an image's programs begin with, so that containers find it in memory.
//!
//! What a program is, and what it needs, is in files of the image: untrusted. It decides which of the image's files are
//! read, and nothing else.

mod elf;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// Most bytes that are read: what is in memory is in the image's bake.
const MAX_BYTES: u64 = 24 << 20;
/// Most files that are looked for: each is looked for in several places.
const MAX_ATTEMPTS: usize = 8192;
/// How much is read at once. The buffer's pages end up in the bake too.
const CHUNK_BYTES: usize = 64 << 10;
/// Longest first line of a script that is looked at, as the kernel's `BINPRM_BUF_SIZE`.
const FIRST_LINE_BYTES: usize = 256;

/// What the dynamic loader and the C library read in nearly every program.
const ALWAYS: [&str; 4] = ["/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group"];

/// Where dynamic loaders look for libraries if nothing else is said (`ld.so(8)`), before directories of the architecture.
const LIBRARIES: [&str; 5] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"];

/// Where programs are looked for whose name has no slash: what a container's own environment says is nobody else's
/// business, and an image's bake is for all containers of the image.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Reads programs, given by path or by name, and the interpreters and libraries that they name, below `root`. What isn't
/// there is passed over.
pub(super) fn preload(root: BorrowedFd<'_>, programs: &[String]) {
    let mut preload = Preload::new(root);
    for path in ALWAYS {
        drop(preload.read(Path::new(path)));
    }
    programs.iter().for_each(|program| preload.add_program(program));
}

struct Preload<'a> {
    root: BorrowedFd<'a>,
    seen: BTreeSet<PathBuf>,
    /// Bytes that may yet be read.
    left: u64,
    /// Files that may yet be looked for.
    attempts: usize,
    buffer: Vec<u8>,
}

impl<'a> Preload<'a> {
    fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, seen: BTreeSet::new(), left: MAX_BYTES, attempts: MAX_ATTEMPTS, buffer: vec![0; CHUNK_BYTES] }
    }

    /// Reads a program and what it needs.
    fn add_program(&mut self, name: &str) {
        let places = if name.contains('/') { vec![PathBuf::from(name)] } else { joined(&PROGRAMS, name) };
        self.add_first(&places);
    }

    /// Reads the first of these files that is there, and what it needs.
    fn add_first(&mut self, places: &[PathBuf]) {
        for place in places {
            if self.seen.contains(place) {
                return;
            }
            if let Some(file) = self.read(place) {
                return self.add_needs(place, &file);
            }
        }
    }

    fn add_needs(&mut self, path: &Path, file: &File) {
        let mut line = [0; FIRST_LINE_BYTES];
        let length = file.read_at(&mut line, 0).unwrap_or_default();
        if let Some(words) = interpreter(&line[..length]) {
            return words.iter().for_each(|word| self.add_program(word));
        }
        let Some(needs) = elf::needs(file) else { return };
        if let Some(interpreter) = &needs.interpreter {
            self.add_first(&[PathBuf::from(interpreter)]);
        }
        let origin = path.parent().unwrap_or(Path::new("/")).display().to_string();
        let expand = |path: &String| path.replace("$ORIGIN", &origin).replace("${ORIGIN}", &origin);
        let mut directories: Vec<String> = needs.run_paths.iter().map(expand).collect();
        directories.extend(standard_directories());
        for library in &needs.libraries {
            let places =
                if library.contains('/') { vec![PathBuf::from(library)] } else { joined(&directories, library) };
            self.add_first(&places);
        }
    }

    /// Reads a file, if there is one and it wasn't read yet.
    fn read(&mut self, path: &Path) -> Option<File> {
        if self.left == 0 {
            return None;
        }
        self.attempts = self.attempts.checked_sub(1)?;
        let file = open(self.root, path)?;
        self.seen.insert(path.to_owned());
        let mut position = 0;
        while self.left > 0 {
            let most = self.left.min(self.buffer.len() as u64) as usize;
            match file.read_at(&mut self.buffer[..most], position) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    position += count as u64;
                    self.left -= count as u64;
                }
            }
        }
        Some(file)
    }
}

/// A regular file of the image. Links lead nowhere outside of it.
fn open(root: BorrowedFd<'_>, path: &Path) -> Option<File> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // Not blocking: what has the name could be a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(openat2(root.as_fd(), path, flags, Mode::empty(), resolve).ok()?);
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
}

fn joined(directories: &[impl AsRef<str>], name: &str) -> Vec<PathBuf> {
    let directories = directories.iter().map(AsRef::as_ref);
    directories
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| Path::new(directory).join(name))
        .collect()
}

fn standard_directories() -> impl Iterator<Item = String> {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let of_architecture = ["/lib", "/usr/lib", "/usr/local/lib"].map(|directory| format!("{directory}/{multiarch}"));
    LIBRARIES.into_iter().map(str::to_owned).chain(of_architecture)
}

/// The words after a script's `#!`: an interpreter, and for env(1) the program that it runs.
fn interpreter(head: &[u8]) -> Option<Vec<String>> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    Some(words.filter(|word| !word.starts_with('-')).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(root: &Path, programs: &[&str]) -> Vec<String> {
        let directory = File::open(root).unwrap();
        let mut preload = Preload::new(directory.as_fd());
        programs.iter().for_each(|program| preload.add_program(program));
        preload.seen.iter().map(|path| path.display().to_string()).collect()
    }

    fn put(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    #[test]
    fn a_script_brings_its_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "usr/bin/env", b"");
        put(dir.path(), "usr/local/bin/tool", b"");
        put(dir.path(), "start.sh", b"#!/usr/bin/env -S tool\nexit\n");
        put(dir.path(), "usr/bin/other", b"");
        assert_eq!(
            seen(dir.path(), &["/start.sh", "-x", "exec other", "absent"]),
            ["/start.sh", "/usr/bin/env", "/usr/local/bin/tool"]
        );
    }

    #[test]
    fn links_stay_in_the_image_and_scripts_that_name_each_other_end() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let root = dir.path().join("root");
        put(&root, "a", b"#!/b\n");
        put(&root, "b", b"#!/a\n");
        std::os::unix::fs::symlink(outside.path(), root.join("away")).unwrap();
        std::os::unix::fs::symlink("../../../../a", root.join("up")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(seen(&root, &["/away", "/pipe", "/up"]), ["/a", "/b", "/up"]);
    }

    /// This machine's own programs and libraries are those of an image.
    #[test]
    fn a_program_brings_its_loader_and_libraries() {
        let files = seen(Path::new("/"), &["sh"]);
        assert!(files.iter().any(|path| path.contains("/ld-")), "{files:?}");
        assert!(files.iter().any(|path| path.contains("/libc.")), "{files:?}");
    }

    #[test]
    fn no_more_is_read_than_a_bake_may_hold() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "first", &vec![1; MAX_BYTES as usize + 1]);
        put(dir.path(), "second", b"");
        assert_eq!(seen(dir.path(), &["/first", "/second"]), ["/first"]);
    }
}
