//! One cgroup (v2) per container, a child of the root that the agent itself lives in.

mod events;
mod freezer;
mod stats;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long [`Cgroup::remove`] waits for killed processes to leave.
const EMPTY_DEADLINE: Duration = Duration::from_secs(5);
const EMPTY_POLL: Duration = Duration::from_millis(2);

/// Lets the children of `root` use every controller the kernel has.
pub(crate) fn delegate_controllers(root: &Path) -> io::Result<()> {
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
    let enabled: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    fs::write(root.join("cgroup.subtree_control"), enabled.join(" "))
}

/// A container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup of the container `id` (which must be a plain file name), whether it exists or not.
    pub(crate) fn of(root: &Path, id: &str) -> Self {
        Self { path: root.join(format!("container-{id}")) }
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it; nothing may be there yet.
    pub(crate) fn create(&self) -> io::Result<()> {
        fs::create_dir(&self.path)
    }

    /// Every process in it and below it.
    pub(crate) fn processes(&self) -> io::Result<Vec<i32>> {
        let mut found = Vec::new();
        walk(&self.path, &mut |directory| {
            let text = fs::read_to_string(directory.join("cgroup.procs"))?;
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
            Ok(())
        })?;
        Ok(found)
    }

    /// Kills every process in it and below it, at once.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match self.write("cgroup.kill", "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Kills what is in it and removes it.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        self.kill()?;
        let deadline = tokio::time::Instant::now() + EMPTY_DEADLINE;
        loop {
            match walk(&self.path, &mut |directory| fs::remove_dir(directory)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                // Killed processes leave when they are gone, not when they are killed.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(EMPTY_POLL).await;
                }
                result => return result,
            }
        }
    }

    fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.path.join(file))
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.path.join(file), value)
    }
}

/// Visits a cgroup and all below it, children first.
fn walk(directory: &Path, visit: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), visit)?;
        }
    }
    visit(directory)
}
