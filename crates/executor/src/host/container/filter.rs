//! A filter of system calls, as the kernel's small machine runs it.
//!
//! The number is looked for by halving, so that a call costs about ten instructions and not one for each number
//! in the lists: the kernel runs it once for every number there is when a step takes the filter.

use seccompiler::sock_filter;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The error that is answered; 0 is a success that does nothing.
    Answer(u16),
    /// The error, when the first argument has any of these bits.
    AnyBit(u32, u16),
    /// The error, when the first argument is one of these.
    OneOf(&'static [i32], u16),
}
use Verdict::{Answer, AnyBit, OneOf};

/// linux/audit.h: `AUDIT_ARCH_…`.
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xC000_00B7;
#[cfg(target_arch = "riscv64")]
const MACHINE: u32 = 0xC000_00F3;

/// Numbers from here on are x86's second set, by which everything could be asked for again.
const OTHER_NUMBERS: u32 = 0x4000_0000;

/// Where `struct seccomp_data` has what: the number, the machine, the low half of the first argument.
const NUMBER_AT: u32 = 0;
const MACHINE_AT: u32 = 4;
const FIRST_AT: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

/// Of linux/bpf_common.h: load a word; return; jump if equal, if not less, if any bit.
const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_BITS: u16 = 0x45;

/// The program. Numbers that are not in `rules` are allowed; programs of another machine are killed.
pub(super) fn program(rules: &[(libc::c_long, Verdict)]) -> Result<Vec<sock_filter>, String> {
    let mut rules = rules
        .iter()
        .map(|(number, verdict)| Ok((u32::try_from(*number)?, *verdict)))
        .collect::<Result<Vec<_>, std::num::TryFromIntError>>()
        .map_err(|error| error.to_string())?;
    rules.sort_by_key(|(number, _)| *number);
    let mut program = vec![
        step(LOAD, MACHINE_AT),
        jump(IF_EQUAL, MACHINE, 1, 0),
        step(RETURN, KILL),
        step(LOAD, NUMBER_AT),
        jump(IF_AT_LEAST, OTHER_NUMBERS, 0, 1),
        step(RETURN, answer(libc::ENOSYS as u16)),
    ];
    program.extend(halves(&rules)?);
    Ok(program)
}

/// Every way through it ends with an answer.
fn halves(rules: &[(u32, Verdict)]) -> Result<Vec<sock_filter>, String> {
    let [(number, verdict)] = rules else {
        if rules.is_empty() {
            return Ok(vec![step(RETURN, ALLOW)]);
        }
        let (low, high) = rules.split_at(rules.len() / 2);
        let (first, low, high) = (high[0].0, halves(low)?, halves(high)?);
        let over = u8::try_from(low.len()).map_err(|_| "it has too many rules".to_owned())?;
        return Ok([vec![jump(IF_AT_LEAST, first, over, 0)], low, high].concat());
    };
    let mut leaf = match *verdict {
        Answer(error) => vec![step(RETURN, answer(error))],
        AnyBit(bits, error) => {
            vec![step(LOAD, FIRST_AT), jump(IF_BITS, bits, 0, 1), step(RETURN, answer(error))]
        }
        OneOf(values, error) => {
            let each = |value: &i32| {
                [jump(IF_EQUAL, value.cast_unsigned(), 0, 1), step(RETURN, answer(error))]
            };
            let mut leaf = vec![step(LOAD, FIRST_AT)];
            leaf.extend(values.iter().flat_map(each));
            leaf
        }
    };
    let over = u8::try_from(leaf.len()).map_err(|_| "a rule of it is too long".to_owned())?;
    leaf.insert(0, jump(IF_EQUAL, *number, 0, over));
    leaf.push(step(RETURN, ALLOW));
    Ok(leaf)
}

fn answer(error: u16) -> u32 {
    ERRNO | u32::from(error)
}

fn step(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [(libc::c_long, Verdict); 7] = [
        (41, OneOf(&[38, 40], 1)),
        (165, Answer(1)),
        (56, AnyBit(0x1000_0002, 1)),
        (435, Answer(38)),
        (92, Answer(0)),
        (0, Answer(5)),
        (999, Answer(7)),
    ];

    /// What the kernel's machine would answer.
    fn run(program: &[sock_filter], machine: u32, number: u32, first: u32) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let holds = match code {
                LOAD => {
                    word = match k {
                        NUMBER_AT => number,
                        MACHINE_AT => machine,
                        FIRST_AT => first,
                        other => panic!("a load from {other}"),
                    };
                    continue;
                }
                RETURN => return k,
                IF_EQUAL => word == k,
                IF_AT_LEAST => word >= k,
                IF_BITS => word & k != 0,
                other => panic!("the instruction {other:#x}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    fn expected(number: u32, first: u32) -> u32 {
        let rule = RULES.iter().find(|(of, _)| *of == libc::c_long::from(number));
        match rule.map(|(_, verdict)| *verdict) {
            Some(Answer(error)) => answer(error),
            Some(AnyBit(bits, error)) if first & bits != 0 => answer(error),
            Some(OneOf(values, error)) if values.contains(&first.cast_signed()) => answer(error),
            _ => ALLOW,
        }
    }

    #[test]
    fn every_number_gets_its_verdict() {
        for n_rules in 0..=RULES.len() {
            let program = program(&RULES[RULES.len() - n_rules..]).unwrap();
            assert_eq!(run(&program, MACHINE, 1_000, 0), ALLOW);
        }
        let program = program(&RULES).unwrap();
        for number in 0..1_100 {
            for first in [0, 2, 3, 38, 39, 40, 0x1000_0000, u32::MAX] {
                assert_eq!(run(&program, MACHINE, number, first), expected(number, first));
            }
        }
    }

    #[test]
    fn other_machines_and_other_numbers_lead_nowhere() {
        let program = program(&RULES).unwrap();
        // The same processor's older programs.
        assert_eq!(run(&program, 0x4000_0003, 1, 0), KILL);
        assert_eq!(run(&program, MACHINE, OTHER_NUMBERS + 165, 0), answer(38));
    }

    #[test]
    fn more_rules_than_a_jump_can_pass_are_refused() {
        let many: Vec<_> = (0..1_000).map(|number| (number, Answer(1))).collect();
        assert!(program(&many).is_err());
    }
}
