//! An OCI archive (image specification: image layout) of an image that has a layer more than another.

use std::fs::File;
use std::io::Read;

use serde_json::{Map, Value, json};
use supermachine::Digest;
use tar::{Builder, EntryType, Header};

use super::ExtraFilesError;
use super::layer::Layer;
use crate::containerd::{Documents, read};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// What a layer is called in images of Docker's kind, whose manifests say so.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// How containerd learns an image's name.
const NAME: &str = "io.containerd.image.name";

/// Writes the image: what `base` has of it is only named.
pub(super) fn write(base: &Documents, layer: Layer, name: &str, to: &mut File) -> Result<(), ExtraFilesError> {
    let Layer { file, digest, bytes } = layer;
    let layer_digest = format!("sha256:{digest}");

    let mut config: Map<String, Value> = read("configuration", &base.config)?;
    let created = config.get("created").cloned();
    member(&mut config, "configuration", "rootfs")?
        .get_mut("diff_ids")
        .and_then(Value::as_array_mut)
        .ok_or(ExtraFilesError::Incomplete { document: "configuration", member: "rootfs.diff_ids" })?
        .push(layer_digest.clone().into());
    let mut step = json!({"created_by": "supermachine bake --extra-file"});
    if let Some(created) = created {
        step["created"] = created;
    }
    if let Some(history) = config.get_mut("history").and_then(Value::as_array_mut) {
        history.push(step);
    }
    let config = Blob::new(&config);

    let mut manifest: Map<String, Value> = read("manifest", &base.manifest)?;
    let kind = manifest.get("mediaType").and_then(Value::as_str).unwrap_or(MANIFEST).to_owned();
    let layer_kind = if kind == DOCKER_MANIFEST { DOCKER_LAYER } else { LAYER };
    let described = member(&mut manifest, "manifest", "config")?;
    described.insert("digest".to_owned(), config.digest.clone().into());
    described.insert("size".to_owned(), config.content.len().into());
    manifest
        .get_mut("layers")
        .and_then(Value::as_array_mut)
        .ok_or(ExtraFilesError::Incomplete { document: "manifest", member: "layers" })?
        .push(json!({"mediaType": layer_kind, "digest": layer_digest, "size": bytes}));
    let manifest = Blob::new(&manifest);

    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": kind,
        "digest": manifest.digest,
        "size": manifest.content.len(),
        "annotations": {NAME: name},
    }]});
    let mut archive = Builder::new(to);
    let mut put = |path: &str, length: u64, content: &mut dyn Read| {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(length);
        archive.append_data(&mut header, path, content).map_err(ExtraFilesError::Write)
    };
    let documents = [
        ("oci-layout".to_owned(), json!({"imageLayoutVersion": "1.0.0"}).to_string()),
        ("index.json".to_owned(), index.to_string()),
        (manifest.path(), manifest.content),
        (config.path(), config.content),
    ];
    for (path, content) in documents {
        put(&path, content.len() as u64, &mut content.as_bytes())?;
    }
    put(&format!("blobs/sha256/{digest}"), bytes, &mut &file)?;
    archive.finish().map_err(ExtraFilesError::Write)
}

/// A document that is named by its digest.
struct Blob {
    content: String,
    digest: String,
}

impl Blob {
    fn new(document: &Map<String, Value>) -> Self {
        let content = json!(document).to_string();
        let digest = format!("sha256:{}", Digest::of(content.as_bytes()));
        Self { content, digest }
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

fn member<'d>(
    object: &'d mut Map<String, Value>,
    document: &'static str,
    member: &'static str,
) -> Result<&'d mut Map<String, Value>, ExtraFilesError> {
    object.get_mut(member).and_then(Value::as_object_mut).ok_or(ExtraFilesError::Incomplete { document, member })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Seek;

    use super::super::{ExtraFile, layer};
    use super::*;
    use crate::containerd::ImageError;

    fn documents(manifest_kind: &str) -> Documents {
        let manifest = json!({"mediaType": manifest_kind, "config": {"mediaType": "c", "digest": "sha256:0", "size": 1},
            "layers": [{"digest": "sha256:base"}]});
        let config = json!({"created": "2026-01-01T00:00:00Z", "config": {"Cmd": ["sh"]}, "history": [{}],
            "rootfs": {"type": "layers", "diff_ids": ["sha256:base"]}});
        Documents { manifest: manifest.to_string().into_bytes(), config: config.to_string().into_bytes() }
    }

    fn written(base: &Documents) -> BTreeMap<String, Vec<u8>> {
        let host = tempfile::NamedTempFile::new().unwrap();
        let files = [ExtraFile { host: host.path().to_owned(), guest: "/extra".into() }];
        let mut file = tempfile::tempfile().unwrap();
        write(base, layer::write(&files).unwrap(), "example/web:1", &mut file).unwrap();
        file.rewind().unwrap();
        let mut archive = tar::Archive::new(file);
        let content = |entry: Result<tar::Entry<'_, File>, _>| {
            let (mut entry, mut content) = (entry.unwrap(), Vec::new());
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(content).collect()
    }

    #[test]
    fn all_that_is_named_by_a_digest_has_it() {
        for (kind, layer_kind) in [(MANIFEST, LAYER), (DOCKER_MANIFEST, DOCKER_LAYER)] {
            let files = written(&documents(kind));
            assert_eq!(files.len(), 5);
            let blob = |described: &Value| -> &[u8] {
                let content = &files[&format!("blobs/{}", described["digest"].as_str().unwrap().replace(':', "/"))];
                assert_eq!(described["digest"], format!("sha256:{}", Digest::of(content)));
                assert_eq!(described["size"], content.len());
                content
            };
            let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
            let index = parse(&files["index.json"]);
            assert_eq!(index["manifests"][0]["annotations"][NAME], "example/web:1");
            let manifest = parse(blob(&index["manifests"][0]));
            assert_eq!(manifest["layers"][0]["digest"], "sha256:base");
            assert_eq!(manifest["layers"][1]["mediaType"], layer_kind);
            blob(&manifest["layers"][1]);
            let config = parse(blob(&manifest["config"]));
            let layers = json!(["sha256:base", manifest["layers"][1]["digest"]]);
            assert_eq!((&config["rootfs"]["diff_ids"], &config["config"]["Cmd"][0]), (&layers, &json!("sh")));
            assert_eq!(config["history"].as_array().unwrap().len(), 2);
        }
    }

    #[test]
    fn a_document_that_lacks_something_is_named() {
        let layer = || layer::write(&[]).unwrap();
        let file = || tempfile::tempfile().unwrap();
        let without = |manifest: &str, config: &str| Documents { manifest: manifest.into(), config: config.into() };
        let error = write(&without("{}", "[]"), layer(), "n", &mut file()).unwrap_err();
        assert!(
            matches!(error, ExtraFilesError::Image(ImageError::Document { document: "configuration", .. })),
            "{error}"
        );
        let config = r#"{"rootfs": {"diff_ids": []}}"#;
        for (manifest, wanted) in [("{}", "config"), (r#"{"config": {}}"#, "layers")] {
            let error = write(&without(manifest, config), layer(), "n", &mut file()).unwrap_err();
            assert!(matches!(error, ExtraFilesError::Incomplete { member, .. } if member == wanted), "{error}");
        }
    }
}
