// SPDX-License-Identifier: Apache-2.0
//! Architectures: which of them one machine can run, and their syscall numbers.

use oci_spec::runtime::Arch;

use crate::table::TABLE;

/// Added to every x32 syscall number; x32 shares `AUDIT_ARCH_X86_64`.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// A kind of machine, which decides the architectures a filter can ever see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// x86_64, x32 and i386.
    X86_64,
    /// aarch64 and arm.
    Aarch64,
}

/// A syscall numbering. The discriminant is its column in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abi {
    X86_64 = 0,
    X32 = 1,
    I386 = 2,
    Aarch64 = 3,
    Arm = 4,
}

impl Machine {
    /// The one that this program was built for.
    #[must_use]
    pub fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    /// Its numberings by `AUDIT_ARCH_*` value, its own first.
    pub(crate) fn sections(self) -> &'static [(u32, &'static [Abi])] {
        match self {
            Self::X86_64 => &[(0xC000_003E, &[Abi::X86_64, Abi::X32]), (0x4000_0003, &[Abi::I386])],
            Self::Aarch64 => &[(0xC000_00B7, &[Abi::Aarch64]), (0x4000_0028, &[Abi::Arm])],
        }
    }
}

impl Abi {
    pub(crate) fn is_native(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }

    pub(crate) fn is_named_by(self, arch: Arch) -> bool {
        matches!(
            (self, arch),
            (Self::X86_64, Arch::ScmpArchX86_64)
                | (Self::X32, Arch::ScmpArchX32)
                | (Self::I386, Arch::ScmpArchX86)
                | (Self::Aarch64, Arch::ScmpArchAarch64)
                | (Self::Arm, Arch::ScmpArchArm)
        )
    }

    /// The number that the kernel sees in `seccomp_data.nr`.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        let row = TABLE.binary_search_by(|(candidate, _)| (*candidate).cmp(name)).ok()?;
        let number = u32::try_from(TABLE[row].1[self as usize]).ok()?;
        Some(if self == Self::X32 { number | X32_BIT } else { number })
    }

    /// Whether the kernel looks at no more than the low 32 bits of an argument: all of a 32-bit
    /// architecture's, and those that it declares `int`. Comparing more would let a caller pass a value
    /// in the upper half that the filter sees and the kernel does not: `socket(0x1_0000_0026, ...)` is
    /// AF_ALG to the kernel and more than 40 to a profile that allows families over 40.
    pub(crate) fn is_narrow(self, name: &str, index: u32) -> bool {
        match self {
            Self::X86_64 | Self::Aarch64 => {
                index < 3 && matches!(name, "socket" | "socketpair") || index == 0 && name == "personality"
            }
            Self::X32 | Self::I386 | Self::Arm => true,
        }
    }

    /// Numbers from here on are private to the architecture and say nothing about a kernel's age.
    pub(crate) fn private_from(self) -> u32 {
        if self == Self::Arm { 0x000F_0000 } else { u32::MAX }
    }

    /// On i386: the multiplexer's name and the value of its first argument that stands for the call.
    pub(crate) fn multiplexed(self, name: &str) -> Option<(&'static str, u64)> {
        if self != Self::I386 {
            return None;
        }
        let through = |mux, table: &[(&str, u64)]| {
            table.iter().find(|(candidate, _)| *candidate == name).map(|(_, value)| (mux, *value))
        };
        through("socketcall", SOCKETCALL).or_else(|| through("ipc", IPC))
    }
}

const SOCKETCALL: &[(&str, u64)] = &[
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

const IPC: &[(&str, u64)] = &[
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];
