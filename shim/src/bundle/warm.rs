//! Containers that are to be restored as they run: what of one is the same as of others, and what isn't.

use std::collections::HashMap;

use serde_json::Value;
use supermachine::{Readiness, WarmContainer, WarmFile, Warmth};

use super::{Bundle, GuestSpec, Root, Writable};

/// The annotation that asks for it, and what its value has to be.
const BAKE: &str = "io.supermachine.bake";
const WARM: &str = "warm";
/// Those that say when a container is ready: a TCP port, a text in its output, a command that exits with 0.
const READY_PORT: &str = "io.supermachine.bake.ready-port";
const READY_OUTPUT: &str = "io.supermachine.bake.ready-output";
const READY_COMMAND: &str = "io.supermachine.bake.ready-command";
/// A command that is run before the container is captured.
const WARM_UP: &str = "io.supermachine.bake.warm-up";
/// A command that is run in each container when it goes on.
const ON_CLONE: &str = "io.supermachine.bake.on-clone";

/// Whether a container is to be restored as it runs. `terminal` and `stdin` say what standard streams it has.
pub(crate) fn warmth(bundle: &Bundle, root: &Root, id: &str, terminal: bool, stdin: bool) -> Warmth {
    let asked = bundle.spec.annotations().as_ref().and_then(|all| Some((all, all.get(BAKE)?.as_str())));
    match asked {
        None => Warmth::Unwanted,
        Some((annotations, WARM)) => match container(bundle, root, id, annotations) {
            Ok(_) if terminal => Warmth::Impossible("the container has a terminal".to_owned()),
            Ok(container) => Warmth::Wanted(Box::new(WarmContainer { stdin, ..container })),
            Err(why) => Warmth::Impossible(why),
        },
        Some((_, other)) => Warmth::Impossible(format!("the annotation {BAKE} is {other:?}; it can only be {WARM:?}")),
    }
}

fn container(
    bundle: &Bundle,
    root: &Root,
    id: &str,
    annotations: &HashMap<String, String>,
) -> Result<WarmContainer, String> {
    check_root(root)?;
    if !GuestSpec::devices_of(bundle).is_empty() {
        return Err("the container has block devices of the host".to_owned());
    }
    let spec = GuestSpec::new(bundle.clone(), id, None, &[]).map_err(|error| supermachine::chain(&error))?;
    if let Some(volume) = spec.bound.volumes.first() {
        return Err(format!("the container has files of the host, which may change: {}", volume.source.display()));
    }
    let files = spec.bound.files.iter();
    let files = files.map(|file| WarmFile { path: file.path.clone(), mode: file.mode, read_only: file.read_only });
    let ready = readiness(annotations)?;
    // Told to whoever adopts it, for whom it is too late to say that it can't be.
    command(annotations, ON_CLONE)?;
    Ok(WarmContainer {
        spec: without_identity(&spec.json)?,
        files: files.collect(),
        stdin: false,
        ready,
        warm_up: command(annotations, WARM_UP)?,
    })
}

/// Only a fresh writable layer over the image's is as the captured container's was.
fn check_root(root: &Root) -> Result<(), String> {
    let Root::Disks(layers) = root else {
        return Err("its root file system is a directory of the host: use the snapshotter `supermachine`".to_owned());
    };
    match &layers.writable {
        Some(Writable::Snapshot(layer)) if layer.is_untouched() => Ok(()),
        Some(Writable::Snapshot(_)) => Err("its writable layer has been written to before".to_owned()),
        Some(Writable::Image(..)) | None => {
            Err("it has no writable layer of the snapshotter `supermachine`".to_owned())
        }
    }
}

fn readiness(annotations: &HashMap<String, String>) -> Result<Readiness, String> {
    let port = |text: &String| text.parse().ok().filter(|port| *port != 0);
    let port = match annotations.get(READY_PORT) {
        Some(text) => Some(port(text).ok_or_else(|| format!("the annotation {READY_PORT} is no port: {text:?}"))?),
        None => None,
    };
    let output = annotations.get(READY_OUTPUT).filter(|text| !text.is_empty()).cloned();
    let ready = Readiness { port, output, command: command(annotations, READY_COMMAND)? };
    if ready.is_empty() {
        return Err(format!(
            "nothing says when the container is ready: set {READY_PORT}, {READY_OUTPUT} or {READY_COMMAND}"
        ));
    }
    Ok(ready)
}

