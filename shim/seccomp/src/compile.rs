// SPDX-License-Identifier: Apache-2.0
//! From a profile's rules to ranges of syscall numbers.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op,
};

use crate::arch::{Abi, Machine, X32_BIT};
use crate::program::{Alternative, Condition, MAX_LENGTH, Segment, Verdict, program};
use crate::{Error, SockFilter};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const RET_KILL_THREAD: u32 = 0;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// What becomes of syscalls newer than every one that the profile names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewSyscalls {
    /// `ENOSYS`, unless the default is to allow (or to log and allow).
    Enosys,
    /// The profile's default.
    Default,
}

/// Compiles a profile for the machine that this program was built for.
///
/// # Errors
///
/// The profile asks for what a filter cannot do (`SCMP_ACT_NOTIFY`, an argument index past 5), or the
/// program would pass the kernel's 4096 instructions.
pub fn compile(profile: &LinuxSeccomp) -> Result<Vec<SockFilter>, Error> {
    let machine =
        Machine::native().ok_or_else(|| Error("no syscall table for this architecture".to_owned()))?;
    compile_for(machine, profile, NewSyscalls::Enosys)
}

/// Compiles a profile for a machine.
///
/// # Errors
///
/// As [`compile`].
pub fn compile_for(
    machine: Machine,
    profile: &LinuxSeccomp,
    new_syscalls: NewSyscalls,
) -> Result<Vec<SockFilter>, Error> {
    let default = verdict(profile.default_action(), profile.default_errno_ret())?;
    let enosys = match new_syscalls {
        NewSyscalls::Enosys if default != RET_ALLOW && default != RET_LOG => Some(RET_ERRNO | ENOSYS),
        _ => None,
    };
    let listed = profile.architectures().as_deref().unwrap_or_default();
    let mut sections = Vec::new();
    for (audit_arch, abis) in machine.sections() {
        let covered: Vec<Abi> = abis.iter().copied().filter(|abi| is_covered(*abi, listed)).collect();
        if covered.is_empty() {
            continue;
        }
        let mut segments = Vec::new();
        for abi in *abis {
            if covered.contains(abi) {
                segments.extend(segments_of(*abi, profile, default, enosys)?);
            } else {
                // Numbers with the x32 bit are not of the section's architecture; -1 is a syscall that
                // a tracer has cancelled.
                segments.push(plain(X32_BIT, RET_KILL_THREAD));
                segments.push(plain(u32::MAX, default));
            }
        }
        sections.push((*audit_arch, merge(segments)));
    }
    let program = program(&sections, RET_KILL_THREAD);
    if program.len() > MAX_LENGTH {
        return Err(Error(format!(
            "the seccomp profile needs {} instructions, the kernel takes {MAX_LENGTH}",
            program.len()
        )));
    }
    Ok(program)
}

fn is_covered(abi: Abi, listed: &[Arch]) -> bool {
    abi.is_native() || listed.iter().any(|arch| abi.is_named_by(*arch))
}

fn verdict(action: Action, errno: Option<u32>) -> Result<u32, Error> {
    let errno = errno.unwrap_or(EPERM) & 0xffff;
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => RET_KILL_THREAD,
        Action::ScmpActKillProcess => 0x8000_0000,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActErrno => RET_ERRNO | errno,
        Action::ScmpActTrace => 0x7ff0_0000 | errno,
        Action::ScmpActLog => RET_LOG,
        Action::ScmpActAllow => RET_ALLOW,
        Action::ScmpActNotify => {
            return Err(Error("SCMP_ACT_NOTIFY is not supported in seccomp profiles".to_owned()));
        }
    })
}

/// What the rules say of one syscall.
#[derive(Default)]
struct Rules {
    unconditional: Option<u32>,
    alternatives: Vec<Alternative>,
}

