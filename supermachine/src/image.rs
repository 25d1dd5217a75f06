//! An image's bake.

use std::path::PathBuf;

use bake::{Bake, Candidate, Digest, DigestError, Key, LayerDigests, MachineFacts, Reason, Subject};

use crate::blocking::apart;
use crate::machine::{Machine, MachineError};
use crate::upper::UpperError;
use crate::warm::{WarmContainer, Warmth};

/// What the store has for an image on a machine.
#[derive(Debug)]
pub enum Lookup {
    /// A bake, checked and locked.
    Hit {
        /// The bake: the warmest that there is.
        bake: Box<Bake>,
        /// Why it isn't a warmer one, warmest first.
        instead: Vec<Reason>,
    },
    /// Nothing usable, for these reasons.
    Miss(Vec<Reason>),
}

/// An image: its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    layers: Vec<PathBuf>,
}

impl Image {
    /// The image with these squashfs layers, lowest first. Without any it is none, and has the machine's bake.
    pub fn new(layers: Vec<PathBuf>) -> Self {
        Self { layers }
    }

    /// Its layers, lowest first.
    pub fn layers(&self) -> &[PathBuf] {
        &self.layers
    }

    /// Finds the bake to restore a container of this image from, whose writable disk, if it has one, is fresh and has so
    /// many bytes. A damaged bake is removed from the store.
    pub async fn lookup(
        &self,
        machine: &Machine,
        warmth: &Warmth,
        disk_bytes: Option<u64>,
    ) -> Result<Lookup, MachineError> {
        if !machine.is_baking {
            return Ok(Lookup::Miss(vec![Reason::Off]));
        }
        let facts = machine.facts().await?;
        let cold = match self.find_warm(machine, &facts, warmth, disk_bytes).await {
            Ok(bake) => return Ok(Lookup::Hit { bake, instead: Vec::new() }),
            Err(reason) => reason,
        };
        let instead = match self.find(machine, &facts).await {
            Ok(bake) => return Ok(Lookup::Hit { bake, instead: Vec::from_iter(cold) }),
            Err(reason) => reason,
        };
        Ok(match open(machine, &Subject::base(facts)).await {
            Ok(bake) => Lookup::Hit { bake, instead: cold.into_iter().chain(instead).collect() },
            Err(reason) => {
                // A base bake that was found damaged below another is gone by now: that is the reason.
                let fault = [&cold, &instead].into_iter().flatten().any(Reason::is_fault);
                let all = cold.into_iter().chain(instead);
                Lookup::Miss(if fault { all.filter(Reason::is_fault).collect() } else { vec![reason] })
            }
        })
    }

    /// Whether there is a bake of that container of the image, or else of the image itself, or of the machine if it is none.
    /// Whether it is damaged is found out by whoever restores from it.
    pub async fn is_baked(&self, machine: &Machine, container: Option<&WarmContainer>) -> bool {
        let (Ok(facts), Ok(layers)) = (machine.facts().await, self.recall(&machine.layer_digests())) else {
            return false;
        };
        subject(machine, facts, layers, container).is_ok_and(|subject| machine.store.open(&subject).is_ok())
    }

    /// The key of the bake of that container of the image, or else of the image's own, or of the machine's if it is none.
    /// Reads layers that weren't read yet.
    pub async fn key(&self, machine: &Machine, container: Option<&WarmContainer>) -> Result<Key, MachineError> {
        let facts = machine.facts().await?;
        let layers = self.digests(machine).await.map_err(MachineError::Digest)?;
        Ok(subject(machine, facts, layers, container).map_err(MachineError::Upper)?.key())
    }

    /// The bake of a container that runs, or why there is none; no reason if it isn't wanted.
    async fn find_warm(
        &self,
        machine: &Machine,
        facts: &MachineFacts,
        warmth: &Warmth,
        disk_bytes: Option<u64>,
    ) -> Result<Box<Bake>, Option<Reason>> {
        let container = match warmth {
            Warmth::Unwanted => return Err(None),
            Warmth::Impossible(why) => return Err(Some(Reason::NeverWarm { why: why.clone() })),
            Warmth::Wanted(container) => container,
        };
        let layers = self.recall(&machine.layer_digests());
        // Without its layers' digests no bake was made of the image, and none over it.
        let (Ok(layers), Some(disk_bytes)) = (layers, disk_bytes) else { return Err(Some(Reason::NoWarm)) };
        open(machine, &Subject::warm(facts.clone(), layers, container.digest(disk_bytes))).await.map_err(Some)
    }

    /// The image's own bake, or why there is none; no reason if there is no image.
    async fn find(&self, machine: &Machine, facts: &MachineFacts) -> Result<Box<Bake>, Option<Reason>> {
        if self.layers.is_empty() {
            return Err(None);
        }
        let layers = self.recall(&machine.layer_digests())?;
        open(machine, &Subject::image(facts.clone(), layers)).await.map_err(Some)
    }

    /// Digests of the layers as far as they are known.
    fn recall(&self, known: &LayerDigests) -> Result<Vec<Digest>, Reason> {
        let recall = |path: &PathBuf| known.recall(path).ok_or_else(|| Reason::Undigested { layer: path.clone() });
        self.layers.iter().map(recall).collect()
    }

    /// Digests of the layers, of which those that aren't known are read.
    pub(crate) async fn digests(&self, machine: &Machine) -> Result<Vec<Digest>, DigestError> {
        let (known, layers) = (machine.layer_digests(), self.layers.clone());
        let read = move || layers.iter().map(|path| known.digest(path)).collect();
        apart(read).await
    }
}

/// What the bake is of: a container with a fresh writable disk, if there is one.
pub(crate) fn subject(
    machine: &Machine,
    facts: MachineFacts,
    layers: Vec<Digest>,
    container: Option<&WarmContainer>,
) -> Result<Subject, UpperError> {
    Ok(match container {
        Some(container) => Subject::warm(facts, layers, container.digest(machine.fresh_disk_bytes()?)),
        None => Subject::image(facts, layers),
    })
}

/// Opens and checks a bake. A damaged one is removed from the store.
pub(crate) async fn open(machine: &Machine, subject: &Subject) -> Result<Box<Bake>, Reason> {
    let opened = match machine.store.open(subject) {
        Ok(candidate) => verify(candidate).await,
        Err(reason) => Err(reason),
    };
    opened.map(Box::new).map_err(|reason| machine.store.dispose(reason))
}

async fn verify(candidate: Candidate) -> Result<Bake, Reason> {
    if candidate.is_verified() {
        return candidate.verify();
    }
    // Reads the whole bake: once after the host's boot.
    apart(|| candidate.verify()).await
}
