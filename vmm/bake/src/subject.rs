//! What a bake is of.

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::key::{Key, MachineFacts};
use crate::manifest::Level;

/// Separates keys of image bakes from every other use of SHA-256, those of base bakes among them.
const IMAGE_DOMAIN: &[u8] = b"supermachine image bake key\0";
/// The same of warm bakes.
const WARM_DOMAIN: &[u8] = b"supermachine warm bake key\0";

/// What a bake holds, which is all that its key is made of: a machine, in it an image, and of that a running process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The machine.
    pub facts: MachineFacts,
    /// Digests of the files of the image's layers, lowest first. None of a base bake, which holds no image.
    pub layers: Vec<Digest>,
    /// Digest of what the container that runs in it was made of: everything but what tells containers apart.
    pub process: Option<Digest>,
}

impl Subject {
    /// A machine without an image.
    pub fn base(facts: MachineFacts) -> Self {
        Self::image(facts, Vec::new())
    }

    /// A machine that has the layers of an image mounted. Without any it is a base.
    pub fn image(facts: MachineFacts, layers: Vec<Digest>) -> Self {
        Self { facts, layers, process: None }
    }

    /// A machine in which a container of an image runs.
    pub fn warm(facts: MachineFacts, layers: Vec<Digest>, process: Digest) -> Self {
        Self { facts, layers, process: Some(process) }
    }

    /// How much of a container's start such a bake has behind it.
    pub fn level(&self) -> Level {
        match self.process {
            Some(_) => Level::Warm,
            None if self.layers.is_empty() => Level::Base,
            None => Level::Image,
        }
    }

    /// What the bake is of that this one lies over: only the pages in which they differ are kept.
    pub fn parent(&self) -> Option<Self> {
        match self.level() {
            Level::Base => None,
            Level::Image => Some(Self::base(self.facts.clone())),
            Level::Warm => Some(Self::image(self.facts.clone(), self.layers.clone())),
        }
    }

    /// The key: the machine's own; of an image SHA-256 over a domain, that key, and the number and digests of the layers
    /// in order; of a process SHA-256 over another domain, the image's key, and the process's digest.
    pub fn key(&self) -> Key {
        let machine = self.facts.key();
        let image = if self.layers.is_empty() { machine } else { self.image_key(&machine) };
        let Some(process) = &self.process else { return image };
        let mut hasher = Hasher::default();
        hasher.update(WARM_DOMAIN);
        hasher.update(&image.0.0);
        hasher.update(&process.0);
        Key(hasher.finish())
    }

    fn image_key(&self, machine: &Key) -> Key {
        let mut hasher = Hasher::default();
        hasher.update(IMAGE_DOMAIN);
        hasher.update(&machine.0.0);
        hasher.update(&(self.layers.len() as u64).to_le_bytes());
        self.layers.iter().for_each(|layer| hasher.update(&layer.0));
        Key(hasher.finish())
    }

    /// Names the first thing that differs, with both values: why a bake is foreign.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let layers = || (self.layers != other.layers).then(|| "it holds other layers".to_owned());
        let process = || (self.process != other.process).then(|| "another process runs in it".to_owned());
        self.facts.difference(&other.facts).or_else(layers).or_else(process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tests::facts;

    fn image(layers: &[u8]) -> Subject {
        Subject::image(facts(), layers.iter().map(|&layer| Digest([layer; 32])).collect())
    }

    #[test]
    fn each_image_has_a_key_and_the_base_has_the_machine_s() {
        assert_eq!(Subject::base(facts()).key(), facts().key());
        let mut keys: Vec<_> =
            [&[][..], &[1], &[2], &[1, 2], &[2, 1], &[1, 2, 2]].map(|layers| image(layers).key()).into();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 6);
        let elsewhere = Subject { facts: MachineFacts { cpu_model: 1, ..facts() }, ..image(&[1]) };
        assert_ne!(elsewhere.key(), image(&[1]).key());
    }

    fn warm(layers: &[u8], process: u8) -> Subject {
        Subject { process: Some(Digest([process; 32])), ..image(layers) }
    }

    #[test]
    fn each_process_of_an_image_has_a_key() {
        let mut keys = [image(&[1]), warm(&[1], 1), warm(&[1], 2), warm(&[2], 1), warm(&[], 1)].map(|of| of.key());
        keys.sort();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_process_lies_over_its_image() {
        assert_eq!((warm(&[1], 2).level(), warm(&[1], 2).parent()), (Level::Warm, Some(image(&[1]))));
        assert_eq!(warm(&[1], 2).difference(&warm(&[1], 3)).unwrap(), "another process runs in it");
    }

    #[test]
    fn an_image_lies_over_the_base_of_its_machine() {
        assert_eq!(image(&[1, 2]).parent(), Some(Subject::base(facts())));
        assert_eq!(Subject::base(facts()).parent(), None);
        assert_eq!((image(&[1]).level(), Subject::base(facts()).level()), (Level::Image, Level::Base));
    }

    #[test]
    fn what_differs_is_named() {
        assert_eq!(image(&[1]).difference(&image(&[1])), None);
        assert_eq!(image(&[1]).difference(&image(&[2])).unwrap(), "it holds other layers");
        let elsewhere = Subject { facts: MachineFacts { cpu_model: 1, ..facts() }, ..image(&[2]) };
        assert_eq!(image(&[1]).difference(&elsewhere).unwrap(), "CPU model 1, here 107");
    }
}
