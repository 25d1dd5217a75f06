//! `df`: what takes how much of the disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use supermachine::StoreError;

use crate::bakes::Listed;
use crate::host::Host;
use crate::output::{OutputError, show};
use crate::quantities::bytes;
use crate::table::{Side, Table};

/// Nothing can be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DfError {
    #[error("cannot list the snapshots in {}; check its permissions, or set `paths.snapshotter`", path.display())]
    Snapshots {
        /// Their directory.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the bake store can't be used; check the directory that `paths.bakes` names and its disk")]
    Store(#[from] StoreError),
    #[error("cannot print the result")]
    Output(#[from] OutputError),
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Usage {
    kinds: Vec<Kind>,
    disk_bytes: u64,
    reclaimable_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Kind {
    name: String,
    count: u64,
    disk_bytes: u64,
    /// What `supermachine prune --all` would free.
    reclaimable_bytes: u64,
}

impl Kind {
    fn named(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    fn add(&mut self, disk_bytes: u64, is_reclaimable: bool) {
        self.count += 1;
        self.disk_bytes += disk_bytes;
        self.reclaimable_bytes += if is_reclaimable { disk_bytes } else { 0 };
    }
}

pub(crate) fn run(host: &Host, json: bool) -> Result<(), DfError> {
    let usage = measure(&host.bakes()?, &host.config.paths.snapshotter)?;
    Ok(show(json, &usage, text)?)
}

fn measure(bakes: &[Listed], snapshotter: &Path) -> Result<Usage, DfError> {
    let mut kinds = by_level(bakes);
    kinds.extend(of_snapshots(&snapshotter.join("snapshots"))?);
    Ok(Usage {
        disk_bytes: kinds.iter().map(|kind| kind.disk_bytes).sum(),
        reclaimable_bytes: kinds.iter().map(|kind| kind.reclaimable_bytes).sum(),
        kinds,
    })
}

fn by_level(bakes: &[Listed]) -> Vec<Kind> {
    let mut kinds = BTreeMap::<String, Kind>::new();
    for Listed { entry, manifest } in bakes {
        let level =
            manifest.as_ref().map_or_else(|_fault| "damaged".to_owned(), |known| known.subject.level().to_string());
        let name = format!("bakes ({level})");
        kinds.entry(name.clone()).or_insert_with(|| Kind::named(name)).add(entry.disk_bytes, !entry.in_use);
    }
    kinds.into_values().collect()
}

/// Layers and writable disks. containerd decides how long they stay.
fn of_snapshots(directory: &Path) -> Result<[Kind; 2], DfError> {
    let failed = |source| DfError::Snapshots { path: directory.to_owned(), source };
    let mut kinds = ["layers", "writable disks"].map(|name| Kind::named(name.to_owned()));
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(kinds),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let snapshot = entry.map_err(failed)?.path();
        for (kind, file) in kinds.iter_mut().zip(["layer.squashfs", "upper.ext4"]) {
            // Most snapshots have one of them, and any may go at any time.
            if let Ok(metadata) = fs::symlink_metadata(snapshot.join(file)) {
                kind.add(metadata.blocks() * 512, false);
            }
        }
    }
    Ok(kinds)
}

fn text(usage: &Usage) -> String {
    use Side::{Left, Right};
    let mut table = Table::new([("WHAT", Left), ("COUNT", Right), ("SIZE", Right), ("RECLAIMABLE", Right)]);
    for Kind { name, count, disk_bytes, reclaimable_bytes } in &usage.kinds {
        table.add([name.clone(), count.to_string(), bytes(*disk_bytes), bytes(*reclaimable_bytes)]);
    }
    table.add(["total".to_owned(), String::new(), bytes(usage.disk_bytes), bytes(usage.reclaimable_bytes)]);
    table.to_string()
}

#[cfg(test)]
mod tests {
    use supermachine::{MachineFacts, Subject};

    use super::*;
    use crate::fixture::{Fixture, facts};

    #[test]
    fn bakes_layers_and_disks_are_counted_and_unused_bakes_can_be_reclaimed() {
        let fixture = Fixture::new();
        let host = fixture.host();
        assert_eq!(measure(&[], &fixture.path().join("none")).unwrap().disk_bytes, 0);
        fixture.publish(facts());
        fixture.publish(MachineFacts { vcpus: 2, ..facts() });
        let _pin = host.store.open(&Subject::base(facts())).unwrap();
        for (snapshot, file, size) in
            [("1", "layer.squashfs", 8192), ("2", "layer.squashfs", 4096), ("3", "upper.ext4", 4096)]
        {
            let folder = fixture.path().join("snapshotter/snapshots").join(snapshot);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(file), vec![1; size]).unwrap();
        }
        let usage = measure(&host.bakes().unwrap(), &host.config.paths.snapshotter).unwrap();
        let [bakes, layers, disks] = usage.kinds.as_slice() else { panic!("{usage:?}") };
        assert_eq!((bakes.name.as_str(), bakes.count), ("bakes (base)", 2));
        assert_eq!(bakes.reclaimable_bytes * 2, bakes.disk_bytes, "one of two that are alike");
        assert_eq!((layers.count, disks.count, disks.reclaimable_bytes), (2, 1, 0));
        assert_eq!(usage.disk_bytes, bakes.disk_bytes + layers.disk_bytes + disks.disk_bytes);
        let text = text(&usage);
        assert!(text.starts_with("WHAT") && text.lines().count() == 5, "{text}");
    }
}
