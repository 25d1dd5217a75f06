//! Why an operation of the snapshot service failed.

use std::io;
use std::path::{Path, PathBuf};

/// Every variant but the last four is the caller's doing, and each has its own RPC code (`service.rs`).
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("no snapshot {key:?}")]
    NotFound { key: String },
    #[error("the parent {parent:?} doesn't exist")]
    ParentNotFound { parent: String },
    #[error("the parent {parent:?} isn't a committed snapshot")]
    ParentNotCommitted { parent: String },
    #[error("a snapshot {key:?} exists already")]
    Exists { key: String },
    #[error("the snapshot {key:?} isn't active")]
    NotActive { key: String },
    #[error("the snapshot {key:?} is committed and has no mounts: prepare or view it")]
    NotMountable { key: String },
    #[error("the snapshot {key:?} can't be removed: other snapshots have it as their parent")]
    HasChildren { key: String },
    #[error("the field {field:?} of snapshot {key:?} can't be changed: only labels can")]
    Immutable { key: String, field: String },
    #[error("the parent of the active snapshot {key:?} can't be changed at commit")]
    ParentChanged { key: String },
    #[error("the snapshot {key:?} holds a virtual machine's disk, whose files can't be committed as a layer")]
    HoldsDisk { key: String },
    #[error("the label {label:?} with its value is longer than {limit} bytes")]
    LongLabel { label: String, limit: usize },
    #[error("a snapshot's {what} can't be empty")]
    Empty { what: &'static str },
    #[error("filter {filter:?}")]
    Filter {
        filter: String,
        #[source]
        source: crate::filter::FilterError,
    },
    #[error("what the snapshot's container has written can't be had")]
    Export(#[from] crate::exports::ExportsError),
    #[error("{path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the record of snapshot {key:?} can't be read")]
    Record {
        key: String,
        #[source]
        source: postcard::Error,
    },
    #[error("the snapshot database failed")]
    Database {
        #[source]
        source: redb::Error,
    },
}

impl SnapshotError {
    /// For `map_err`: the failed operation concerned `path`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
