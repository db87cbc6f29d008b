// SPDX-License-Identifier: Apache-2.0
//! What this host can do, read once at start: decides defaults, warnings and errors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};
use berth_sys::cgroup::Hierarchies;

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

/// Limits that the kernel can keep; what is false is taken out of requests with a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // One question each, all independent.
pub struct Limits {
    /// `--memory`.
    pub memory: bool,
    /// `--memory-swap`.
    pub swap: bool,
    /// `--memory-reservation`.
    pub memory_reservation: bool,
    /// `--memory-swappiness`.
    pub memory_swappiness: bool,
    /// `--oom-kill-disable`.
    pub oom_kill_disable: bool,
    /// `--pids-limit`.
    pub pids: bool,
    /// `--cpu-shares`.
    pub cpu_shares: bool,
    /// `--cpus`, `--cpu-quota`, `--cpu-period`.
    pub cpu_quota: bool,
    /// `--cpu-rt-runtime`, `--cpu-rt-period`.
    pub cpu_realtime: bool,
    /// `--cpuset-cpus`, `--cpuset-mems`.
    pub cpuset: bool,
    /// `--blkio-weight`.
    pub blkio_weight: bool,
    /// `--blkio-weight-device`.
    pub blkio_weight_device: bool,
    /// `--device-read-bps` and its kin.
    pub blkio_throttle: bool,
}

/// What this host can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// How cgroups are mounted.
    pub cgroups: CgroupLayout,
    /// Controllers that can be used (`memory`, `cpu`, `cpuset`, `pids`, `io` or `blkio`, ...).
    pub controllers: BTreeSet<String>,
    /// Limits that can be kept.
    pub limits: Limits,
    /// Release of the running kernel.
    pub kernel: (u32, u32),
    /// Online CPUs, as the kernel numbers them.
    pub cpus: BTreeSet<u32>,
    /// Online memory nodes.
    pub memory_nodes: BTreeSet<u32>,
    /// Capabilities that this daemon can hand on, a bit each.
    pub capabilities: u64,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// The AppArmor profile `docker-default` is loaded.
    pub apparmor_default: bool,
    /// There are time namespaces.
    pub time_namespaces: bool,
    /// There are cgroup namespaces.
    pub cgroup_namespaces: bool,
    /// Mounts can be made read-only recursively (`mount_setattr`).
    pub recursive_read_only: bool,
    /// Which of the sysctls that are set by default exist.
    pub default_sysctls: BTreeSet<String>,
    /// Directories `/sys/devices/system/cpu/cpuN/thermal_throttle` that exist.
    pub thermal_throttle: Vec<PathBuf>,
}

/// The sysctls that a private network namespace gets unless the user says otherwise.
pub(crate) const PING_GROUP_RANGE: &str = "net.ipv4.ping_group_range";
pub(crate) const UNPRIVILEGED_PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";

impl HostFacts {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// `/proc` or `/sys` is missing.
    pub fn probe() -> Result<Self> {
        let hierarchies =
            Hierarchies::detect().map_err(|e| Error::io("reading", "/proc/self/mountinfo", e))?;
        let release = read("/proc/sys/kernel/osrelease")?;
        let kernel = parse_release(&release)
            .ok_or_else(|| Error::internal(format!("the kernel's release {release:?} is no version")))?;
        let status = read("/proc/self/status")?;
        let exists = |path: &str| Path::new(path).exists();
        let default_sysctls = [PING_GROUP_RANGE, UNPRIVILEGED_PORT_START]
            .into_iter()
            .filter(|name| exists(&format!("/proc/sys/{}", name.replace('.', "/"))))
            .map(str::to_owned)
            .collect();
        Ok(Self {
            cgroups: layout(&hierarchies),
            controllers: hierarchies.controllers(),
            limits: limits(&hierarchies),
            kernel,
            cpus: list_of("/sys/devices/system/cpu/online"),
            memory_nodes: list_of("/sys/devices/system/node/online"),
            capabilities: capability_mask(&status).ok_or_else(|| {
                Error::internal("/proc/self/status has no line CapBnd: the kernel has no capabilities")
            })?,
            seccomp: status.lines().any(|l| l.starts_with("Seccomp:")),
            apparmor: read("/sys/module/apparmor/parameters/enabled").is_ok_and(|s| s.starts_with('Y')),
            apparmor_default: read("/sys/kernel/security/apparmor/profiles")
                .is_ok_and(|list| list.lines().any(|l| l.starts_with("docker-default "))),
            time_namespaces: exists("/proc/self/ns/time"),
            cgroup_namespaces: exists("/proc/self/ns/cgroup"),
            recursive_read_only: kernel >= (5, 12),
            default_sysctls,
            thermal_throttle: thermal_throttle(Path::new("/sys/devices/system/cpu"))?,
        })
    }
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))
}

fn layout(hierarchies: &Hierarchies) -> CgroupLayout {
    let v1 = hierarchies.v1.iter().any(|v| !v.controllers.is_empty());
    match (v1, hierarchies.unified.is_some()) {
        (false, true) => CgroupLayout::V2,
        (_, true) => CgroupLayout::Hybrid,
        (_, false) => CgroupLayout::V1,
    }
}

