//! `rm`: removes bakes that no machine runs from.

use serde::Serialize;
use supermachine::{Key, StoreError};

use crate::bakes::{FindError, Listed, find, short};
use crate::host::Host;
use crate::machines::MachinesError;
use crate::output::{OutputError, show};
use crate::quantities::bytes;

/// Not everything was removed that was to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RmError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("the bake {} is in use {by}; stop what runs from it first", short(*key))]
    InUse {
        key: Key,
        /// By whom.
        by: String,
    },
    #[error("the bake store can't be used; check the directory that `paths.bakes` names and its disk")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Machines(#[from] MachinesError),
    #[error("cannot print the result")]
    Output(#[from] OutputError),
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Removed {
    removed: Vec<RemovedBake>,
    freed_bytes: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct RemovedBake {
    key: Key,
    disk_bytes: u64,
}

pub(crate) fn run(host: &Host, keys: &[String], json: bool) -> Result<(), RmError> {
    Ok(show(json, &remove(host, keys)?, text)?)
}

/// Removes all of them, or none if one isn't there or is in use.
fn remove(host: &Host, keys: &[String]) -> Result<Removed, RmError> {
    let bakes = host.bakes()?;
    let mut meant: Vec<&Listed> = keys.iter().map(|key| find(&bakes, key)).collect::<Result<_, _>>()?;
    meant.sort_by_key(|bake| bake.entry.key);
    meant.dedup_by_key(|bake| bake.entry.key);
    if let Some(used) = meant.iter().find(|bake| bake.entry.in_use) {
        return Err(in_use(host, used.entry.key));
    }
    let mut removed = Removed { removed: Vec::new(), freed_bytes: 0 };
    for Listed { entry, .. } in meant {
        if !host.store.remove(&entry.key)? {
            return Err(in_use(host, entry.key));
        }
        removed.freed_bytes += entry.disk_bytes;
        removed.removed.push(RemovedBake { key: entry.key, disk_bytes: entry.disk_bytes });
    }
    Ok(removed)
}

/// Why a bake isn't removed, with those that it is in use by, as far as they are known.
pub(super) fn in_use(host: &Host, key: Key) -> RmError {
    // Without the list the refusal is still right.
    let over =
        host.bakes().unwrap_or_default().into_iter().filter(|bake| bake.lies_over(key)).map(|bake| bake.entry.key);
    let keys: Vec<_> = [key].into_iter().chain(over).collect();
    let machines = host.machines().map(|found| keys.iter().flat_map(|key| found.restored_from(*key)).collect());
    let machines: Vec<String> = machines.unwrap_or_default();
    let by = if machines.is_empty() { "by a machine that isn't listed".to_owned() } else { machines.join(", ") };
    let by = if machines.is_empty() { by } else { format!("by {by}") };
    RmError::InUse { key, by }
}

fn text(Removed { removed, freed_bytes }: &Removed) -> String {
    let lines = removed.iter().map(|bake| format!("removed {}\n", short(bake.key)));
    format!("{}freed {}\n", lines.collect::<String>(), bytes(*freed_bytes))
}

#[cfg(test)]
mod tests {
    use supermachine::{MachineFacts, Subject};

    use super::*;
    use crate::fixture::{Fixture, facts};

    #[test]
    fn bakes_are_removed_unless_one_is_in_use() {
        let fixture = Fixture::new();
        let host = fixture.host();
        let (used, free) = (fixture.publish(facts()), fixture.publish(MachineFacts { vcpus: 2, ..facts() }));
        let pin = host.store.open(&Subject::base(facts())).unwrap();
        let keys = [used.to_string(), free.to_string()];
        let refused = remove(&host, &keys).unwrap_err().to_string();
        assert!(refused.contains(&short(used)) && refused.contains("a machine that isn't listed"), "{refused}");
        assert_eq!(host.bakes().unwrap().len(), 2, "all or none");
        let removed = remove(&host, &[free.to_string(), free.to_string()]).unwrap();
        assert_eq!(removed.removed.len(), 1);
        assert!(text(&removed).starts_with(&format!("removed {}\nfreed ", short(free))));
        drop(pin);
        assert_eq!(remove(&host, &keys[..1]).unwrap().removed[0].key, used);
        assert!(matches!(remove(&host, &keys[..1]), Err(RmError::Find(FindError::None { .. }))));
    }
}
