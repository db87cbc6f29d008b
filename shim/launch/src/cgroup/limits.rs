// SPDX-License-Identifier: Apache-2.0
//! `linux.resources` of the OCI runtime spec as writes to cgroup files: pure, so that it can be tested
//! without a cgroup.

use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice};

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    /// The v1 controller, or the v2 one, whose hierarchy has the file.
    pub(crate) controller: &'static str,
    pub(crate) file: String,
    pub(crate) value: String,
    /// What a person asked for, for the warning when the host has no such file.
    pub(crate) asked: &'static str,
}

/// Collects writes.
#[derive(Default)]
struct Writes(Vec<Write>);

impl Writes {
    fn add(
        &mut self,
        controller: &'static str,
        file: impl Into<String>,
        value: impl std::fmt::Display,
        asked: &'static str,
    ) {
        self.0.push(Write { controller, file: file.into(), value: value.to_string(), asked });
    }

    fn add_some(
        &mut self,
        controller: &'static str,
        file: &str,
        value: Option<impl std::fmt::Display>,
        asked: &'static str,
    ) {
        if let Some(value) = value {
            self.add(controller, file, value, asked);
        }
    }
}

fn throttles(list: Option<&Vec<LinuxThrottleDevice>>) -> impl Iterator<Item = (String, u64)> {
    list.into_iter().flatten().map(|device| (format!("{}:{}", device.major(), device.minor()), device.rate()))
}