fn limits(hierarchies: &Hierarchies) -> Limits {
    let controllers = hierarchies.controllers();
    let has = |name: &str| controllers.contains(name);
    let v1 = |controller: &str, file: &str| {
        let own = |v: &&berth_sys::cgroup::V1| v.controllers.iter().any(|c| c == controller);
        hierarchies.v1.iter().find(own).is_some_and(|v| v.mount.join(file).exists())
    };
    if layout(hierarchies) == CgroupLayout::V2 {
        let root = hierarchies.unified.clone().unwrap_or_default();
        // The root cgroup has no files for limits: its children show what there is.
        let child_has = |file: &str| {
            let listing = std::fs::read_dir(&root).into_iter().flatten().flatten();
            listing.map(|entry| entry.path()).any(|path| path.join(file).exists())
        };
        // Where no child has limits of memory yet, none can tell; only a kernel without swap keeps no account of it.
        let swap =
            child_has("memory.swap.max") || (!child_has("memory.max") && Path::new("/proc/swaps").exists());
        return Limits {
            memory: has("memory"),
            swap: has("memory") && swap,
            memory_reservation: has("memory"),
            memory_swappiness: false,
            oom_kill_disable: false,
            pids: has("pids"),
            cpu_shares: has("cpu"),
            cpu_quota: has("cpu"),
            cpu_realtime: false,
            cpuset: has("cpuset"),
            blkio_weight: has("io") && (child_has("io.weight") || child_has("io.bfq.weight")),
            blkio_weight_device: has("io") && child_has("io.weight"),
            blkio_throttle: has("io"),
        };
    }
    Limits {
        memory: has("memory"),
        swap: v1("memory", "memory.memsw.limit_in_bytes"),
        memory_reservation: v1("memory", "memory.soft_limit_in_bytes"),
        memory_swappiness: v1("memory", "memory.swappiness"),
        oom_kill_disable: v1("memory", "memory.oom_control"),
        pids: has("pids"),
        cpu_shares: v1("cpu", "cpu.shares"),
        cpu_quota: v1("cpu", "cpu.cfs_quota_us"),
        cpu_realtime: v1("cpu", "cpu.rt_period_us"),
        cpuset: has("cpuset"),
        blkio_weight: v1("blkio", "blkio.weight") || v1("blkio", "blkio.bfq.weight"),
        blkio_weight_device: v1("blkio", "blkio.weight_device"),
        blkio_throttle: v1("blkio", "blkio.throttle.read_bps_device"),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn capability_mask(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// A file such as `0-3,8`; a host without it has the one, number 0.
fn list_of(path: &str) -> BTreeSet<u32> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|_| "0".to_owned());
    parse_list(text.trim()).unwrap_or_else(|| BTreeSet::from([0]))
}

/// `0-3,8` as the kernel's cpusets write it; `None` if it is no such list. Numbers past 8191 (the kernel's `NR_CPUS` is at most 8192) are refused.
pub(crate) fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let number = |s: &str| {
            let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            s.parse::<u32>().ok().filter(|n| digits && *n < 8192)
        };
        let (low, high) = (number(low)?, number(high)?);
        if low > high {
            return None;
        }
        found.extend(low..=high);
    }
    Some(found)
}

fn thermal_throttle(cpus: &Path) -> Result<Vec<PathBuf>> {
    let listing = match std::fs::read_dir(cpus) {
        Ok(listing) => listing,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("reading", cpus, e)),
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|e| Error::io("reading", cpus, e))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("cpu")).and_then(|n| n.parse::<u32>().ok());
        let path = entry.path().join("thermal_throttle");
        if let Some(number) = number.filter(|_| path.exists()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
impl HostFacts {
    /// A host of two CPUs that can do everything.
    pub(crate) fn capable() -> Self {
        Self {
            cgroups: CgroupLayout::V2,
            controllers: ["cpu", "cpuset", "io", "memory", "pids"].map(str::to_owned).into(),
            limits: Limits {
                memory: true,
                swap: true,
                memory_reservation: true,
                memory_swappiness: true,
                oom_kill_disable: true,
                pids: true,
                cpu_shares: true,
                cpu_quota: true,
                cpu_realtime: true,
                cpuset: true,
                blkio_weight: true,
                blkio_weight_device: true,
                blkio_throttle: true,
            },
            kernel: (6, 12),
            cpus: [0, 1].into(),
            memory_nodes: [0].into(),
            capabilities: (1 << 41) - 1,
            seccomp: true,
            apparmor: false,
            apparmor_default: false,
            time_namespaces: true,
            cgroup_namespaces: true,
            recursive_read_only: true,
            default_sysctls: [PING_GROUP_RANGE, UNPRIVILEGED_PORT_START].map(str::to_owned).into(),
            thermal_throttle: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn releases_and_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_release("6.18.44-fc-v657\n"), Some((6, 18)));
        assert_eq!(parse_release("5.10-rc3"), Some((5, 10)));
        assert_eq!(parse_release("six"), None);
        assert_eq!(parse_list("0-2,5"), Some([0, 1, 2, 5].into()));
        for bad in ["", "a", "3-1", "1,", "0-4294967295", "+1", "-1", "1-"] {
            assert_eq!(parse_list(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_host_is_understood() {
        let facts = HostFacts::probe().unwrap();
        assert!(facts.kernel >= (5, 4) && !facts.cpus.is_empty());
        assert!(facts.capabilities & 1 == 1, "tests run as root");
    }
}
