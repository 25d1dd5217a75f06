//! What an image's documents say (OCI image specification: index, manifest, configuration).

use serde::Deserialize;
use supermachine::Digest;

/// An image that can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// A document doesn't decode.
    #[error("the image's {document} can't be read")]
    Document {
        /// Which one.
        document: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// It isn't for this machine.
    #[error("the image has no variant for linux/{}", architecture())]
    Platform,
    /// Its layers aren't named by digests that can be computed with.
    #[error("the image's layer {diff_id:?} isn't named by a SHA-256 digest")]
    DiffId {
        /// Its name.
        diff_id: String,
    },
    /// It has no layers.
    #[error("the image has no layers: there is nothing to be prepared")]
    Empty,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// What containerd calls the snapshot that holds all of its layers.
    pub(crate) chain_id: String,
    /// The programs that it runs by itself: what its entrypoint and command name, as far as these are programs.
    pub(crate) programs: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Option<Vec<Variant>>,
}

#[derive(Deserialize)]
struct Variant {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    config: Process,
    rootfs: RootFilesystem,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RootFilesystem {
    diff_ids: Vec<String>,
}

/// This machine's architecture under the name that images use, which is Go's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Reads a document, which the error calls so.
pub(crate) fn read<'d, T: Deserialize<'d>>(document: &'static str, bytes: &'d [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document { document, source })
}

/// Of an index, the digest of this machine's manifest; none if the document is a manifest itself.
pub(super) fn choose(document: &[u8]) -> Result<Option<String>, ImageError> {
    let Some(variants) = read::<Index>("index", document)?.manifests else { return Ok(None) };
    let fits = |variant: &Variant| {
        variant.platform.as_ref().is_none_or(|it| it.os == "linux" && it.architecture == architecture())
    };
    variants.into_iter().find(fits).map(|variant| Some(variant.digest)).ok_or(ImageError::Platform)
}

/// Of a manifest, the digest of the configuration.
pub(super) fn config_of(document: &[u8]) -> Result<String, ImageError> {
    Ok(read::<Manifest>("manifest", document)?.config.digest)
}

impl Image {
    /// Reads a configuration.
    pub(super) fn parse(document: &[u8]) -> Result<Self, ImageError> {
        let Configuration { config, rootfs } = read("configuration", document)?;
        let programs = config.entrypoint.into_iter().chain(config.cmd).flatten().filter(|word| is_program(word));
        Ok(Self { chain_id: chain_id(&rootfs.diff_ids)?, programs: programs.collect() })
    }
}

/// Whether a word of a command could name a program.
fn is_program(word: &str) -> bool {
    !word.starts_with('-') && !word.is_empty() && !word.contains(char::is_whitespace)
}

/// What a stack of layers is called: the image specification's chain ID.
fn chain_id(diff_ids: &[String]) -> Result<String, ImageError> {
    let (first, rest) = diff_ids.split_first().ok_or(ImageError::Empty)?;
    let bad = |diff_id: &String| !diff_id.starts_with("sha256:");
    if let Some(diff_id) = diff_ids.iter().find(|diff_id| bad(diff_id)) {
        return Err(ImageError::DiffId { diff_id: diff_id.clone() });
    }
    let join = |chain, diff_id| format!("sha256:{}", Digest::of(format!("{chain} {diff_id}").as_bytes()));
    Ok(rest.iter().fold(first.clone(), join))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn image(document: &serde_json::Value) -> Result<Image, ImageError> {
        Image::parse(document.to_string().as_bytes())
    }

    #[test]
    fn the_variant_of_this_machine_is_chosen() {
        let variant = |digest: &str, os: &str, architecture: &str| json!({"digest": digest, "platform": {"os": os, "architecture": architecture}});
        let index =
            json!({"manifests": [variant("a", "windows", architecture()), variant("b", "linux", architecture())]});
        assert_eq!(choose(index.to_string().as_bytes()).unwrap().as_deref(), Some("b"));
        let other = json!({"manifests": [variant("a", "linux", "mips")]});
        assert!(matches!(choose(other.to_string().as_bytes()), Err(ImageError::Platform)));
        let manifest = json!({"config": {"digest": "c"}, "layers": []}).to_string();
        assert_eq!(choose(manifest.as_bytes()).unwrap(), None);
        assert_eq!(config_of(manifest.as_bytes()).unwrap(), "c");
    }

    /// The digests of the second chain were computed with sha256sum(1).
    #[test]
    fn a_chain_is_named_as_the_specification_says() {
        let (first, second) = (format!("sha256:{}", "1".repeat(64)), format!("sha256:{}", "2".repeat(64)));
        assert_eq!(chain_id(std::slice::from_ref(&first)).unwrap(), first);
        assert_eq!(
            chain_id(&[first.clone(), second]).unwrap(),
            "sha256:9932074217c35353d2e03a3f5a86549f7c67bfeb0ba53e23d69f4d4c8f7958f5"
        );
        assert!(matches!(chain_id(&[first, "md5:1".to_owned()]), Err(ImageError::DiffId { .. })));
        assert!(matches!(chain_id(&[]), Err(ImageError::Empty)));
    }

    #[test]
    fn its_own_programs_are_known() {
        let layer = format!("sha256:{}", "1".repeat(64));
        let config = json!({"Entrypoint": ["/docker-entrypoint.sh"], "Cmd": ["nginx", "-g", "daemon off;"]});
        let full = image(&json!({"config": config, "rootfs": {"type": "layers", "diff_ids": [layer]}})).unwrap();
        assert_eq!(full.programs, ["/docker-entrypoint.sh", "nginx"]);
        let none = image(&json!({"config": {"Entrypoint": null}, "rootfs": {"diff_ids": [layer]}})).unwrap();
        assert_eq!(none.programs, Vec::<String>::new());
        assert!(matches!(image(&json!({})), Err(ImageError::Document { .. })));
    }
}
