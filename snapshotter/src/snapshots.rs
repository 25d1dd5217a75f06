//! The operations of the snapshot service, on records and folders together.
//!
//! Everything here blocks and may run concurrently.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::warn;

use crate::directory::Directory;
use crate::error::SnapshotError;
use crate::exports;
use crate::filter::Filter;
use crate::layers::Layers;
use crate::metastore::{Lineage, Metastore, NewSnapshot};
use crate::mounts::{Mount, OverlayOptions, mount};
use crate::record::{Id, Kind, Labels, Named, Record, Usage};
use crate::tree::{self, Sizes};

/// A label's name and value together may have this many bytes: containerd's rule.
const LABEL_LIMIT: usize = 4096;

#[derive(Debug)]
pub(crate) struct Snapshots {
    directory: Arc<Directory>,
    metastore: Metastore,
    layers: Layers,
    sizes: Sizes,
    overlay: OverlayOptions,
}

/// What Commit is asked for.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) parent: String,
}

impl Snapshots {
    pub(crate) fn new(directory: Arc<Directory>, metastore: Metastore, layers: Layers) -> Self {
        Self { directory, metastore, layers, sizes: Sizes::default(), overlay: OverlayOptions::detect() }
    }

    /// Puts right what a crash left, and queues the layers that aren't converted yet.
    pub(crate) fn recover(&self) -> Result<(), SnapshotError> {
        self.cleanup()?;
        for Named { name, record } in self.metastore.list()? {
            if record.kind == Kind::Committed {
                self.layers.convert_later(record.id);
                continue;
            }
            let lineage = self.metastore.lineage(&name)?;
            let like = lineage.ancestors.first().copied();
            let repaired = self.directory.repair(record.id, record.kind == Kind::Active, like);
            if repaired.map_err(SnapshotError::at(&self.directory.snapshot(record.id)))? {
                warn!(key = name, id = %record.id, "made the folder of a snapshot that had lost it");
            }
            exports::sweep(&self.directory.writable(record.id));
        }
        Ok(())
    }

    pub(crate) fn create(&self, kind: Kind, key: &str, parent: &str, labels: Labels) -> Result<Mount, SnapshotError> {
        not_empty("key", key)?;
        check_labels(&labels)?;
        let parent = (!parent.is_empty()).then_some(parent);
        // If this fails halfway, the folder stays: `make` sets it aside when the id is given again, or Cleanup does.
        let lineage = self.metastore.create(NewSnapshot { kind, key, parent, labels }, |lineage| {
            let like = lineage.ancestors.first().copied();
            let folder = self.directory.make(lineage.id, kind == Kind::Active, like);
            folder.map_err(SnapshotError::at(&self.directory.snapshot(lineage.id)))
        })?;
        Ok(self.mount(&lineage))
    }

    fn mount(&self, lineage: &Lineage) -> Mount {
        mount(&self.directory, lineage, &self.overlay)
    }

    /// How to mount a snapshot, and its id if what was written to it must be brought there first.
    pub(crate) fn mounts(&self, key: &str) -> Result<(Mount, Option<Id>), SnapshotError> {
        let lineage = self.metastore.lineage(key)?;
        match lineage.kind {
            Kind::View => Ok((self.mount(&lineage), None)),
            Kind::Active => {
                let is_ahead = self.directory.writable(lineage.id).is_ahead();
                Ok((self.mount(&lineage), is_ahead.then_some(lineage.id)))
            }
            Kind::Committed => Err(SnapshotError::NotMountable { key: key.to_owned() }),
        }
    }

    /// Measures and flushes the files, then makes them a committed snapshot. Converting it is left to the background:
    /// containerd calls this with its database locked.
    pub(crate) fn commit(&self, commit: Commit) -> Result<(), SnapshotError> {
        let Commit { key, name, labels, parent } = commit;
        not_empty("name", &name)?;
        check_labels(&labels)?;
        let active = self.metastore.get(&key)?;
        if active.kind != Kind::Active {
            return Err(SnapshotError::NotActive { key });
        }
        if !parent.is_empty() && active.parent.as_ref() != Some(&parent) {
            return Err(SnapshotError::ParentChanged { key });
        }
        if self.directory.writable(active.id).disk().exists() {
            return Err(SnapshotError::HoldsDisk { key });
        }
        if self.metastore.get(&name).is_ok() {
            return Err(SnapshotError::Exists { key: name });
        }
        let files = self.directory.files(active.id);
        let usage = tree::measure(&files).map_err(SnapshotError::at(&files))?;
        tree::flush(&files, usage.inodes).map_err(SnapshotError::at(&files))?;
        let id = self.metastore.commit(&key, &name, labels, usage)?;
        self.sizes.forget(id);
        let work = self.directory.work(id);
        if let Err(error) = tree::delete(&work) {
            warn!(path = %work.display(), error = supermachine::chain(&error), "this stays until the snapshot is removed");
        }
        self.layers.convert_later(id);
        Ok(())
    }

