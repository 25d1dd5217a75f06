//! Compiles the system call filters in `seccomp/` to programs for the kernel, so that starting a VM compiles none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use seccompiler::{TargetArch, compile_from_json, sock_filter};
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

fn rust(programs: HashMap<String, Vec<sock_filter>>) -> Result<String, Failure> {
    let mut text = String::new();
    for (name, program) in programs.into_iter().collect::<BTreeMap<_, _>>() {
        writeln!(text, "static {}: &[seccompiler::sock_filter] = &[", name.to_uppercase())?;
        for instruction in shorten(&program)? {
            let seccompiler::sock_filter { code, jt, jf, k } = instruction;
            writeln!(text, "    seccompiler::sock_filter {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},")?;
        }
        writeln!(text, "];")?;
    }
    Ok(text)
}

/// "Jump always", and the classes of jumps and returns (`linux/bpf_common.h`).
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
const CLASS: u16 = 0x07;

/// The same program without jumps to jumps and with each return once, at the end. The compiler spends five
/// instructions on a call where one does, and what a filter costs when it is installed grows with its length: the
/// kernel tries each call that exists.
fn shorten(program: &[sock_filter]) -> Result<Vec<sock_filter>, Failure> {
    let at = |index: usize| program.get(index).ok_or("a jump leads out of the program");
    let land = |mut index: usize| -> Result<usize, Failure> {
        while at(index)?.code == JUMP {
            index += 1 + at(index)?.k as usize;
        }
        Ok(index)
    };
    let is_return = |index: usize| program.get(index).is_some_and(|instruction| instruction.code & CLASS == RETURN);
    // What is reached, in order; jumps only lead forward. Of equal returns the first stands for all.
    let (mut reached, mut returns) = (BTreeSet::from([land(0)?]), BTreeMap::new());
    let mut cursor = 0;
    while let Some(&index) = reached.range(cursor..).next() {
        cursor = index + 1;
        let sock_filter { code, jt, jf, k } = at(index)?;
        match code & CLASS {
            RETURN => drop(returns.entry(*k).or_insert(index)),
            JUMP => reached.extend([land(cursor + *jt as usize)?, land(cursor + *jf as usize)?]),
            _ if at(cursor)?.code == JUMP || is_return(cursor) => return Err("no instruction after a load".into()),
            _ => drop(reached.insert(cursor)),
        }
    }
    let kept: Vec<usize> =
        reached.iter().copied().filter(|index| !is_return(*index)).chain(returns.values().copied()).collect();
    let place = |index: usize| -> Result<usize, Failure> {
        let index = if is_return(index) { *returns.get(&at(index)?.k).ok_or("a return is lost")? } else { index };
        Ok(kept.iter().position(|kept| *kept == index).ok_or("an instruction is lost")?)
    };
    let mut short = Vec::with_capacity(kept.len());
    for (position, &index) in kept.iter().enumerate() {
        let sock_filter { code, jt, jf, k } = at(index)?;
        let distance = |offset: u8| -> Result<u8, Failure> {
            Ok(u8::try_from(place(land(index + 1 + usize::from(offset))?)? - position - 1)?)
        };
        let (jt, jf) = if code & CLASS == JUMP { (distance(*jt)?, distance(*jf)?) } else { (*jt, *jf) };
        short.push(sock_filter { code: *code, jt, jf, k: *k });
    }
    Ok(short)
}
