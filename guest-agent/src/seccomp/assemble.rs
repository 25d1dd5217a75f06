//! From tables to instructions.

use super::rules::{Condition, Rules, Table, Test};
use crate::sys::FilterInstruction;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// System calls of the x32 ABI carry this bit.
const X32_BIT: u32 = 0x4000_0000;

/// "There is no such system call."
const NOT_IMPLEMENTED: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The program: by architecture, then by a binary search for the number, then by conditions.
pub(super) fn program(tables: &[Table]) -> Vec<FilterInstruction> {
    let mut program = vec![load(ARCHITECTURE)];
    for table in tables {
        let body = body(table);
        // A jump on a condition reaches 255 instructions; an unconditional one reaches everything.
        program.push(jump_if(libc::BPF_JEQ, table.architecture, 1, 0));
        program.push(jump(body.len()));
        program.extend(body);
    }
    program.push(give(libc::SECCOMP_RET_KILL_THREAD));
    program
}

fn body(table: &Table) -> Vec<FilterInstruction> {
    let mut body = vec![load(NUMBER)];
    if cfg!(target_arch = "x86_64") && table.has_x32 {
        body.push(and(!X32_BIT));
    } else if cfg!(target_arch = "x86_64") {
        body.push(jump_if(libc::BPF_JGE, X32_BIT, 0, 1));
        body.push(give(libc::SECCOMP_RET_KILL_THREAD));
    }
    body.extend(search(&ranges(table)));
    body
}

/// A run of system call numbers, up to the next range's start, that meet the same fate.
struct Range<'a> {
    start: u32,
    rules: Option<&'a Rules>,
    default: u32,
}

impl Range<'_> {
    fn instructions(&self) -> Vec<FilterInstruction> {
        if let Some(fate) = self.fate() {
            return vec![give(fate)];
        }
        let mut instructions = Vec::new();
        for (conditions, action) in self.rules.iter().flat_map(|rules| &rules.conditional) {
            instructions.extend(rule(conditions, *action));
        }
        instructions.push(give(self.default));
        instructions
    }

    /// The one decision for all of them, if no argument matters.
    fn fate(&self) -> Option<u32> {
        match self.rules {
            None => Some(self.default),
            Some(rules) if rules.conditional.is_empty() => Some(rules.always.unwrap_or(self.default)),
            Some(rules) => rules.always,
        }
    }
}

fn ranges<'a>(table: &'a Table) -> Vec<Range<'a>> {
    let mut ranges: Vec<Range<'a>> = vec![Range { start: 0, rules: None, default: table.default }];
    let mut push = |range: Range<'a>| {
        if ranges.last().is_some_and(|last| last.start == range.start) {
            ranges.pop();
        }
        ranges.push(range);
    };
    for (number, rules) in &table.rules {
        push(Range { start: *number, rules: Some(rules), default: table.default });
        push(Range { start: number.saturating_add(1), rules: None, default: table.default });
    }
    if let Some(start) = table.unknown {
        push(Range { start, rules: None, default: NOT_IMPLEMENTED });
    }
    let mut merged: Vec<Range<'_>> = Vec::new();
    for range in ranges {
        if merged.last().is_none_or(|last| last.fate().is_none() || last.fate() != range.fate()) {
            merged.push(range);
        }
    }
    merged
}

/// A binary search over ranges, with the number in the accumulator.
fn search(ranges: &[Range<'_>]) -> Vec<FilterInstruction> {
    match ranges {
        [] => Vec::new(),
        [range] => range.instructions(),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (first, low, high) = (high.first().map_or(0, |range| range.start), search(low), search(high));
            let mut instructions = match u8::try_from(low.len()) {
                Ok(over_low) => vec![jump_if(libc::BPF_JGE, first, over_low, 0)],
                Err(_) => vec![jump_if(libc::BPF_JGE, first, 0, 1), jump(low.len())],
            };
            instructions.extend(low);
            instructions.extend(high);
            instructions
        }
    }
}

/// `action` if every condition holds; else on to the next instruction, with the accumulator clobbered.
fn rule(conditions: &[Condition], action: u32) -> Vec<FilterInstruction> {
    let mut instructions = vec![give(action)];
    for condition in conditions.iter().rev() {
        let rest = instructions.len();
        let mut test = comparison(*condition, rest);
        test.extend(instructions);
        instructions = test;
    }
    instructions
}

/// Falls through if the condition holds, else skips `rest` instructions. Arguments are 64 bits wide, the accumulator
/// 32: the high halves decide unless they are equal.
fn comparison(condition: Condition, rest: usize) -> Vec<FilterInstruction> {
    let offset = ARGUMENTS + 8 * u32::from(condition.argument);
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let ((mask_high, mask_low), (high, low)) = (halves(condition.mask), halves(condition.value));
    let fail = |after: usize| u8::try_from(rest + after).unwrap_or(u8::MAX);
    let masked = |half: u32, mask: u32| [load(half), and(mask)];
    let mut code = masked(offset + 4, mask_high).to_vec();
    match condition.test {
        Test::Equal => {
            code.push(jump_if(libc::BPF_JEQ, high, 0, fail(3)));
            code.extend(masked(offset, mask_low));
            code.push(jump_if(libc::BPF_JEQ, low, 0, fail(0)));
        }
        Test::NotEqual => {
            code.push(jump_if(libc::BPF_JEQ, high, 0, 3));
            code.extend(masked(offset, mask_low));
            code.push(jump_if(libc::BPF_JEQ, low, fail(0), 0));
        }
        Test::Greater | Test::GreaterOrEqual => {
            let last = if condition.test == Test::Greater { libc::BPF_JGT } else { libc::BPF_JGE };
            code.push(jump_if(libc::BPF_JGT, high, 4, 0));
            code.push(jump_if(libc::BPF_JEQ, high, 0, fail(3)));
            code.extend(masked(offset, mask_low));
            code.push(jump_if(last, low, 0, fail(0)));
        }
        Test::Less | Test::LessOrEqual => {
            let last = if condition.test == Test::Less { libc::BPF_JGE } else { libc::BPF_JGT };
            code.push(jump_if(libc::BPF_JGT, high, fail(4), 0));
            code.push(jump_if(libc::BPF_JEQ, high, 0, 3));
            code.extend(masked(offset, mask_low));
            code.push(jump_if(last, low, fail(0), 0));
        }
    }
    code
}

fn load(offset: u32) -> FilterInstruction {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn and(mask: u32) -> FilterInstruction {
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask, 0, 0)
}

fn give(action: u32) -> FilterInstruction {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

fn jump(over: usize) -> FilterInstruction {
    instruction(libc::BPF_JMP | libc::BPF_JA, u32::try_from(over).unwrap_or(u32::MAX), 0, 0)
}

fn jump_if(test: u32, value: u32, yes: u8, no: u8) -> FilterInstruction {
    instruction(libc::BPF_JMP | test | libc::BPF_K, value, yes, no)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> FilterInstruction {
    // Codes are 16 bits wide by definition (`struct sock_filter`).
    FilterInstruction { code: code as u16, jt, jf, k }
}