/// Writes for the v1 hierarchies, devices apart.
pub(crate) fn v1(resources: &LinuxResources) -> Vec<Write> {
    let mut writes = Writes::default();
    if let Some(memory) = resources.memory() {
        writes.add_some("memory", "memory.limit_in_bytes", non_zero(memory.limit()), "memory limit");
        writes.add_some("memory", "memory.memsw.limit_in_bytes", non_zero(memory.swap()), "swap limit");
        writes.add_some(
            "memory",
            "memory.soft_limit_in_bytes",
            non_zero(memory.reservation()),
            "memory reservation",
        );
        writes.add_some("memory", "memory.swappiness", memory.swappiness(), "memory swappiness");
        writes.add_some("memory", "memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp(), "kernel TCP memory");
        writes.add_some(
            "memory",
            "memory.oom_control",
            memory.disable_oom_killer().map(u8::from),
            "disabled OOM killer",
        );
    }
    if let Some(cpu) = resources.cpu() {
        writes.add_some("cpu", "cpu.shares", cpu.shares().filter(|shares| *shares != 0), "cpu shares");
        writes.add_some("cpu", "cpu.cfs_period_us", cpu.period().filter(|period| *period != 0), "cpu period");
        writes.add_some("cpu", "cpu.cfs_quota_us", cpu.quota().filter(|quota| *quota != 0), "cpu quota");
        writes.add_some("cpu", "cpu.cfs_burst_us", cpu.burst(), "cpu burst");
        writes.add_some("cpu", "cpu.rt_period_us", cpu.realtime_period(), "realtime period");
        writes.add_some("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime(), "realtime runtime");
        writes.add_some("cpu", "cpu.idle", cpu.idle(), "cpu idle");
        writes.add_some("cpuset", "cpuset.cpus", non_empty(cpu.cpus().as_ref()), "cpuset cpus");
        writes.add_some("cpuset", "cpuset.mems", non_empty(cpu.mems().as_ref()), "cpuset mems");
    }
    if let Some(pids) = resources.pids() {
        writes.add("pids", "pids.max", max_or(pids.limit()), "pids limit");
    }
    if let Some(block) = resources.block_io() {
        writes.add_some(
            "blkio",
            "blkio.weight",
            block.weight().filter(|weight| *weight != 0),
            "blkio weight",
        );
        for device in block.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                let line = format!("{}:{} {weight}", device.major(), device.minor());
                writes.add("blkio", "blkio.weight_device", line, "blkio weight of a device");
            }
        }
        for (file, list) in [
            ("blkio.throttle.read_bps_device", block.throttle_read_bps_device()),
            ("blkio.throttle.write_bps_device", block.throttle_write_bps_device()),
            ("blkio.throttle.read_iops_device", block.throttle_read_iops_device()),
            ("blkio.throttle.write_iops_device", block.throttle_write_iops_device()),
        ] {
            for (device, rate) in throttles(list.as_ref()) {
                writes.add("blkio", file, format!("{device} {rate}"), "blkio throttle of a device");
            }
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
        writes.add("hugetlb", file, limit.limit(), "hugetlb limit");
    }
    if let Some(network) = resources.network() {
        let class = network.class_id().filter(|class| *class != 0);
        writes.add_some("net_cls", "net_cls.classid", class, "network class id");
        for priority in network.priorities().iter().flatten() {
            let line = format!("{} {}", priority.name(), priority.priority());
            writes.add("net_prio", "net_prio.ifpriomap", line, "network priority");
        }
    }
    writes.0
}

/// Writes for the unified hierarchy, devices apart, and what v2 cannot do.
pub(crate) fn v2(resources: &LinuxResources) -> (Vec<Write>, Vec<String>) {
    let mut writes = Writes::default();
    let mut warnings = Vec::new();
    if let Some(memory) = resources.memory() {
        writes.add_some("memory", "memory.max", non_zero(memory.limit()).map(max_or), "memory limit");
        writes.add_some(
            "memory",
            "memory.low",
            non_zero(memory.reservation()).map(max_or),
            "memory reservation",
        );
        match (memory.swap(), memory.limit()) {
            (None | Some(0), _) => {}
            (Some(-1), _) => writes.add("memory", "memory.swap.max", "max", "swap limit"),
            (Some(both), Some(limit)) if limit > 0 && both >= limit => {
                writes.add("memory", "memory.swap.max", both - limit, "swap limit");
            }
            (Some(_), _) => {
                warnings.push("swap limit needs a memory limit that is not larger; ignored".to_owned());
            }
        }
        if memory.swappiness().is_some() {
            warnings.push("memory swappiness does not exist on cgroup v2; ignored".to_owned());
        }
        if memory.disable_oom_killer() == Some(true) {
            warnings.push("the OOM killer cannot be disabled on cgroup v2; ignored".to_owned());
        }
    }
    if let Some(cpu) = resources.cpu() {
        let weight = cpu.shares().filter(|shares| *shares != 0).map(weight_of_shares);
        writes.add_some("cpu", "cpu.weight", weight, "cpu shares");
        let quota = cpu.quota().filter(|quota| *quota != 0);
        if quota.is_some() || cpu.period().is_some() {
            let quota = quota.filter(|quota| *quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
            let period = cpu.period().filter(|period| *period != 0).unwrap_or(100_000);
            writes.add("cpu", "cpu.max", format!("{quota} {period}"), "cpu quota");
        }
        writes.add_some("cpu", "cpu.max.burst", cpu.burst(), "cpu burst");
        writes.add_some("cpu", "cpu.idle", cpu.idle(), "cpu idle");
        writes.add_some("cpuset", "cpuset.cpus", non_empty(cpu.cpus().as_ref()), "cpuset cpus");
        writes.add_some("cpuset", "cpuset.mems", non_empty(cpu.mems().as_ref()), "cpuset mems");
        if cpu.realtime_period().is_some() || cpu.realtime_runtime().is_some() {
            warnings.push("realtime cpu limits do not exist on cgroup v2; ignored".to_owned());
        }
    }
    if let Some(pids) = resources.pids() {
        writes.add("pids", "pids.max", max_or(pids.limit()), "pids limit");
    }
    if let Some(block) = resources.block_io() {
        let weight = block.weight().filter(|weight| *weight != 0).map(io_weight);
        writes.add_some("io", "io.weight", weight, "io weight");
        for device in block.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                let line = format!("{}:{} {}", device.major(), device.minor(), io_weight(weight));
                writes.add("io", "io.weight", line, "io weight of a device");
            }
        }
        for (key, list) in [
            ("rbps", block.throttle_read_bps_device()),
            ("wbps", block.throttle_write_bps_device()),
            ("riops", block.throttle_read_iops_device()),
            ("wiops", block.throttle_write_iops_device()),
        ] {
            for (device, rate) in throttles(list.as_ref()) {
                let rate = if rate == 0 { "max".to_owned() } else { rate.to_string() };
                writes.add("io", "io.max", format!("{device} {key}={rate}"), "io throttle of a device");
            }
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        writes.add("hugetlb", format!("hugetlb.{}.max", limit.page_size()), limit.limit(), "hugetlb limit");
    }
    let mut raw: Vec<_> = resources.unified().iter().flatten().collect();
    raw.sort();
    for (file, value) in raw {
        writes.add("", file.clone(), value, "unified resource");
    }
    (writes.0, warnings)
}

/// Docker's "not set".
fn non_zero(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

fn non_empty(text: Option<&String>) -> Option<&String> {
    text.filter(|text| !text.is_empty())
}

fn max_or(limit: i64) -> String {
    if limit > 0 { limit.to_string() } else { "max".to_owned() }
}

/// `cpu.shares` (2 to 262144, default 1024) as `cpu.weight` (1 to 10000, default 100), by the curve
/// that maps all three points onto each other, as runc and crun have used since 2025.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

/// `blkio.weight` (10 to 1000) as `io.weight` (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(json: &str, want_v1: &[(&str, &str)], want_v2: &[(&str, &str)]) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let flat = |writes: Vec<Write>| -> Vec<(String, String)> {
            writes.into_iter().map(|write| (write.file, write.value)).collect()
        };
        let own = |want: &[(&str, &str)]| -> Vec<(String, String)> {
            want.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(flat(v1(&resources)), own(want_v1), "{json}");
        assert_eq!(flat(v2(&resources).0), own(want_v2), "{json}");
    }

    #[test]
    fn memory() {
        check(
            r#"{"memory":{"limit":104857600,"swap":209715200,"reservation":1000}}"#,
            &[
                ("memory.limit_in_bytes", "104857600"),
                ("memory.memsw.limit_in_bytes", "209715200"),
                ("memory.soft_limit_in_bytes", "1000"),
            ],
            &[("memory.max", "104857600"), ("memory.low", "1000"), ("memory.swap.max", "104857600")],
        );
        check(
            r#"{"memory":{"limit":-1,"swap":-1}}"#,
            &[("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")],
            &[("memory.max", "max"), ("memory.swap.max", "max")],
        );
    }

    #[test]
    fn zero_is_not_set() {
        let zeros = r#"{"memory":{"limit":0,"swap":0,"reservation":0},"cpu":{"shares":0,"quota":0,"cpus":""},
            "blockIO":{"weight":0}}"#;
        check(zeros, &[], &[]);
    }

    #[test]
    fn cpu_and_pids() {
        check(
            r#"{"cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0-1","mems":""},"pids":{"limit":100}}"#,
            &[
                ("cpu.shares", "512"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpuset.cpus", "0-1"),
                ("pids.max", "100"),
            ],
            &[("cpu.weight", "59"), ("cpu.max", "50000 100000"), ("cpuset.cpus", "0-1"), ("pids.max", "100")],
        );
        check(r#"{"pids":{"limit":-1}}"#, &[("pids.max", "max")], &[("pids.max", "max")]);
    }

    #[test]
    fn block_io() {
        check(
            r#"{"blockIO":{"weight":500,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1048576}]}}"#,
            &[("blkio.weight", "500"), ("blkio.throttle.read_bps_device", "8:0 1048576")],
            &[("io.weight", "4950"), ("io.max", "8:0 rbps=1048576")],
        );
    }

    #[test]
    fn weights() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 100);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert_eq!(weight_of_shares(0), 1);
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
        assert!((2..262_144).step_by(97).all(|s| weight_of_shares(s) <= weight_of_shares(s + 97)));
    }
}
