// SPDX-License-Identifier: Apache-2.0
//! Emitting BPF: bisection over ranges of numbers, and comparisons of 64-bit arguments.

use oci_spec::runtime::LinuxSeccompOperator as Op;

use crate::SockFilter;

/// The kernel's `BPF_MAXINSNS`.
pub(crate) const MAX_LENGTH: usize = 4096;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

pub(crate) const LD: u16 = 0x20;
pub(crate) const AND: u16 = 0x54;
pub(crate) const JA: u16 = 0x05;
pub(crate) const JEQ: u16 = 0x15;
pub(crate) const JGT: u16 = 0x25;
pub(crate) const JGE: u16 = 0x35;
pub(crate) const RET: u16 = 0x06;

/// One comparison of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) index: u32,
    /// Compare the low 32 bits alone.
    pub(crate) narrow: bool,
    pub(crate) op: Op,
    /// The operand; the mask for [`Op::ScmpCmpMaskedEq`].
    pub(crate) value: u64,
    /// What the masked argument must equal.
    pub(crate) masked: u64,
}

/// Conditions that must all hold, and the verdict then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alternative {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) verdict: u32,
}

/// What becomes of a syscall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Decided by the number.
    Plain(u32),
    /// Decided by the first alternative that matches, or else by the default.
    ByArguments(Vec<Alternative>, u32),
}

/// Numbers from `start` to the next segment's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) start: u32,
    pub(crate) verdict: Verdict,
}

fn statement(code: u16, k: u32) -> SockFilter {
    SockFilter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> SockFilter {
    SockFilter { code, jt, jf, k }
}

/// The whole program: one section an `AUDIT_ARCH_*` value, `bad_arch` for any other.
pub(crate) fn program(sections: &[(u32, Vec<Segment>)], bad_arch: u32) -> Vec<SockFilter> {
    let mut out = vec![statement(LD, ARCH)];
    for (arch, segments) in sections {
        let body = bisect(segments);
        let length = u32::try_from(body.len() + 1).unwrap_or(u32::MAX);
        out.push(jump(JEQ, *arch, 1, 0));
        out.push(statement(JA, length));
        out.push(statement(LD, NR));
        out.extend(body);
    }
    out.push(statement(RET, bad_arch));
    out
}

/// Code that finds the accumulator's segment. Falls through nowhere: every path returns.
fn bisect(segments: &[Segment]) -> Vec<SockFilter> {
    match segments {
        [] => Vec::new(),
        [only] => leaf(&only.verdict),
        _ => {
            let (below, from) = segments.split_at(segments.len() / 2);
            let (left, right) = (bisect(below), bisect(from));
            let mut out = Vec::with_capacity(left.len() + right.len() + 2);
            // Conditional jumps reach 255 instructions, unconditional ones any number.
            if let Ok(length) = u8::try_from(left.len()) {
                out.push(jump(JGE, from[0].start, length, 0));
            } else {
                out.push(jump(JGE, from[0].start, 0, 1));
                out.push(statement(JA, u32::try_from(left.len()).unwrap_or(u32::MAX)));
            }
            out.extend(left);
            out.extend(right);
            out
        }
    }
}

fn leaf(verdict: &Verdict) -> Vec<SockFilter> {
    match verdict {
        Verdict::Plain(verdict) => vec![statement(RET, *verdict)],
        Verdict::ByArguments(alternatives, default) => {
            let mut out = Vec::new();
            for alternative in alternatives {
                out.extend(alternative_code(alternative));
            }
            out.push(statement(RET, *default));
            out
        }
    }
}

/// Returns the verdict if all conditions hold, else falls through to what follows.
fn alternative_code(alternative: &Alternative) -> Vec<SockFilter> {
    // Built from the end, so that the distance to the end is known: at most 6 conditions of 6.
    let mut tail = vec![statement(RET, alternative.verdict)];
    for condition in alternative.conditions.iter().rev() {
        let fail = u8::try_from(tail.len()).unwrap_or(u8::MAX);
        let mut code = condition_code(condition, fail);
        code.append(&mut tail);
        tail = code;
    }
    tail
}

/// Falls through if the condition holds, else skips `fail` instructions after its own end.
fn condition_code(condition: &Condition, fail: u8) -> Vec<SockFilter> {
    let low_offset = ARGS + 8 * condition.index;
    let (load_high, load_low) = (statement(LD, low_offset + 4), statement(LD, low_offset));
    let (high, low) = halves(condition.value);
    if condition.narrow {
        let (jt, jf) = match condition.op {
            Op::ScmpCmpNe | Op::ScmpCmpLe | Op::ScmpCmpLt => (fail, 0),
            _ => (0, fail),
        };
        return match condition.op {
            Op::ScmpCmpEq | Op::ScmpCmpNe => vec![load_low, jump(JEQ, low, jt, jf)],
            Op::ScmpCmpGt | Op::ScmpCmpLe => vec![load_low, jump(JGT, low, jt, jf)],
            Op::ScmpCmpGe | Op::ScmpCmpLt => vec![load_low, jump(JGE, low, jt, jf)],
            Op::ScmpCmpMaskedEq => {
                vec![load_low, statement(AND, low), jump(JEQ, halves(condition.masked).1, jt, jf)]
            }
        };
    }
    // In the six-instruction forms below: [ld high] [test] [test] [ld low] [test], the skip from the
    // first tests is over the two (or one) instructions after them.
    match condition.op {
        Op::ScmpCmpEq => {
            vec![load_high, jump(JEQ, high, 0, fail + 2), load_low, jump(JEQ, low, 0, fail)]
        }
        Op::ScmpCmpNe => {
            vec![load_high, jump(JEQ, high, 0, 2), load_low, jump(JEQ, low, fail, 0)]
        }
        Op::ScmpCmpGt => ordered(load_high, load_low, high, (JGT, low), fail),
        Op::ScmpCmpGe => ordered(load_high, load_low, high, (JGE, low), fail),
        Op::ScmpCmpLe => below(load_high, load_low, high, (JGT, low), fail),
        Op::ScmpCmpLt => below(load_high, load_low, high, (JGE, low), fail),
        Op::ScmpCmpMaskedEq => {
            let (mask_high, mask_low) = halves(condition.value);
            let (high, low) = halves(condition.masked);
            vec![
                load_high,
                statement(AND, mask_high),
                jump(JEQ, high, 0, fail + 3),
                load_low,
                statement(AND, mask_low),
                jump(JEQ, low, 0, fail),
            ]
        }
    }
}

/// Argument greater than (or equal to, by `test`) the operand.
fn ordered(
    load_high: SockFilter,
    load_low: SockFilter,
    high: u32,
    test: (u16, u32),
    fail: u8,
) -> Vec<SockFilter> {
    vec![
        load_high,
        jump(JGT, high, 3, 0),
        jump(JEQ, high, 0, fail + 2),
        load_low,
        jump(test.0, test.1, 0, fail),
    ]
}

/// Argument not greater than (nor equal to, by `test`) the operand.
fn below(
    load_high: SockFilter,
    load_low: SockFilter,
    high: u32,
    test: (u16, u32),
    fail: u8,
) -> Vec<SockFilter> {
    vec![
        load_high,
        jump(JGT, high, fail + 3, 0),
        jump(JEQ, high, 0, 2),
        load_low,
        jump(test.0, test.1, fail, 0),
    ]
}

#[allow(clippy::cast_possible_truncation)]
fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}
