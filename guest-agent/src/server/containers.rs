//! The containers of this machine and their processes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dormancy::Dormant;
use super::process::Process;
use crate::cgroup::Cgroup;
use crate::refusal::{Kind, Refusal};

/// Longest id: it names a directory.
const MAX_ID_BYTES: usize = 200;

/// A container whose first process was made.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) first: Arc<Process>,
    pub(super) cgroup: Cgroup,
    /// What everything else of it is called: its id, or another if it was adopted.
    pub(super) place: String,
    /// If the machine is captured while it runs.
    pub(super) dormant: Option<Arc<Dormant>>,
}

impl Container {
    /// Whether it waits to be started since it was adopted.
    pub(super) fn is_adopted(&self) -> bool {
        self.dormant.as_ref().is_some_and(|dormant| dormant.is_adopted())
    }
}

/// Processes by the name the host gave them. A name is taken from the moment its request arrives.
#[derive(Debug, Default)]
struct Entry {
    container: Option<Container>,
    further: BTreeMap<String, Option<Arc<Process>>>,
}

/// Every container by its id.
#[derive(Debug, Default)]
pub(super) struct Containers {
    entries: Mutex<BTreeMap<String, Entry>>,
}

/// A name that is taken; given back unless it is filled.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    containers: &'a Containers,
    container: &'a str,
    /// Of a further process; empty for the container itself.
    process: &'a str,
    filled: bool,
}

impl Containers {
    /// Takes the id of a new container.
    pub(super) fn reserve<'a>(&'a self, container: &'a str) -> Result<Reservation<'a>, Refusal> {
        check_id(container)?;
        let mut entries = self.lock();
        if entries.contains_key(container) {
            return Err(Refusal::new(Kind::AlreadyExists, format!("container {container:?} exists already")));
        }
        entries.insert(container.to_owned(), Entry::default());
        Ok(Reservation { containers: self, container, process: "", filled: false })
    }

    /// Takes the id of a further process.
    pub(super) fn reserve_process<'a>(
        &'a self,
        container: &'a str,
        process: &'a str,
    ) -> Result<(Reservation<'a>, Container), Refusal> {
        check_id(process)?;
        let mut entries = self.lock();
        let entry = entries.get_mut(container).ok_or_else(|| no_container(container))?;
        let residence = entry.container.clone().ok_or_else(|| no_container(container))?;
        if entry.further.contains_key(process) {
            let message = format!("process {process:?} of container {container:?} exists already");
            return Err(Refusal::new(Kind::AlreadyExists, message));
        }
        entry.further.insert(process.to_owned(), None);
        Ok((Reservation { containers: self, container, process, filled: false }, residence))
    }

    /// Finds a container.
    pub(super) fn container(&self, container: &str) -> Result<Container, Refusal> {
        self.lock().get(container).and_then(|entry| entry.container.clone()).ok_or_else(|| no_container(container))
    }

    /// How many there are, those in the making among them.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Gives the container that waits to be adopted a new id.
    pub(super) fn adopt(&self, id: &str) -> Result<Container, Refusal> {
        check_id(id)?;
        let mut entries = self.lock();
        let is_asleep = |entry: &Entry| {
            let dormant = entry.container.as_ref().and_then(|container| container.dormant.as_ref());
            dormant.is_some_and(|dormant| dormant.is_asleep())
        };
        let asleep = entries.iter().find(|(_, entry)| is_asleep(entry)).map(|(known, _)| known.clone());
        let Some(known) = asleep else {
            return Err(Refusal::new(Kind::FailedPrecondition, "no container rests in this machine"));
        };
        if known != id && entries.contains_key(id) {
            return Err(Refusal::new(Kind::AlreadyExists, format!("container {id:?} exists already")));
        }
        let entry = entries.remove(&known).unwrap_or_default();
        let container = entry.container.clone().ok_or_else(|| no_container(id))?;
        entries.insert(id.to_owned(), entry);
        Ok(container)
    }

    /// Finds a process; an empty name is a container's first.
    pub(super) fn process(&self, container: &str, process: &str) -> Result<Arc<Process>, Refusal> {
        if process.is_empty() {
            return self.container(container).map(|container| container.first);
        }
        let entries = self.lock();
        let further = entries.get(container).and_then(|entry| entry.further.get(process).cloned().flatten());
        further.ok_or_else(|| {
            Refusal::new(Kind::NotFound, format!("process {process:?} of container {container:?} doesn't exist"))
        })
    }

    /// The further processes of a container that run, by id of the kernel.
    pub(super) fn further(&self, container: &str) -> BTreeMap<i32, String> {
        let entries = self.lock();
        let further = entries.get(container).into_iter().flat_map(|entry| &entry.further);
        let running = further.filter_map(|(name, process)| {
            // The id of one that has exited may be another's by now.
            process.as_ref().filter(|process| process.exit().is_none()).map(|process| (process.pid(), name.clone()))
        });
        running.collect()
    }

    /// Forgets a process, or with an empty name a whole container.
    pub(super) fn remove(&self, container: &str, process: &str) {
        let mut entries = self.lock();
        if process.is_empty() {
            entries.remove(container);
        } else if let Some(entry) = entries.get_mut(container) {
            entry.further.remove(process);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// The container exists.
    pub(super) fn fill(mut self, container: Container) {
        if let Some(entry) = self.containers.lock().get_mut(self.container) {
            entry.container = Some(container);
        }
        self.filled = true;
    }

    /// The process exists.
    pub(super) fn fill_process(mut self, process: Arc<Process>) {
        if let Some(entry) = self.containers.lock().get_mut(self.container) {
            entry.further.insert(self.process.to_owned(), Some(process));
        }
        self.filled = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.containers.remove(self.container, self.process);
        }
    }
}

fn no_container(container: &str) -> Refusal {
    Refusal::new(Kind::NotFound, format!("container {container:?} doesn't exist"))
}

/// Ids name directories, so they must be plain.
fn check_id(id: &str) -> Result<(), Refusal> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if id.is_empty() || id.len() > MAX_ID_BYTES || id.starts_with('.') || !id.bytes().all(plain) {
        return Err(Refusal::new(Kind::InvalidArgument, format!("{id:?} is no id: letters, digits, '_', '.', '-'")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_until_it_is_given_back() {
        let containers = Containers::default();
        let reservation = containers.reserve("one").unwrap();
        assert_eq!(containers.reserve("one").unwrap_err().kind, Kind::AlreadyExists);
        assert_eq!(containers.container("one").unwrap_err().kind, Kind::NotFound);
        drop(reservation);
        assert!(containers.reserve("one").is_ok());
    }

    #[test]
    fn ids_are_plain_names() {
        let containers = Containers::default();
        for id in ["", ".", "..", "a/b", "a b", &"x".repeat(201)] {
            assert_eq!(containers.reserve(id).unwrap_err().kind, Kind::InvalidArgument, "{id:?}");
        }
        assert!(containers.reserve("a-b_c.9").is_ok());
    }
}
