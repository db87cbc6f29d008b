// SPDX-License-Identifier: Apache-2.0
//! What this host can do, read once at start: decides defaults, warnings and errors.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// How cgroups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupLayout {
    /// Per-controller hierarchies only.
    V1,
    /// Per-controller hierarchies and a unified one without controllers.
    Hybrid,
    /// One hierarchy.
    V2,
}

/// What this host can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// How cgroups are mounted.
    pub cgroups: CgroupLayout,
    /// Controllers that can be used (`memory`, `cpu`, `cpuset`, `pids`, `io` or `blkio`, ...).
    pub controllers: BTreeSet<String>,
    /// Swap is accounted (`memory.memsw.*` or `memory.swap.*` exist).
    pub swap_accounting: bool,
    /// Release of the running kernel.
    pub kernel: (u32, u32),
    /// Online CPUs, as the kernel numbers them.
    pub cpus: BTreeSet<u32>,
    /// Memory nodes that can be used.
    pub memory_nodes: BTreeSet<u32>,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// Directories `/sys/devices/system/cpu/cpuN/thermal_throttle` that exist.
    pub thermal_throttle: Vec<PathBuf>,
}
