//! The snapshots' records, in one transactional database file.
//!
//! Keys (of active snapshots and views) and names (of committed ones) share one space. Every change is one durable
//! write transaction, and only one such transaction runs at a time; what must happen on disk together with a change
//! is done by a closure inside it, so that a failure leaves no record.

use std::path::Path;

use redb::{
    Database, MultimapTableDefinition, ReadableDatabase, ReadableMultimapTable, ReadableTable, Table, TableDefinition,
};

use crate::error::SnapshotError;
use crate::record::{Id, Kind, Labels, Moment, Named, Record, Usage};

/// Key or name -> record.
const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
/// Parent's id -> ids of its children.
const CHILDREN: MultimapTableDefinition<'_, u64, u64> = MultimapTableDefinition::new("children");
/// Counters: `id` is the last id given, `format` the version of the records.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// Version of the records' encoding.
const FORMAT: u64 = 1;
/// The records of a node fit many times; redb's default is a gigabyte.
const CACHE_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Metastore {
    database: Database,
}

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the snapshot database can't be opened")]
    Database(#[source] redb::Error),
    #[error("the snapshot database has format {found}, this version knows {FORMAT}: install the version that wrote it")]
    Format { found: u64 },
}

/// A snapshot to be made.
#[derive(Debug)]
pub(crate) struct NewSnapshot<'a> {
    pub(crate) kind: Kind,
    pub(crate) key: &'a str,
    pub(crate) parent: Option<&'a str>,
    pub(crate) labels: Labels,
}

/// A snapshot's id and those of its ancestors, nearest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lineage {
    pub(crate) kind: Kind,
    pub(crate) id: Id,
    pub(crate) ancestors: Vec<Id>,
}

fn database(source: impl Into<redb::Error>) -> SnapshotError {
    SnapshotError::Database { source: source.into() }
}

impl Metastore {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        fn failed(source: impl Into<redb::Error>) -> OpenError {
            OpenError::Database(source.into())
        }
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(failed)?;
        let write = database.begin_write().map_err(failed)?;
        {
            write.open_table(SNAPSHOTS).map_err(failed)?;
            write.open_multimap_table(CHILDREN).map_err(failed)?;
            let mut counters = write.open_table(COUNTERS).map_err(failed)?;
            let found = counters.get("format").map_err(failed)?.map(|format| format.value());
            match found {
                None => drop(counters.insert("format", FORMAT).map_err(failed)?),
                Some(FORMAT) => {}
                Some(found) => return Err(OpenError::Format { found }),
            }
        }
        write.commit().map_err(failed)?;
        Ok(Self { database })
    }

    pub(crate) fn get(&self, key: &str) -> Result<Record, SnapshotError> {
        let read = self.database.begin_read().map_err(database)?;
        find(&read.open_table(SNAPSHOTS).map_err(database)?, key)?.ok_or_else(|| not_found(key))
    }

    /// The snapshot's id and its ancestors'.
    pub(crate) fn lineage(&self, key: &str) -> Result<Lineage, SnapshotError> {
        let read = self.database.begin_read().map_err(database)?;
        let table = read.open_table(SNAPSHOTS).map_err(database)?;
        let record = find(&table, key)?.ok_or_else(|| not_found(key))?;
        let ancestors = ancestors(&table, record.parent.as_deref())?;
        Ok(Lineage { kind: record.kind, id: record.id, ancestors })
    }

    /// All snapshots, by name.
    pub(crate) fn list(&self) -> Result<Vec<Named>, SnapshotError> {
        let read = self.database.begin_read().map_err(database)?;
        let table = read.open_table(SNAPSHOTS).map_err(database)?;
        let mut all = Vec::new();
        for entry in table.iter().map_err(database)? {
            let (name, bytes) = entry.map_err(database)?;
            all.push(Named { name: name.value().to_owned(), record: decode(name.value(), bytes.value())? });
        }
        Ok(all)
    }

    /// Records a new active snapshot or view once `place` has made its folder.
    pub(crate) fn create(
        &self,
        new: NewSnapshot<'_>,
        place: impl FnOnce(&Lineage) -> Result<(), SnapshotError>,
    ) -> Result<Lineage, SnapshotError> {
        let write = self.database.begin_write().map_err(database)?;
        let lineage = {
            let mut table = write.open_table(SNAPSHOTS).map_err(database)?;
            let parent = match new.parent {
                None => None,
                Some(parent) => Some(committed_parent(&table, parent)?),
            };
            if find(&table, new.key)?.is_some() {
                return Err(SnapshotError::Exists { key: new.key.to_owned() });
            }
            let id = next_id(&mut write.open_table(COUNTERS).map_err(database)?)?;
            if let Some(parent) = &parent {
                let mut children = write.open_multimap_table(CHILDREN).map_err(database)?;
                children.insert(parent.id.0, id.0).map_err(database)?;
            }
            let now = Moment::now();
            let record = Record {
                id,
                kind: new.kind,
                parent: new.parent.map(str::to_owned),
                created: now,
                updated: now,
                labels: new.labels,
                usage: Usage::default(),
            };
            put(&mut table, new.key, &record)?;
            let lineage = Lineage { kind: new.kind, id, ancestors: ancestors(&table, new.parent)? };
            place(&lineage)?;
            lineage
        };
        write.commit().map_err(database)?;
        Ok(lineage)
    }

    /// Turns the active snapshot `key` into the committed one `name`. Its labels are replaced, its key is free again.
    pub(crate) fn commit(&self, key: &str, name: &str, labels: Labels, usage: Usage) -> Result<Id, SnapshotError> {
        let write = self.database.begin_write().map_err(database)?;
        let id = {
            let mut table = write.open_table(SNAPSHOTS).map_err(database)?;
            if find(&table, name)?.is_some() {
                return Err(SnapshotError::Exists { key: name.to_owned() });
            }
            let active = find(&table, key)?.ok_or_else(|| not_found(key))?;
            if active.kind != Kind::Active {
                return Err(SnapshotError::NotActive { key: key.to_owned() });
            }
            let now = Moment::now();
            let record = Record { kind: Kind::Committed, created: now, updated: now, labels, usage, ..active };
            table.remove(key).map_err(database)?;
            put(&mut table, name, &record)?;
            record.id
        };
        write.commit().map_err(database)?;
        Ok(id)
    }

    /// Replaces labels as `change` says.
    pub(crate) fn update(
        &self,
        key: &str,
        change: impl FnOnce(&mut Labels) -> Result<(), SnapshotError>,
    ) -> Result<Record, SnapshotError> {
        let write = self.database.begin_write().map_err(database)?;
        let record = {
            let mut table = write.open_table(SNAPSHOTS).map_err(database)?;
            let mut record = find(&table, key)?.ok_or_else(|| not_found(key))?;
            change(&mut record.labels)?;
            record.updated = Moment::now();
            put(&mut table, key, &record)?;
            record
        };
        write.commit().map_err(database)?;
        Ok(record)
    }

    /// Forgets a snapshot that has no children. Its folder is the caller's to remove.
    pub(crate) fn remove(&self, key: &str) -> Result<Record, SnapshotError> {
        let write = self.database.begin_write().map_err(database)?;
        let record = {
            let mut table = write.open_table(SNAPSHOTS).map_err(database)?;
            let record = find(&table, key)?.ok_or_else(|| not_found(key))?;
            let mut children = write.open_multimap_table(CHILDREN).map_err(database)?;
            if !children.get(record.id.0).map_err(database)?.is_empty() {
                return Err(SnapshotError::HasChildren { key: key.to_owned() });
            }
            if let Some(parent) = &record.parent
                && let Some(parent) = find(&table, parent)?
            {
                children.remove(parent.id.0, record.id.0).map_err(database)?;
            }
            table.remove(key).map_err(database)?;
            record
        };
        write.commit().map_err(database)?;
        Ok(record)
    }

    /// Runs `action` with every known id while no snapshot can be made or removed.
    pub(crate) fn frozen<T>(&self, action: impl FnOnce(&[Id]) -> T) -> Result<T, SnapshotError> {
        let write = self.database.begin_write().map_err(database)?;
        let ids: Vec<Id> = self.list()?.iter().map(|named| named.record.id).collect();
        let result = action(&ids);
        write.abort().map_err(database)?;
        Ok(result)
    }
}

