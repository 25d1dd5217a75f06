//! The program as scripts see it.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// The program, on a host on which there is nothing.
fn supermachine(directory: &Path, arguments: &[&str]) -> Command {
    let config = directory.join("config.toml");
    let at = |name: &str| directory.join(name).display().to_string();
    let text = format!(
        "[paths]\nvmm = \"{}\"\nbakes = \"{}\"\nrun = \"{}\"\nsnapshotter = \"{}\"\n",
        at("vmm"),
        at("bakes"),
        at("run"),
        at("snapshotter")
    );
    std::fs::write(&config, text).expect("a temporary directory can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_supermachine"));
    command.args(arguments).env("SUPERMACHINE_CONFIG", config);
    command
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn exit_codes_tell_use_from_failure() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, code) in [
        (&["ls"][..], 0),
        (&["ls", "--json"], 0),
        (&["df"], 0),
        (&["prune"], 0),
        (&["prune", "--all", "--dry-run"], 0),
        (&["completions", "bash"], 0),
        (&["rm", "abc"], 1),
        (&["inspect", "abc"], 1),
        (&["trace", "abc"], 1),
        (&["bake"], 1),
        (&["ls", "--config", "/nonexistent"], 1),
        (&["rm"], 2),
        (&["nonsense"], 2),
    ] {
        let output = supermachine(directory.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output.stderr));
        if code == 1 {
            let error = said(&output.stderr);
            assert!(error.starts_with("supermachine: ") && error.lines().count() == 1, "{error}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["config.toml"], "to look makes nothing");
}

#[test]
fn what_is_printed_for_programs_is_json() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["ls", "--json"][..], &["df", "--json"], &["doctor", "--json"]] {
        let output = supermachine(directory.path(), arguments).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(json.is_object(), "{arguments:?}");
    }
}

#[test]
fn nobody_who_reads_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = supermachine(directory.path(), &["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!((child.wait().unwrap().code(), error.as_str()), (Some(0), ""));
}
