//! Containers that warm bakes hold.

use bake::{Digest, Hasher};
use serde::{Deserialize, Serialize};

/// Separates digests of containers from every other use of SHA-256.
const DOMAIN: &[u8] = b"supermachine warm container\0";

/// Whether a start is to be restored from a warm bake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Warmth {
    /// Nobody asked for it.
    #[default]
    Unwanted,
    /// It was asked for and can't be, for this reason.
    Impossible(String),
    /// From one that holds this container.
    Wanted(Box<WarmContainer>),
}

/// A container as far as it is the same as others: what a warm bake is made of, and what its key stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmContainer {
    /// OCI runtime spec as JSON for the agent, in one spelling, without what tells containers apart and without limits.
    pub spec: String,
    /// Files that each container brings with contents of its own.
    pub files: Vec<WarmFile>,
    /// Whether somebody may write to its standard input.
    pub stdin: bool,
    /// When it is captured.
    pub ready: Readiness,
    /// A command that is run in it before that.
    pub warm_up: Vec<String>,
}

/// A file of a [`WarmContainer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmFile {
    /// Absolute, in the container.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Whether the container can't write to it.
    pub read_only: bool,
}

/// What is true of a container that is ready: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readiness {
    /// It listens on this TCP port.
    pub port: Option<u16>,
    /// Its output has this text.
    pub output: Option<String>,
    /// This command, run in it, exits with 0.
    pub command: Vec<String>,
}

impl Readiness {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl WarmContainer {
    /// Stands for the container, on a writable disk of this size in bytes.
    pub(crate) fn digest(&self, disk_bytes: u64) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(DOMAIN);
        hasher.update(&disk_bytes.to_le_bytes());
        // Strings and numbers always encode, and fields have an order.
        hasher.update(&serde_json::to_vec(self).unwrap_or_default());
        hasher.finish()
    }

    /// The files as they are before the container is anybody's.
    pub(crate) fn neutral_files(&self) -> Vec<agent_proto::File> {
        let content = |path: &str| match path {
            "/etc/hosts" => b"127.0.0.1 localhost\n::1 localhost\n".to_vec(),
            _ => Vec::new(),
        };
        let file = |file: &WarmFile| agent_proto::File {
            path: file.path.clone(),
            mode: file.mode,
            content: content(&file.path),
            read_only: file.read_only,
            ..Default::default()
        };
        self.files.iter().map(file).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_makes_another_digest() {
        let one = WarmContainer::default();
        let file = WarmFile { path: "/etc/hosts".into(), mode: 0o644, read_only: false };
        let ready = |ready| WarmContainer { ready, ..one.clone() };
        let others = [
            WarmContainer { spec: "{}".into(), ..one.clone() },
            WarmContainer { files: vec![file], ..one.clone() },
            WarmContainer { stdin: true, ..one.clone() },
            WarmContainer { warm_up: vec!["true".into()], ..one.clone() },
            ready(Readiness { port: Some(1), ..Readiness::default() }),
            ready(Readiness { output: Some("1".into()), ..Readiness::default() }),
            ready(Readiness { command: vec!["1".into()], ..Readiness::default() }),
        ];
        let mut digests: Vec<_> = others.iter().map(|other| other.digest(1)).collect();
        digests.extend([one.digest(1), one.digest(2)]);
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), others.len() + 2);
    }

    #[test]
    fn files_say_nothing_of_a_container_before_it_is_adopted() {
        let file = |path: &str| WarmFile { path: path.into(), mode: 0o644, read_only: true };
        let container =
            WarmContainer { files: vec![file("/etc/hosts"), file("/etc/resolv.conf")], ..WarmContainer::default() };
        let [hosts, resolver] = container.neutral_files().try_into().unwrap();
        assert!(hosts.content.starts_with(b"127.0.0.1 localhost") && resolver.content.is_empty());
        assert!(hosts.read_only && hosts.mode == 0o644);
    }
}