fn not_found(key: &str) -> SnapshotError {
    SnapshotError::NotFound { key: key.to_owned() }
}

fn decode(key: &str, bytes: &[u8]) -> Result<Record, SnapshotError> {
    postcard::from_bytes(bytes).map_err(|source| SnapshotError::Record { key: key.to_owned(), source })
}

fn find(table: &impl ReadableTable<&'static str, &'static [u8]>, key: &str) -> Result<Option<Record>, SnapshotError> {
    table.get(key).map_err(database)?.map(|bytes| decode(key, bytes.value())).transpose()
}

fn put(table: &mut Table<'_, &'static str, &'static [u8]>, key: &str, record: &Record) -> Result<(), SnapshotError> {
    let bytes = postcard::to_stdvec(record).map_err(|source| SnapshotError::Record { key: key.to_owned(), source })?;
    table.insert(key, bytes.as_slice()).map_err(database)?;
    Ok(())
}

fn next_id(counters: &mut Table<'_, &'static str, u64>) -> Result<Id, SnapshotError> {
    let id = counters.get("id").map_err(database)?.map_or(0, |last| last.value()) + 1;
    counters.insert("id", id).map_err(database)?;
    Ok(Id(id))
}

fn committed_parent(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    parent: &str,
) -> Result<Record, SnapshotError> {
    let record = find(table, parent)?.ok_or_else(|| SnapshotError::ParentNotFound { parent: parent.to_owned() })?;
    match record.kind {
        Kind::Committed => Ok(record),
        Kind::Active | Kind::View => Err(SnapshotError::ParentNotCommitted { parent: parent.to_owned() }),
    }
}

/// Ids from `parent` to the root of its chain. It ends because a parent exists before its child is made and never
/// changes.
fn ancestors(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    parent: Option<&str>,
) -> Result<Vec<Id>, SnapshotError> {
    let mut ids = Vec::new();
    let mut next = parent.map(str::to_owned);
    while let Some(name) = next {
        let record = find(table, &name)?.ok_or(SnapshotError::ParentNotFound { parent: name })?;
        ids.push(record.id);
        next = record.parent;
    }
    Ok(ids)
}
