// SPDX-License-Identifier: Apache-2.0
//! A classic BPF machine, so that tests can ask a filter for its verdict without loading it.

use crate::SockFilter;
use crate::program::{AND, JA, JEQ, JGE, JGT, LD, RET};

/// The kernel's `struct seccomp_data`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Call {
    /// Syscall number.
    pub nr: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Arguments.
    pub args: [u64; 6],
}

/// The verdict (`SECCOMP_RET_*` with its data) and the number of instructions it took.
///
/// `None` for a program that the kernel would refuse: an operation outside those that seccomp filters
/// of this crate and of libseccomp use, a jump or a run past the end.
#[must_use]
pub fn run(program: &[SockFilter], call: &Call) -> Option<(u32, usize)> {
    let mut accumulator = 0u32;
    let mut at = 0usize;
    for steps in 1..=program.len() {
        let filter = program.get(at)?;
        at += 1;
        let mut branch = |condition: bool| {
            at += usize::from(if condition { filter.jt } else { filter.jf });
        };
        match filter.code {
            LD => accumulator = load(call, filter.k)?,
            AND => accumulator &= filter.k,
            JEQ => branch(accumulator == filter.k),
            JGT => branch(accumulator > filter.k),
            JGE => branch(accumulator >= filter.k),
            JA => at = at.checked_add(usize::try_from(filter.k).ok()?)?,
            RET => return Some((filter.k, steps)),
            _ => return None,
        }
    }
    None
}

#[allow(clippy::cast_possible_truncation)]
fn load(call: &Call, offset: u32) -> Option<u32> {
    match offset {
        0 => Some(call.nr),
        4 => Some(call.arch),
        8 | 12 => Some(0),
        16..64 if offset % 4 == 0 => {
            let word = usize::try_from((offset - 16) / 4).ok()?;
            let value = call.args[word / 2];
            Some(if word % 2 == 0 { value as u32 } else { (value >> 32) as u32 })
        }
        _ => None,
    }
}
