use std::path::{Path, PathBuf};

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/supermachine/config.toml"), text)
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.vm.memory, Bytes::mebibytes(256));
    assert_eq!(config.vm.vcpus, 1);
    assert_eq!(config.paths.vmm, PathBuf::from("/opt/supermachine/bin/supermachine-vmm"));
    assert_eq!(config.paths.bakes, PathBuf::from("/var/lib/supermachine/bakes"));
    assert_eq!(config.paths.sandbox("k8s.io", "a1"), PathBuf::from("/run/supermachine/vm/k8s.io-a1"));
    assert!(config.bake.enabled && config.bake.ahead);
    assert_eq!(config.bake.quota, Bytes(4 << 30));
}

#[test]
fn values_of_the_file_replace_defaults() {
    let config = parse("[vm]\nmemory = \"1G\"\nvcpus = 4\n[bake]\nenabled = false\n[paths]\nrun = \"/tmp/r\"").unwrap();
    assert_eq!(config.vm.memory, Bytes(1 << 30));
    assert_eq!(config.vm.vcpus, 4);
    assert!(!config.bake.enabled);
    assert_eq!(config.paths.run, PathBuf::from("/tmp/r"));
}

#[test]
fn an_unknown_key_names_file_key_and_the_nearest_known_one() {
    let error = parse("[vm]\nmemry = \"1G\"").unwrap_err().to_string();
    assert_eq!(error, "/etc/supermachine/config.toml: unknown key `vm.memry`; did you mean `vm.memory`?");
    let error = parse("colour = 1").unwrap_err().to_string();
    assert!(error.contains("unknown key `colour`; the known keys are paths.vmm,"), "{error}");
}

#[test]
fn a_bad_value_names_file_key_and_remedy() {
    for (text, expected) in [
        ("[vm]\nmemory = \"256Q\"", "`vm.memory` is \"256Q\"; write a number of bytes or a text such as \"256M\""),
        ("[vm]\nmemory = \"3M\"", "`vm.memory` is 3M; write a multiple of 2M from 64M to 1T, for example \"256M\""),
        ("[vm]\nvcpus = 0", "`vm.vcpus` is 0; write a number from 1 to 64"),
        ("[vm]\nvcpus = -1", "`vm.vcpus` is -1; write a number from 1 to 64"),
        ("[paths]\nvmm = \"bin/vmm\"", "`paths.vmm` is \"bin/vmm\"; write an absolute path"),
        ("[bake]\nenabled = \"yes\"", "`bake.enabled` is \"yes\"; write true or false"),
        ("vm = 3", "unknown key `vm`; the known keys are"),
        ("[annotations]\nallow = [\"vm.cpus\"]", "did you mean `vm.vcpus`?"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with("/etc/supermachine/config.toml: "), "{error}");
        assert!(error.contains(expected), "{error}\ndoes not contain\n{expected}");
    }
}

#[test]
fn broken_toml_names_the_file() {
    assert!(matches!(parse("[vm").unwrap_err(), ConfigError::Syntax { .. }));
}

#[test]
fn a_named_file_must_exist() {
    let error = Config::load_from(Path::new("/nonexistent/config.toml")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/config.toml"), "{error}");
}

#[test]
fn annotations_override_memory_and_vcpus() {
    let config = parse("").unwrap();
    let config = config
        .with_annotations([
            ("io.supermachine.config.vm.memory", "512M"),
            ("io.supermachine.config.vm.vcpus", "2"),
            ("io.kubernetes.cri.container-type", "sandbox"),
        ])
        .unwrap();
    assert_eq!((config.vm.memory, config.vm.vcpus), (Bytes::mebibytes(512), 2));
    let config = config.with_annotations([("io.supermachine.config.vm.memory", "268435456")]).unwrap();
    assert_eq!(config.vm.memory, Bytes::mebibytes(256));
}

#[test]
fn another_shape_is_checked_like_the_files() {
    let config = parse("").unwrap().with_shape(Bytes::mebibytes(128), 2, "--memory").unwrap();
    assert_eq!((config.vm.memory, config.vm.vcpus), (Bytes::mebibytes(128), 2));
    let error = config.clone().with_shape(Bytes(1), 2, "--memory").unwrap_err().to_string();
    assert!(error.starts_with("--memory: `vm.memory` is 1; write a multiple of 2M"), "{error}");
    let error = config.with_shape(Bytes::mebibytes(128), 65, "--vcpus").unwrap_err().to_string();
    assert_eq!(error, "--vcpus: `vm.vcpus` is 65; write a number from 1 to 64");
}

#[test]
fn annotations_are_refused_with_a_remedy() {
    for (key, value, expected) in [
        ("vm.memory", "lots", "io.supermachine.config.vm.memory` is \"lots\"; write a number of bytes"),
        ("vm.memory", "1M", "write a multiple of 2M"),
        ("vm.vcpus", "65", "write a number from 1 to 64"),
        ("vm.cpus", "1", "did you mean `vm.vcpus`?"),
    ] {
        let annotation = format!("{ANNOTATION_PREFIX}{key}");
        let error = parse("").unwrap().with_annotations([(annotation.as_str(), value)]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let locked = parse("[annotations]\nallow = [\"vm.vcpus\"]").unwrap();
    let error = locked.with_annotations([("io.supermachine.config.vm.memory", "512M")]).unwrap_err().to_string();
    assert!(error.contains("not allowed on this host"), "{error}");
    assert!(error.contains("add \"vm.memory\" to `annotations.allow` in /etc/supermachine/config.toml"), "{error}");
}

#[test]
fn sizes_read_as_written_and_print_shortest() {
    for (text, bytes) in [("0", 0), ("4096", 4096), ("256M", 256 << 20), ("8 GiB", 8 << 30), ("1tb", 1 << 40)] {
        assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
    }
    for text in ["", "M", "-1", "1.5G", "18446744073709551615K", "12X"] {
        assert!(text.parse::<Bytes>().is_err(), "{text}");
    }
    assert_eq!(Bytes(8 << 30).to_string(), "8G");
    assert_eq!(Bytes(1000).to_string(), "1000");
}
