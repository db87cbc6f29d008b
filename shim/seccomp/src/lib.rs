// SPDX-License-Identifier: Apache-2.0
//! OCI seccomp profiles compiled to classic BPF, without a C library.
//!
//! libseccomp takes about 11 ms to build Docker's default profile and its program walks some 390
//! instructions per syscall. Here the syscalls of each architecture are sorted, neighbours with the same
//! verdict merged into ranges, and the ranges searched by bisection: about 40 us to build, 12 steps per
//! syscall, and a smaller program to load.
//!
//! # What a profile means
//!
//! As libseccomp driven by runc has it, which `tests/oracle.rs` checks by emulating both programs:
//!
//! - A rule without arguments beats every rule with arguments for the same syscall; among rules with
//!   arguments any match decides, in the profile's order.
//! - Two conditions on the same argument index in one rule make one rule each (they are alternatives).
//! - A rule whose verdict is the default's is left out; syscalls that an architecture lacks are skipped.
//! - The machine's own architecture is always covered; one that is not listed is killed.
//! - On i386, rules for socket and System V IPC calls also cover their `socketcall` and `ipc` forms. One
//!   departure: a rule that *allows* by argument does not, since the multiplexed form hides the argument
//!   behind a pointer and the condition could not be held.
//! - Arguments are compared as 64 bits, on 32-bit architectures as 32. The other departure: `int`
//!   arguments of `socket`, `socketpair` and `personality` are always compared as 32, since the kernel
//!   ignores the upper half and a profile that allows "families over 40" must not be fooled by it.
//!
//! As runc does, a syscall newer than every one that the profile names fails with `ENOSYS` rather than
//! with the default verdict, so that a C library probing for it falls back.
#![forbid(unsafe_code)]

mod arch;
mod compile;
pub mod emulate;
mod program;
mod table;
#[cfg(test)]
mod tests;

pub use arch::Machine;
pub use compile::{NewSyscalls, compile, compile_for};

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Instructions skipped if the condition holds.
    pub jt: u8,
    /// Instructions skipped if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Why a profile cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(pub String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A program as the bytes of a `struct sock_filter` array, for a file or memfd.
#[must_use]
pub fn to_bytes(program: &[SockFilter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for filter in program {
        bytes.extend_from_slice(&filter.code.to_ne_bytes());
        bytes.extend_from_slice(&[filter.jt, filter.jf]);
        bytes.extend_from_slice(&filter.k.to_ne_bytes());
    }
    bytes
}

/// The reverse of [`to_bytes`].
///
/// # Errors
///
/// The length is not that of 1 to 4096 instructions.
pub fn from_bytes(bytes: &[u8]) -> Result<Vec<SockFilter>, Error> {
    if bytes.is_empty() || bytes.len() % 8 != 0 || bytes.len() / 8 > program::MAX_LENGTH {
        return Err(Error(format!("{} bytes are not a BPF program", bytes.len())));
    }
    let mut program = Vec::with_capacity(bytes.len() / 8);
    for raw in bytes.chunks_exact(8) {
        program.push(SockFilter {
            code: u16::from_ne_bytes([raw[0], raw[1]]),
            jt: raw[2],
            jf: raw[3],
            k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
        });
    }
    Ok(program)
}