fn segments_of(
    abi: Abi,
    profile: &LinuxSeccomp,
    default: u32,
    enosys: Option<u32>,
) -> Result<Vec<Segment>, Error> {
    let mut calls: BTreeMap<u32, Rules> = BTreeMap::new();
    let mut newest = None;
    for rule in profile.syscalls().as_deref().unwrap_or_default() {
        let verdict = verdict(rule.action(), rule.errno_ret())?;
        let alternatives = alternatives(rule.args().as_deref().unwrap_or_default())?;
        for name in rule.names() {
            let number = abi.number(name);
            newest = newest.max(number.filter(|number| *number < abi.private_from()));
            if verdict == default {
                continue;
            }
            if let Some(number) = number {
                let narrow = |condition: &Condition| Condition {
                    narrow: abi.is_narrow(name, condition.index),
                    ..*condition
                };
                let own: Vec<Vec<Condition>> =
                    alternatives.iter().map(|all| all.iter().map(narrow).collect()).collect();
                add(calls.entry(number).or_default(), &own, verdict);
            }
            let Some((multiplexer, value)) = abi.multiplexed(name) else { continue };
            if let (Some(number), true) =
                (abi.number(multiplexer), alternatives.is_empty() || verdict != RET_ALLOW)
            {
                let call = Condition { index: 0, narrow: true, op: Op::ScmpCmpEq, value, masked: 0 };
                add(calls.entry(number).or_default(), &[vec![call]], verdict);
            }
        }
    }

    let first = if abi == Abi::X32 { X32_BIT } else { 0 };
    let mut segments = vec![plain(first, default)];
    let gap = |number: u32| match (enosys, newest) {
        (Some(enosys), Some(newest)) if number > newest => enosys,
        _ => default,
    };
    if let Some(newest) = newest {
        segments.push(plain(newest + 1, gap(newest + 1)));
    }
    for (number, rules) in calls {
        let verdict = match rules.unconditional {
            Some(verdict) => Verdict::Plain(verdict),
            None => Verdict::ByArguments(rules.alternatives, default),
        };
        segments.push(Segment { start: number, verdict });
        segments.push(plain(number + 1, gap(number + 1)));
    }
    Ok(segments)
}

fn add(rules: &mut Rules, alternatives: &[Vec<Condition>], verdict: u32) {
    if alternatives.is_empty() {
        rules.unconditional.get_or_insert(verdict);
    }
    for conditions in alternatives {
        rules.alternatives.push(Alternative { conditions: conditions.clone(), verdict });
    }
}

/// The conditions of a rule, as alternatives of conjunctions; none for a rule without arguments.
fn alternatives(args: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>, Error> {
    let mut conditions = Vec::with_capacity(args.len());
    for arg in args {
        let index = u32::try_from(arg.index())
            .ok()
            .filter(|index| *index < 6)
            .ok_or_else(|| Error(format!("seccomp argument index {} is not between 0 and 5", arg.index())))?;
        let masked = arg.value_two().unwrap_or(0);
        conditions.push(Condition { index, narrow: false, op: arg.op(), value: arg.value(), masked });
    }
    let repeated = conditions
        .iter()
        .enumerate()
        .any(|(at, condition)| conditions[..at].iter().any(|other| other.index == condition.index));
    Ok(match conditions.len() {
        0 => Vec::new(),
        _ if repeated => conditions.into_iter().map(|condition| vec![condition]).collect(),
        _ => vec![conditions],
    })
}

fn plain(start: u32, verdict: u32) -> Segment {
    Segment { start, verdict: Verdict::Plain(verdict) }
}

/// Sorts, lets the later of two segments with one start win, and joins neighbours of equal verdict.
fn merge(mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.sort_by_key(|segment| segment.start);
    let mut merged: Vec<Segment> = Vec::with_capacity(segments.len());
    for segment in segments {
        if merged.last().is_some_and(|last| last.start == segment.start) {
            merged.pop();
        }
        if merged.last().is_none_or(|last| last.verdict != segment.verdict) {
            merged.push(segment);
        }
    }
    merged
}
