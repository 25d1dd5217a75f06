//! Container annotations that change the configuration for one container or pod.

use crate::bytes::Bytes;
use crate::error::ConfigError;
use crate::raw::hint;
use crate::resolved::{Config, MAX_VCPUS, check_memory};

/// What such an annotation's name begins with; the rest is the key.
pub const ANNOTATION_PREFIX: &str = "io.supermachine.config.";

/// Keys that can be overridden for one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationKey {
    /// `vm.memory`: bytes, or a size such as `256M`.
    Memory,
    /// `vm.vcpus`: 1 to 64.
    Vcpus,
}

impl AnnotationKey {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Memory, Self::Vcpus];

    /// The key, as in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "vm.memory",
            Self::Vcpus => "vm.vcpus",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }
}

impl Config {
    /// This configuration with a container's annotations applied. Annotations outside
    /// [`ANNOTATION_PREFIX`] are none of ours and are passed over.
    pub fn with_annotations<'a>(
        mut self,
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ConfigError> {
        for (annotation, value) in annotations {
            let Some(name) = annotation.strip_prefix(ANNOTATION_PREFIX) else { continue };
            let key = AnnotationKey::from_name(name).ok_or_else(|| ConfigError::UnknownKey {
                origin: "annotations".to_owned(),
                key: annotation.to_owned(),
                hint: hint(name, &AnnotationKey::ALL.map(AnnotationKey::name)),
            })?;
            if !self.allowed_annotations.contains(&key) {
                return Err(ConfigError::NotAllowed {
                    annotation: annotation.to_owned(),
                    key: name.to_owned(),
                    file: self.file,
                });
            }
            self.apply(key, value)?;
        }
        Ok(self)
    }

    fn apply(&mut self, key: AnnotationKey, value: &str) -> Result<(), ConfigError> {
        let bad = |remedy: String| ConfigError::BadValue {
            origin: "annotations".to_owned(),
            key: format!("{ANNOTATION_PREFIX}{}", key.name()),
            found: format!("\"{value}\""),
            remedy,
        };
        match key {
            AnnotationKey::Memory => {
                let memory: Bytes = value
                    .parse()
                    .map_err(|_error| bad("write a number of bytes or a size such as \"256M\"".to_owned()))?;
                check_memory(memory, "annotations")?;
                self.vm.memory = memory;
            }
            AnnotationKey::Vcpus => {
                self.vm.vcpus = value
                    .parse()
                    .ok()
                    .filter(|vcpus| (1..=MAX_VCPUS).contains(vcpus))
                    .ok_or_else(|| bad("write a number from 1 to 64".to_owned()))?;
            }
        }
        Ok(())
    }
}
