// SPDX-License-Identifier: Apache-2.0
//! Which devices a container may use: rules for the v1 `devices` controller, or an eBPF program for v2.

use std::os::fd::{AsRawFd, BorrowedFd};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Context as _, Error, Result};
use crate::sys;

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// A rule; the last one that matches decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) allow: bool,
    /// `None` for both kinds.
    pub(crate) kind: Option<Kind>,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    /// `MKNOD`, `READ`, `WRITE`.
    pub(crate) access: u32,
}

/// Block or character; the values are the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Block = 1,
    Char = 2,
}

/// What every container gets beside what its spec says: making nodes, the harmless ones among them,
/// pseudo-terminals and tun.
const ALWAYS: &[(Kind, Option<u32>, Option<u32>, u32)] = &[
    (Kind::Char, None, None, MKNOD),
    (Kind::Block, None, None, MKNOD),
    (Kind::Char, Some(1), Some(3), MKNOD | READ | WRITE),
    (Kind::Char, Some(1), Some(5), MKNOD | READ | WRITE),
    (Kind::Char, Some(1), Some(7), MKNOD | READ | WRITE),
    (Kind::Char, Some(1), Some(8), MKNOD | READ | WRITE),
    (Kind::Char, Some(1), Some(9), MKNOD | READ | WRITE),
    (Kind::Char, Some(5), Some(0), MKNOD | READ | WRITE),
    (Kind::Char, Some(5), Some(2), MKNOD | READ | WRITE),
    (Kind::Char, Some(136), None, MKNOD | READ | WRITE),
    (Kind::Char, Some(10), Some(200), MKNOD | READ | WRITE),
];

/// The spec's rules, then those that every container gets. None if the spec has none.
pub(crate) fn rules(spec: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    if spec.is_empty() {
        return Ok(Vec::new());
    }
    let mut rules = spec.iter().map(rule).collect::<Result<Vec<_>>>()?;
    let all = MKNOD | READ | WRITE;
    let open = Rule { allow: true, kind: None, major: None, minor: None, access: all };
    if rules.last() != Some(&open) {
        rules.extend(ALWAYS.iter().map(|(kind, major, minor, access)| Rule {
            allow: true,
            kind: Some(*kind),
            major: *major,
            minor: *minor,
            access: *access,
        }));
    }
    Ok(rules)
}

fn rule(spec: &LinuxDeviceCgroup) -> Result<Rule> {
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| Error::invalid(format!("device cgroup rule: {number} is not a device number"))),
    };
    let mut access = 0;
    for letter in spec.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            other => {
                return Err(Error::invalid(format!("device cgroup rule: access {other:?} is not r, w or m")));
            }
        };
    }
    let kind = match spec.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(Kind::Block),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Char),
        LinuxDeviceType::P => {
            return Err(Error::invalid("device cgroup rule: a pipe is not a device".to_owned()));
        }
    };
    Ok(Rule { allow: spec.allow(), kind, major: number(spec.major())?, minor: number(spec.minor())?, access })
}

impl Rule {
    /// Every device, every access.
    fn is_everything(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none()
    }

    /// The file of the v1 controller and the lines for it.
    pub(crate) fn v1(&self) -> (&'static str, Vec<String>) {
        let file = if self.allow { "devices.allow" } else { "devices.deny" };
        if self.is_everything() && self.access == MKNOD | READ | WRITE {
            return (file, vec!["a".to_owned()]);
        }
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .map(|(_, letter)| *letter)
            .collect();
        let line = |kind: char| format!("{kind} {}:{} {access}", number(self.major), number(self.minor));
        let lines = match self.kind {
            Some(Kind::Block) => vec![line('b')],
            Some(Kind::Char) => vec![line('c')],
            None => vec![line('b'), line('c')],
        };
        (file, lines)
    }
}

/// An eBPF instruction, laid out as the kernel's `struct bpf_insn` (little endian register nibbles).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LDX_W: u8 = 0x61;
const MOV_X: u8 = 0xbf;
const MOV32_K: u8 = 0xb4;
const AND32_K: u8 = 0x54;
const RSH32_K: u8 = 0x74;
const JNE32_K: u8 = 0x56;
const JEQ32_K: u8 = 0x16;
const EXIT: u8 = 0x95;

fn insn(code: u8, destination: u8, source: u8, offset: i16, immediate: u32) -> Insn {
    // The upper nibble is the source on little endian machines, which is all that this runs on.
    Insn {
        code,
        registers: source << 4 | destination,
        offset,
        immediate: i32::from_ne_bytes(immediate.to_ne_bytes()),
    }
}

/// A program that answers 1 for an access that the rules allow. Registers: 2 the kind, 3 the access,
/// 4 the major, 5 the minor number.
fn compile(rules: &[Rule]) -> Vec<Insn> {
    let mut out = vec![
        insn(LDX_W, 2, 1, 0, 0),
        insn(MOV_X, 3, 2, 0, 0),
        insn(AND32_K, 2, 0, 0, 0xffff),
        insn(RSH32_K, 3, 0, 0, 16),
        insn(LDX_W, 4, 1, 4, 0),
        insn(LDX_W, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        // Each test jumps past the rule's verdict; distances are filled in when the rule is complete.
        let mut block = Vec::new();
        if let Some(kind) = rule.kind {
            block.push(insn(JNE32_K, 2, 0, 0, kind as u32));
        }
        let all = MKNOD | READ | WRITE;
        if rule.access != all {
            block.push(insn(MOV_X, 1, 3, 0, 0));
            // Allowing holds for an access within the rule's; denying for one that touches it.
            if rule.allow {
                block.push(insn(AND32_K, 1, 0, 0, !rule.access & all));
                block.push(insn(JNE32_K, 1, 0, 0, 0));
            } else {
                block.push(insn(AND32_K, 1, 0, 0, rule.access));
                block.push(insn(JEQ32_K, 1, 0, 0, 0));
            }
        }
        if let Some(major) = rule.major {
            block.push(insn(JNE32_K, 4, 0, 0, major));
        }
        if let Some(minor) = rule.minor {
            block.push(insn(JNE32_K, 5, 0, 0, minor));
        }
        block.push(insn(MOV32_K, 0, 0, 0, u32::from(rule.allow)));
        block.push(insn(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (at, insn) in block.iter_mut().enumerate() {
            if matches!(insn.code, JNE32_K | JEQ32_K) {
                insn.offset = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
            }
        }
        out.extend(block);
        if rule.is_everything() && rule.access == all {
            return out;
        }
    }
    out.push(insn(MOV32_K, 0, 0, 0, 0));
    out.push(insn(EXIT, 0, 0, 0, 0));
    out
}

/// Loads the rules as a program and attaches it to a v2 cgroup.
pub(crate) fn attach(cgroup: BorrowedFd<'_>, rules: &[Rule]) -> Result<()> {
    const PROG_LOAD: u64 = 5;
    const PROG_ATTACH: u64 = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;

    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        program: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }

    let program = compile(rules);
    let license = c"Apache-2.0";
    let mut load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        program: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let fd = sys::bpf(PROG_LOAD, &mut load).context(|| "load the device program")?;
    let fd = sys::own(fd).context(|| "load the device program")?;
    let number = |fd: i32| u32::try_from(fd).unwrap_or(u32::MAX);
    let mut attach = Attach {
        target: number(cgroup.as_raw_fd()),
        program: number(fd.as_raw_fd()),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    sys::bpf(PROG_ATTACH, &mut attach).context(|| "attach the device program")?;
    Ok(())
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
