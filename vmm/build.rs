//! Compiles the system call filters in `seccomp/` to programs for the kernel, so that starting a VM compiles none.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use seccompiler::{TargetArch, compile_from_json};
use serde_json::{Map, Value};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let source = Path::new("seccomp").join(&arch).with_extension("json");
    println!("cargo::rerun-if-changed={}", source.display());
    let text = fs::read(&source)?;
    let filters: Map<String, Value> = serde_json::from_slice(&text)?;
    for filter in filters.values() {
        refuse_contradictions(filter["filter"].as_array().ok_or("a filter has no rules")?)?;
    }
    let programs = compile_from_json(text.as_slice(), TargetArch::try_from(arch.as_str())?)?;
    let target = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("seccomp.rs");
    Ok(fs::write(target, rust(programs)?)?)
}

/// A rule without conditions would lose against one with conditions for the same call.
fn refuse_contradictions(rules: &[Value]) -> Result<(), Failure> {
    let mut conditional = BTreeMap::new();
    for rule in rules {
        let (name, has_conditions) = (rule["syscall"].as_str().unwrap_or_default(), rule.get("args").is_some());
        if *conditional.entry(name).or_insert(has_conditions) != has_conditions {
            return Err(format!("{name} is allowed both with and without conditions").into());
        }
    }
    Ok(())
}

fn rust(programs: HashMap<String, Vec<seccompiler::sock_filter>>) -> Result<String, Failure> {
    let mut text = String::new();
    for (name, program) in programs.into_iter().collect::<BTreeMap<_, _>>() {
        writeln!(text, "static {}: &[seccompiler::sock_filter] = &[", name.to_uppercase())?;
        for instruction in program {
            let seccompiler::sock_filter { code, jt, jf, k } = instruction;
            writeln!(text, "    seccompiler::sock_filter {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},")?;
        }
        writeln!(text, "];")?;
    }
    Ok(text)
}