    /// Forgets a snapshot and sets its folder aside for [`Self::cleanup`].
    pub(crate) fn remove(&self, key: &str) -> Result<Id, SnapshotError> {
        let Record { id, .. } = self.metastore.remove(key)?;
        self.layers.forget(id);
        self.sizes.forget(id);
        if let Err(error) = self.directory.discard(id) {
            warn!(%id, error = supermachine::chain(&error), "a removed snapshot's folder can't be renamed: Cleanup will try again");
        }
        Ok(id)
    }

    /// Deletes the folders of removed snapshots and of those that a crash left without a record.
    pub(crate) fn cleanup(&self) -> Result<(), SnapshotError> {
        let at = SnapshotError::at(self.directory.snapshots());
        let garbage = self.metastore.frozen(|known| self.directory.garbage(known))?.map_err(at)?;
        let mut result = Ok(());
        for path in garbage {
            if let Err(error) = tree::delete(&path) {
                result = Err(SnapshotError::at(&path)(error));
            }
        }
        result
    }

    pub(crate) fn stat(&self, key: &str) -> Result<Named, SnapshotError> {
        Ok(Named { name: key.to_owned(), record: self.metastore.get(key)? })
    }

    /// Snapshots that match any of the filters; all if there is none.
    pub(crate) fn list(&self, filters: &[String]) -> Result<Vec<Named>, SnapshotError> {
        let mut parsed = Vec::with_capacity(filters.len());
        for text in filters {
            let filter = Filter::parse(text);
            parsed.push(filter.map_err(|source| SnapshotError::Filter { filter: text.clone(), source })?);
        }
        let mut all = self.metastore.list()?;
        all.retain(|snapshot| parsed.is_empty() || parsed.iter().any(|filter| filter.matches(snapshot)));
        Ok(all)
    }

    /// Replaces the labels that `fields` name (`labels`, `labels.<name>`), or all if it is empty. A label without a
    /// value is removed.
    pub(crate) fn update(&self, key: &str, labels: &Labels, fields: &[String]) -> Result<Named, SnapshotError> {
        let record = self.metastore.update(key, |stored| {
            if fields.is_empty() {
                stored.clone_from(labels);
            }
            for field in fields {
                if field == "labels" {
                    stored.clone_from(labels);
                } else if let Some(label) = field.strip_prefix("labels.") {
                    stored.insert(label.to_owned(), labels.get(label).cloned().unwrap_or_default());
                } else {
                    return Err(SnapshotError::Immutable { key: key.to_owned(), field: field.clone() });
                }
            }
            stored.retain(|_label, value| !value.is_empty());
            check_labels(stored)
        })?;
        Ok(Named { name: key.to_owned(), record })
    }

    /// Disk taken by the snapshot alone, in all its forms.
    pub(crate) fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        let Record { id, kind, usage, .. } = self.metastore.get(key)?;
        let (usage, more) = match kind {
            Kind::View => (usage, 0),
            Kind::Committed => (usage, tree::file_bytes(&self.directory.layer(id))),
            Kind::Active => {
                let files = self.directory.files(id);
                let usage = self.sizes.measure(id, &files).map_err(SnapshotError::at(&files))?;
                (usage, tree::file_bytes(&self.directory.writable(id).disk()))
            }
        };
        Ok(Usage { bytes: usage.bytes + more, inodes: usage.inodes + u64::from(more > 0) })
    }

    /// The committed snapshot that containerd calls `chain_id` in one of its namespaces, and its parents, lowest first.
    /// Its metadata store asks for snapshots as `NAMESPACE/NUMBER/NAME`.
    pub(crate) fn layers_of(&self, namespace: &str, chain_id: &str) -> Result<Vec<Id>, SnapshotError> {
        let named = |name: &str| {
            let mut parts = name.splitn(3, '/');
            (parts.next(), parts.nth(1)) == (Some(namespace), Some(chain_id))
        };
        let mut all = self.metastore.list()?.into_iter();
        let found = all.find(|snapshot| snapshot.record.kind == Kind::Committed && named(&snapshot.name));
        let found = found.ok_or_else(|| SnapshotError::NotFound { key: format!("{namespace}/{chain_id}") })?;
        let lineage = self.metastore.lineage(&found.name)?;
        Ok(lineage.ancestors.into_iter().rev().chain([lineage.id]).collect())
    }

    /// The kind of every snapshot.
    pub(crate) fn kinds(&self) -> Result<HashMap<Id, Kind>, SnapshotError> {
        Ok(self.metastore.list()?.into_iter().map(|Named { record, .. }| (record.id, record.kind)).collect())
    }

    /// What converts committed snapshots.
    pub(crate) fn layers(&self) -> &Layers {
        &self.layers
    }
}

fn not_empty(what: &'static str, text: &str) -> Result<(), SnapshotError> {
    if text.is_empty() { Err(SnapshotError::Empty { what }) } else { Ok(()) }
}

fn check_labels(labels: &Labels) -> Result<(), SnapshotError> {
    match labels.iter().find(|(name, value)| name.len() + value.len() > LABEL_LIMIT) {
        None => Ok(()),
        Some((label, _)) => Err(SnapshotError::LongLabel { label: label.clone(), limit: LABEL_LIMIT }),
    }
}
