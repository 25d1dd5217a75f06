//! Bakes in use, which the store keeps as long as somebody has them.

use std::fs::File;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};

use crate::key::Key;
use crate::manifest::Manifest;

/// A bake in use: its files are open and the store won't remove it while this lives.
#[derive(Debug)]
pub struct Bake {
    /// Its key.
    pub key: Key,
    /// What it is.
    pub manifest: Manifest,
    /// The open `state` file.
    pub state: File,
    /// The open `memory` file.
    pub memory: File,
    /// The open `upper` file, of a warm bake.
    pub upper: Option<File>,
    /// The bake that it lies over, if it lies over one.
    pub over: Option<Box<Bake>>,
    pub(super) pin: Pin,
}

/// Keeps a bake in the store, and the one it lies over: shared locks on their manifests.
#[derive(Debug)]
pub struct Pin {
    pub(super) lock: File,
    pub(super) _over: Option<Box<Pin>>,
}

impl Bake {
    /// Closes the bake's files and keeps it in the store.
    pub fn into_pin(self) -> Pin {
        let over = self.over.map(|over| Box::new(over.into_pin()));
        Pin { _over: over, ..self.pin }
    }

    /// Notes that it is used now, and after it what it lies over, which so is never older. Nothing depends on this but the
    /// order in which bakes go when there are too many.
    pub fn touch(&self) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: now, last_modification: same };
        if let Err(error) = futimens(&self.pin.lock, &times) {
            tracing::debug!(key = %self.key, %error, "a bake's use can't be noted");
        }
        if let Some(over) = &self.over {
            over.touch();
        }
    }

    /// It and what it lies over, lowest first: of a page that several have, the last one's counts.
    pub fn stack(&self) -> Vec<&Self> {
        let mut stack = self.over.as_ref().map_or_else(Vec::new, |over| over.stack());
        stack.push(self);
        stack
    }
}
