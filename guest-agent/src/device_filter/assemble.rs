//! From a table to a program (`BPF_PROG_TYPE_CGROUP_DEVICE`): one comparison after the other.

use super::rules::{ALL, Devices, Kind, Table};
use crate::sys::BpfInstruction;

/// What the kernel tells of an access: `struct bpf_cgroup_dev_ctx`. The first word holds the kind of device in its lower
/// half and the ways of access in its upper one.
const KIND_AND_ACCESS: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;

/// Registers. The first two are the kernel's choice.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR_NUMBER: u8 = 4;
const MINOR_NUMBER: u8 = 5;
const SCRATCH: u8 = 6;

/// Codes of instructions (`linux/bpf.h`): class, operation and source.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_VALUE: u8 = 0xb4;
const AND_VALUE: u8 = 0x54;
const SHIFT_RIGHT_VALUE: u8 = 0x74;
const JUMP_UNLESS_EQUAL: u8 = 0x5d;
const JUMP_UNLESS_VALUE: u8 = 0x56;
const EXIT: u8 = 0x95;

/// The program of a table.
pub(super) fn program(table: &Table) -> Vec<BpfInstruction> {
    let mut program = vec![
        load(KIND, KIND_AND_ACCESS),
        with_value(AND_VALUE, KIND, 0xffff),
        load(ACCESS, KIND_AND_ACCESS),
        with_value(SHIFT_RIGHT_VALUE, ACCESS, 16),
        load(MAJOR_NUMBER, MAJOR),
        load(MINOR_NUMBER, MINOR),
    ];
    for (devices, access) in &table.exceptions {
        program.extend(exception(devices, *access, !table.allows_by_default));
    }
    program.extend(answer(table.allows_by_default));
    program
}

/// Answers `allow` if the devices are meant and every way of access asked for is among these; else goes on.
fn exception(devices: &Devices, access: u8, allow: bool) -> Vec<BpfInstruction> {
    let kind = match devices.kind {
        Kind::Block => 1,
        Kind::Character => 2,
    };
    // Each jump leads behind the answer; how far that is shows when everything between is known.
    let mut tests = vec![with_value(JUMP_UNLESS_VALUE, KIND, kind)];
    if access != ALL {
        tests.extend([
            between(MOVE, SCRATCH, ACCESS),
            with_value(AND_VALUE, SCRATCH, access.into()),
            between(JUMP_UNLESS_EQUAL, SCRATCH, ACCESS),
        ]);
    }
    tests.extend(devices.major.map(|major| with_value(JUMP_UNLESS_VALUE, MAJOR_NUMBER, major)));
    tests.extend(devices.minor.map(|minor| with_value(JUMP_UNLESS_VALUE, MINOR_NUMBER, minor)));
    let answer = answer(allow);
    let end = tests.len() + answer.len();
    for (at, test) in tests.iter_mut().enumerate() {
        if [JUMP_UNLESS_EQUAL, JUMP_UNLESS_VALUE].contains(&test.code) {
            test.offset = i16::try_from(end - at - 1).unwrap_or(i16::MAX);
        }
    }
    tests.extend(answer);
    tests
}

fn answer(allow: bool) -> [BpfInstruction; 2] {
    [with_value(MOVE_VALUE, RESULT, allow.into()), BpfInstruction { code: EXIT, ..BpfInstruction::default() }]
}

fn load(register: u8, offset: i16) -> BpfInstruction {
    BpfInstruction { code: LOAD_WORD, registers: register | CONTEXT << 4, offset, value: 0 }
}

fn with_value(code: u8, register: u8, value: u32) -> BpfInstruction {
    BpfInstruction { code, registers: register, offset: 0, value: value.cast_signed() }
}

fn between(code: u8, to: u8, from: u8) -> BpfInstruction {
    BpfInstruction { code, registers: to | from << 4, offset: 0, value: 0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::rules::{MAKE, READ, WRITE};
    use super::*;

    /// What the program answers, run by a small interpreter.
    fn run(program: &[BpfInstruction], kind: u32, major: u32, minor: u32, access: u8) -> bool {
        let context = [kind | u32::from(access) << 16, major, minor];
        let mut registers = [0u32; 10];
        let mut at = 0;
        loop {
            let instruction = program[at];
            let (to, from) = (usize::from(instruction.registers & 15), usize::from(instruction.registers >> 4));
            let value = instruction.value.cast_unsigned();
            at += 1;
            let unequal = match instruction.code {
                LOAD_WORD => {
                    registers[to] = context[instruction.offset as usize / 4];
                    false
                }
                MOVE => {
                    registers[to] = registers[from];
                    false
                }
                MOVE_VALUE => {
                    registers[to] = value;
                    false
                }
                AND_VALUE => {
                    registers[to] &= value;
                    false
                }
                SHIFT_RIGHT_VALUE => {
                    registers[to] >>= value;
                    false
                }
                JUMP_UNLESS_EQUAL => registers[to] != registers[from],
                JUMP_UNLESS_VALUE => registers[to] != value,
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            };
            if unequal {
                at += instruction.offset as usize;
            }
        }
    }

    #[test]
    fn exceptions_hold_for_what_they_name() {
        let devices = |major, minor| Devices { kind: Kind::Character, major, minor };
        let exceptions = BTreeMap::from([
            (devices(None, None), MAKE),
            (devices(Some(1), Some(3)), ALL),
            (devices(Some(136), None), READ | WRITE),
        ]);
        for allows_by_default in [false, true] {
            let program = program(&Table { allows_by_default, exceptions: exceptions.clone() });
            for (kind, major, minor, access, named) in [
                (2, 1, 3, READ | WRITE | MAKE, true),
                (2, 1, 4, READ, false),
                (2, 7, 7, MAKE, true),
                (2, 7, 7, MAKE | READ, false),
                (1, 7, 7, MAKE, false),
                (2, 136, 9, READ, true),
                (2, 136, 9, MAKE, true),
            ] {
                let allowed = run(&program, kind, major, minor, access);
                assert_eq!(allowed, named != allows_by_default, "{kind} {major}:{minor} {access}");
            }
        }
    }
}