/// A command: an array in JSON, or else a line for the container's shell. Empty if there is none.
fn command(annotations: &HashMap<String, String>, name: &str) -> Result<Vec<String>, String> {
    let Some(text) = annotations.get(name).map(|text| text.trim()).filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    if !text.starts_with('[') {
        return Ok(["/bin/sh", "-c", text].map(str::to_owned).to_vec());
    }
    serde_json::from_str(text).map_err(|error| format!("the annotation {name} is no array of strings: {error}"))
}

/// A specification for the agent, in one spelling, without what each container has of its own.
fn without_identity(json: &[u8]) -> Result<String, String> {
    let mut spec: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if let Some(fields) = spec.as_object_mut() {
        for name in ["hostname", "annotations"] {
            fields.remove(name);
        }
    }
    if let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) {
        linux.remove("cgroupsPath");
        if let Some(resources) = linux.get_mut("resources").and_then(Value::as_object_mut) {
            resources.retain(|name, _| name == "devices");
        }
    }
    if let Some(env) = spec.pointer_mut("/process/env").and_then(Value::as_array_mut) {
        // The host name once more.
        env.retain(|variable| !variable.as_str().is_some_and(|variable| variable.starts_with("HOSTNAME=")));
    }
    // Sets, in whatever order they come.
    let capabilities = spec.pointer_mut("/process/capabilities").and_then(Value::as_object_mut);
    for set in capabilities.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        set.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
    }
    spec.sort_all_objects();
    Ok(spec.to_string())
}

/// What a container that was captured as it ran is told when it becomes this one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Adoption {
    /// Its host name, if it has one.
    pub(crate) hostname: String,
    /// Its limits, as JSON; empty for none.
    pub(crate) resources: Vec<u8>,
    /// A process that tells it, as JSON; empty for none.
    pub(crate) clone_process: Vec<u8>,
}

impl Adoption {
    /// From the specification for the agent, and the container's annotations.
    pub(crate) fn new(json: &[u8], annotations: &HashMap<String, String>) -> Result<Self, String> {
        let spec: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let hostname = spec.get("hostname").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut resources = spec.pointer("/linux/resources").cloned().unwrap_or_default();
        if let Some(fields) = resources.as_object_mut() {
            fields.remove("devices");
        }
        let has_limits = resources.as_object().is_some_and(|fields| !fields.is_empty());
        let command = command(annotations, ON_CLONE)?;
        let clone_process = if command.is_empty() {
            Vec::new()
        } else {
            let mut process = spec.get("process").cloned().unwrap_or_default();
            process["args"] = command.into();
            process.to_string().into_bytes()
        };
        let resources = if has_limits { resources.to_string().into_bytes() } else { Vec::new() };
        Ok(Self { hostname, resources, clone_process })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use supermachine::WritableLayer;

    use super::*;
    use crate::bundle::RootLayers;

    /// So many that two sets of them are hardly ever in one order.
    const CAPABILITIES: [&str; 6] =
        ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD", "CAP_NET_BIND_SERVICE"];

    struct Case {
        dir: tempfile::TempDir,
        spec: Value,
    }

    impl Case {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("1/fs")).unwrap();
            std::fs::write(dir.path().join("hosts"), "10.0.0.2 one\n").unwrap();
            let spec = json!({
                "ociVersion": "1.2.0",
                "hostname": "one",
                "annotations": {BAKE: WARM, READY_PORT: "80", "nerdctl/name": "one"},
                "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["nginx"],
                    "env": ["PATH=/bin", "HOSTNAME=one"], "capabilities": {"bounding": CAPABILITIES}},
                "mounts": [{"destination": "/etc/hosts", "type": "bind", "source": dir.path().join("hosts"),
                    "options": ["bind"]}],
                "linux": {"cgroupsPath": "/default/one", "resources": {"memory": {"limit": 1 << 26}, "devices": []},
                    "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "uts"}]}
            });
            Self { dir, spec }
        }

        fn root(&self) -> Root {
            let layer = WritableLayer::new(self.dir.path().join("1"));
            let writable = Some(Writable::Snapshot(layer));
            Root::Disks(RootLayers { layers: vec!["/layer".into()], writable })
        }

        fn bundle(&self) -> Bundle {
            std::fs::write(self.dir.path().join("config.json"), self.spec.to_string()).unwrap();
            Bundle::load(self.dir.path()).unwrap()
        }

        fn wanted(&self) -> WarmContainer {
            match warmth(&self.bundle(), &self.root(), "one", false, false) {
                Warmth::Wanted(container) => *container,
                other => panic!("{other:?}"),
            }
        }

