//! The containers of this shim, by id.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

use crate::task::Container;

/// Known containers. Their VMs' ends, which nobody needs to wait for, are kept track of until the shim's own.
#[derive(Default)]
pub(super) struct Tasks {
    /// None while a container is being created.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    ends: Mutex<JoinSet<()>>,
}

/// An id taken by a container that is being created. Dropped, the id is free again.
pub(super) struct Reservation<'a> {
    tasks: &'a Tasks,
    id: String,
}

impl Tasks {
    /// Takes an id. None if a container has it.
    pub(super) fn reserve(&self, id: &str) -> Option<Reservation<'_>> {
        match self.lock().entry(id.to_owned()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                entry.insert(None);
                Some(Reservation { tasks: self, id: id.to_owned() })
            }
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Container>> {
        self.lock().get(id).cloned().flatten()
    }

    /// Those that are in the VM of this VMM, the first one first.
    pub(super) fn of_vm(&self, pid: u32) -> Vec<Arc<Container>> {
        let mut containers: Vec<_> =
            self.lock().values().flatten().filter(|container| container.pid() == pid).cloned().collect();
        containers.sort_by_key(|container| container.created_at);
        containers
    }

    pub(super) fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Lets a VM end off the path of whoever deleted its container.
    pub(super) fn end(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// Waits for all such ends.
    pub(super) async fn ended(&self) {
        let ends = std::mem::take(&mut *self.ends.lock().unwrap_or_else(PoisonError::into_inner));
        ends.join_all().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// Makes the container known under its id.
    pub(super) fn fill(self, container: Arc<Container>) {
        self.tasks.lock().insert(self.id.clone(), Some(container));
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut containers = self.tasks.lock();
        if let Some(None) = containers.get(&self.id) {
            containers.remove(&self.id);
        }
    }
}
