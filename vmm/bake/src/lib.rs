//! Bakes: snapshots of a virtual machine, made ahead of time, that starts are restored from.
//!
//! A bake is a directory named after its [`Key`] with the files `manifest`, `state`, `memory` and, if a container runs in
//! it, `upper`. It is executable
//! input (whoever writes it decides what the guest runs), so it is root-owned, its digests are checked, and
//! everything in it is parsed as untrusted. This crate knows the format and the store and nothing of KVM.
#![forbid(unsafe_code)]

mod digest;
mod draft;
mod extents;
mod identity;
mod key;
mod layers;
mod ledger;
mod manifest;
mod memo;
mod reason;
mod record;
mod store;
mod subject;
mod trust;
mod upper;
mod written;

pub use digest::{Digest, Hasher};
pub use draft::{Draft, PublishError, Published};
pub use extents::{Extent, Extents, ExtentsError, MAX_EXTENTS, PAGE_BYTES};
pub use identity::FileIdentity;
pub use key::{Key, MachineFacts, ParseKeyError};
pub use layers::LayerDigests;
pub use manifest::{FORMAT_VERSION, Level, Manifest, ManifestError, Part, Upper};
pub use memo::{DigestError, DigestMemo};
pub use reason::{Damage, Reason};
pub use record::{load as load_record, save as save_record};
pub use store::{Bake, Candidate, Claim, Entry, Lookup, Pin, Store, StoreError};
pub use subject::Subject;
pub use upper::{UnpackError, unpack};
pub use written::{MAX_RUNS, Run, Written, WrittenError};