        fn refusal(&self) -> String {
            match warmth(&self.bundle(), &self.root(), "one", false, false) {
                Warmth::Impossible(why) => why,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_tells_containers_apart_makes_no_difference() {
        let one = Case::new();
        let mut two = Case::new();
        two.spec["hostname"] = "two".into();
        two.spec["annotations"]["nerdctl/name"] = "two".into();
        two.spec["process"]["env"] = json!(["PATH=/bin", "HOSTNAME=two"]);
        two.spec["linux"]["cgroupsPath"] = "/default/two".into();
        two.spec["linux"]["resources"]["memory"]["limit"] = (1 << 27).into();
        assert_eq!(one.wanted(), two.wanted());
        let text = serde_json::to_string(&one.wanted()).unwrap();
        assert!(!text.contains("one"), "{text}");
    }

    #[test]
    fn whatever_a_program_can_see_makes_one() {
        let same = Case::new().wanted();
        for (pointer, value) in [
            ("/process/args", json!(["nginx", "-g", "x"])),
            ("/process/env", json!(["PATH=/bin", "A=b"])),
            ("/process/user/uid", json!(7)),
            ("/process/cwd", json!("/srv")),
            ("/annotations/io.supermachine.bake.ready-port", json!("81")),
        ] {
            let mut case = Case::new();
            *case.spec.pointer_mut(pointer).unwrap() = value;
            assert_ne!(case.wanted(), same, "{pointer}");
        }
    }

    #[test]
    fn why_there_can_be_no_warm_bake_is_said() {
        let mut case = Case::new();
        assert!(
            matches!(warmth(&case.bundle(), &case.root(), "one", true, false), Warmth::Impossible(why) if why.contains("terminal"))
        );
        assert!(matches!(
            warmth(&case.bundle(), &Root::at("/usr".into()).unwrap(), "one", false, false),
            Warmth::Impossible(_)
        ));
        std::fs::write(case.dir.path().join("1/fs/file"), "").unwrap();
        assert!(case.refusal().contains("written to before"));
        std::fs::remove_file(case.dir.path().join("1/fs/file")).unwrap();
        case.spec["mounts"][0]["destination"] = "/data".into();
        assert!(case.refusal().contains(&case.dir.path().display().to_string()));
        let mut case = Case::new();
        for (port, words) in [("http", "is no port"), ("0", "is no port"), ("65536", "is no port")] {
            case.spec["annotations"][READY_PORT] = port.into();
            assert!(case.refusal().contains(words));
        }
        case.spec["annotations"] = json!({BAKE: WARM});
        assert!(case.refusal().contains("ready-port"));
        case.spec["annotations"] = json!({BAKE: WARM, READY_COMMAND: "[1]"});
        assert!(case.refusal().contains("no array of strings"));
        case.spec["annotations"] = json!({BAKE: "hot"});
        assert!(case.refusal().contains("can only be \"warm\""));
        case.spec["annotations"] = json!({});
        assert_eq!(warmth(&case.bundle(), &case.root(), "one", false, false), Warmth::Unwanted);
    }

    #[test]
    fn commands_are_arrays_or_lines_for_the_shell() {
        let mut case = Case::new();
        case.spec["annotations"][WARM_UP] = "[\"curl\", \"localhost\"]".into();
        case.spec["annotations"][READY_COMMAND] = " test -e /ready ".into();
        let wanted = case.wanted();
        assert_eq!(wanted.warm_up, ["curl", "localhost"]);
        assert_eq!(wanted.ready.command, ["/bin/sh", "-c", "test -e /ready"]);
    }

    #[test]
    fn who_adopts_a_container_gives_it_what_was_left_out() {
        let case = Case::new();
        let bundle = case.bundle();
        let mut annotations = bundle.spec.annotations().clone().unwrap();
        let spec = GuestSpec::new(bundle, "one", None, &[]).unwrap();
        let adoption = Adoption::new(&spec.json, &annotations).unwrap();
        assert_eq!((adoption.hostname.as_str(), adoption.clone_process.len()), ("one", 0));
        let resources: Value = serde_json::from_slice(&adoption.resources).unwrap();
        assert_eq!(resources["memory"]["limit"], 1 << 26);
        assert_eq!(resources.get("devices"), None);
        annotations.insert(ON_CLONE.to_owned(), "reseed".to_owned());
        let told: Value =
            serde_json::from_slice(&Adoption::new(&spec.json, &annotations).unwrap().clone_process).unwrap();
        assert_eq!(told["args"], json!(["/bin/sh", "-c", "reseed"]));
        assert_eq!(told["cwd"], "/");
    }
}
