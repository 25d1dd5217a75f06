//! Compiled filters, run by a small interpreter of classic BPF.

use serde_json::json;

use super::*;

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

fn compile(profile: serde_json::Value) -> Filter {
    Filter::compile(&serde_json::from_value(profile).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

/// What the filter answers.
fn run(filter: &Filter, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = vec![number, architecture, 0, 0];
    data.extend(arguments.iter().flat_map(|argument| [*argument as u32, (argument >> 32) as u32]));
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let instruction = &filter.program[at];
        let code = u32::from(instruction.code);
        let jump = |yes: bool| usize::from(if yes { instruction.jt } else { instruction.jf });
        at += 1;
        match (code & 0x07, code & 0xf0) {
            (libc::BPF_LD, _) => accumulator = data[instruction.k as usize / 4],
            (libc::BPF_ALU, libc::BPF_AND) => accumulator &= instruction.k,
            (libc::BPF_RET, _) => return instruction.k,
            (libc::BPF_JMP, libc::BPF_JA) => at += instruction.k as usize,
            (libc::BPF_JMP, libc::BPF_JEQ) => at += jump(accumulator == instruction.k),
            (libc::BPF_JMP, libc::BPF_JGT) => at += jump(accumulator > instruction.k),
            (libc::BPF_JMP, libc::BPF_JGE) => at += jump(accumulator >= instruction.k),
            other => panic!("unknown instruction {other:?}"),
        }
    }
}

fn call(filter: &Filter, name: &str, arguments: [u64; 6]) -> u32 {
    let number: syscalls::x86_64::Sysno = name.parse().unwrap();
    run(filter, X86_64, number.id() as u32, arguments)
}

#[test]
fn allows_what_is_named_and_refuses_the_rest() {
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    }));
    assert_eq!(call(&filter, "read", [0; 6]), ALLOW);
    assert_eq!(call(&filter, "write", [0; 6]), ALLOW);
    assert_eq!(call(&filter, "open", [0; 6]), errno(libc::EPERM));
    assert_eq!(call(&filter, "clone3", [0; 6]), errno(libc::ENOSYS));
    assert_eq!(run(&filter, X86_64, X32 | 1, [0; 6]), libc::SECCOMP_RET_KILL_THREAD);
    assert_eq!(run(&filter, X86, 3, [0; 6]), libc::SECCOMP_RET_KILL_THREAD);
}

const X32: u32 = 0x4000_0000;

#[test]
fn numbers_of_the_32_bit_architecture_are_its_own() {
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["exit"], "action": "SCMP_ACT_ALLOW"}],
    }));
    assert_eq!(run(&filter, X86, 1, [0; 6]), ALLOW);
    assert_eq!(run(&filter, X86_64, 1, [0; 6]), errno(99));
    assert_eq!(run(&filter, X86_64, 60, [0; 6]), ALLOW);
    assert_eq!(run(&filter, X86_64, X32 | 60, [0; 6]), ALLOW);
    assert_eq!(run(&filter, X86_64, X32 | 1, [0; 6]), errno(99));
}

#[test]
fn calls_newer_than_the_profile_are_not_implemented() {
    let last = syscalls::x86_64::Sysno::clone3.id() as u32;
    for (action, names, expected) in [
        ("SCMP_ACT_ERRNO", json!(["clone3"]), errno(libc::ENOSYS)),
        ("SCMP_ACT_KILL", json!(["clone3"]), errno(libc::ENOSYS)),
        ("SCMP_ACT_ALLOW", json!(["clone3"]), ALLOW),
        ("SCMP_ACT_ERRNO", json!([]), errno(libc::EPERM)),
    ] {
        let profile = json!({"defaultAction": action, "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
        assert_eq!(run(&compile(profile), X86_64, last + 1, [0; 6]), expected, "{action} {names}");
    }
}

#[test]
fn a_rule_without_conditions_decides_alone() {
    let conditional = json!({"names": ["dup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 100,
        "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]});
    let rule = json!({"names": ["dup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 101});
    for syscalls in [json!([conditional, rule]), json!([rule, conditional])] {
        let filter = compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls}));
        assert_eq!(call(&filter, "dup", [1, 0, 0, 0, 0, 0]), errno(101));
    }
}

#[test]
fn compares_all_64_bits_of_arguments() {
    let big = 0x1_0000_0005u64;
    for (operator, holds) in [
        ("SCMP_CMP_EQ", [false, true, false]),
        ("SCMP_CMP_NE", [true, false, true]),
        ("SCMP_CMP_LT", [true, false, false]),
        ("SCMP_CMP_LE", [true, true, false]),
        ("SCMP_CMP_GE", [false, true, true]),
        ("SCMP_CMP_GT", [false, false, true]),
    ] {
        let filter = compile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 1, "value": big, "op": operator}]}],
        }));
        for (value, holds) in [(big - 1, holds[0]), (big, holds[1]), (big + 1, holds[2])] {
            let expected = if holds { ALLOW } else { errno(libc::EPERM) };
            assert_eq!(call(&filter, "personality", [9, value, 0, 0, 0, 0]), expected, "{operator} {value:#x}");
        }
        let (lower, higher) = (holds[0], holds[2]);
        for (value, holds) in [(5, lower), (9, lower), (0x2_0000_0000, higher)] {
            let expected = if holds { ALLOW } else { errno(libc::EPERM) };
            assert_eq!(call(&filter, "personality", [0, value, 0, 0, 0, 0]), expected, "{operator} {value:#x}");
        }
    }
}

#[test]
fn masks_arguments_and_joins_conditions() {
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["prctl"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
        ],
    }));
    assert_eq!(call(&filter, "clone", [0x11, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(call(&filter, "clone", [0x1000_0011, 0, 0, 0, 0, 0]), errno(libc::EPERM));
    assert_eq!(call(&filter, "socket", [1, 2, 0, 0, 0, 0]), ALLOW);
    assert_eq!(call(&filter, "socket", [1, 3, 0, 0, 0, 0]), errno(libc::EPERM));
    assert_eq!(call(&filter, "prctl", [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(call(&filter, "prctl", [3, 0, 0, 0, 0, 0]), errno(libc::EPERM));
}

#[test]
fn long_profiles_keep_every_jump_right() {
    let names: Vec<&str> = syscalls::x86_64::Sysno::iter().map(|number| number.name()).collect();
    let entries: Vec<_> = names
        .iter()
        .enumerate()
        .filter(|(index, _)| index % 2 == 0)
        .map(|(index, name)| json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": index % 100 + 2}))
        .collect();
    let filter = compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries}));
    for (index, name) in names.iter().enumerate() {
        let expected = if index % 2 == 0 { errno((index % 100 + 2) as i32) } else { ALLOW };
        assert_eq!(call(&filter, name, [0; 6]), expected, "{name}");
    }
}

#[test]
fn refuses_what_needs_a_listener() {
    let profile =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]});
    let error = Filter::compile(&serde_json::from_value(profile).unwrap()).map(drop).unwrap_err();
    assert!(error.to_string().starts_with("linux.seccomp.syscalls[0].action:"), "{error}");
}
