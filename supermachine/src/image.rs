//! An image's bake.

use std::path::PathBuf;

use bake::{Bake, Level, Reason};

use crate::machine::{Machine, MachineError};

/// What the store has for an image on a machine.
#[derive(Debug)]
pub enum Lookup {
    /// A bake, checked and locked, and its level.
    Hit(Box<Bake>, Level),
    /// Nothing usable.
    Miss(Reason),
}

/// An image: its layers. The bakes there are so far hold no image, so that every image finds the machine's base bake.
#[derive(Clone, Debug, Default)]
pub struct Image {
    layers: Vec<PathBuf>,
}

impl Image {
    /// The image with these squashfs layers, lowest first.
    pub fn new(layers: Vec<PathBuf>) -> Self {
        Self { layers }
    }

    /// Its layers, lowest first.
    pub fn layers(&self) -> &[PathBuf] {
        &self.layers
    }

    /// Finds the bake to restore this image from. A damaged one is removed from the store.
    pub async fn lookup(&self, machine: &Machine) -> Result<Lookup, MachineError> {
        lookup(machine).await
    }
}

pub(crate) async fn lookup(machine: &Machine) -> Result<Lookup, MachineError> {
    if !machine.is_baking {
        return Ok(Lookup::Miss(Reason::Off));
    }
    let facts = machine.facts().await?;
    let candidate = match machine.store.open(&facts) {
        Ok(candidate) => candidate,
        Err(reason) => return Ok(Lookup::Miss(machine.store.dispose(reason))),
    };
    let verified = if candidate.is_verified() {
        candidate.verify()
    } else {
        // Reads the whole bake: once after the host's boot.
        match tokio::task::spawn_blocking(|| candidate.verify()).await {
            Ok(verified) => verified,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    };
    Ok(match verified {
        Ok(bake) => {
            let level = bake.manifest.level;
            Lookup::Hit(Box::new(bake), level)
        }
        Err(reason) => Lookup::Miss(machine.store.dispose(reason)),
    })
}
