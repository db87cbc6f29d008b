// SPDX-License-Identifier: Apache-2.0
//! Limits: what Docker accepts, refuses and drops with a warning, and `linux.resources`. The texts are the reference's, because its
//! users and tests know them.

use std::collections::BTreeSet;

use berth_api::types::container_create::{Resources, ThrottleDevice};
use berth_domain::{Error, Result};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpu, LinuxCpuBuilder, LinuxMemory, LinuxMemoryBuilder,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
    LinuxWeightDevice, LinuxWeightDeviceBuilder,
};

use super::broken;
use crate::host::{HostFacts, parse_list};

const MIN_MEMORY: i64 = 6 << 20;

/// Whether limits are for a new container or for one that has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    Create,
    Update,
}

/// Refuses what cannot be and takes out what the host cannot keep; answers the warnings.
pub(super) fn check(r: &mut Resources, facts: &HostFacts, occasion: Occasion) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    check_memory(r, facts, occasion, &mut warnings)?;
    check_pids(r, facts, &mut warnings);
    check_cpu(r, facts, &mut warnings)?;
    check_cpuset(r, facts, &mut warnings)?;
    check_block_io(r, facts, &mut warnings)?;
    Ok(warnings)
}

fn check_memory(
    r: &mut Resources,
    facts: &HostFacts,
    occasion: Occasion,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let limits = facts.limits;
    let mut warn = |text: &str| warnings.push(text.to_owned());
    // Older clients say "not set" with -1.
    if r.memory_swappiness == Some(-1) {
        r.memory_swappiness = None;
    }
    if r.memory != 0 && r.memory < MIN_MEMORY {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    if r.memory > 0 && !limits.memory {
        warn(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
        r.memory = 0;
        r.memory_swap = -1;
    }
    if r.memory > 0 && r.memory_swap != -1 && !limits.swap {
        warn(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
        );
        r.memory_swap = -1;
    }
    if r.memory_swap < -1 {
        return Err(Error::invalid(format!(
            "Invalid value {}, memory swap is -1, 0 or a size",
            r.memory_swap
        )));
    }
    if r.memory > 0 && r.memory_swap > 0 && r.memory_swap < r.memory {
        return Err(Error::invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if r.memory == 0 && r.memory_swap > 0 && occasion == Occasion::Create {
        return Err(Error::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if r.memory_swappiness.is_some() && !limits.memory_swappiness {
        warn(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
        );
        r.memory_swappiness = None;
    }
    if let Some(value) = r.memory_swappiness.filter(|v| !(0..=100).contains(v)) {
        return Err(Error::invalid(format!(
            "Invalid value: {value}, valid memory swappiness range is 0-100"
        )));
    }
    if r.memory_reservation > 0 && !limits.memory_reservation {
        warn(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
        r.memory_reservation = 0;
    }
    if r.memory_reservation != 0 && r.memory_reservation < MIN_MEMORY {
        return Err(Error::invalid("Minimum memory reservation allowed is 6MB"));
    }
    if r.memory > 0 && r.memory < r.memory_reservation {
        return Err(Error::invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    if r.oom_kill_disable.is_some() && !limits.oom_kill_disable {
        if r.oom_kill_disable == Some(true) {
            warn("Your kernel does not support OomKillDisable. OomKillDisable discarded.");
        }
        r.oom_kill_disable = None;
    }
    if r.oom_kill_disable == Some(true) && r.memory == 0 {
        warn(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.",
        );
    }
    Ok(())
}

fn check_pids(r: &mut Resources, facts: &HostFacts, warnings: &mut Vec<String>) {
    if r.pids_limit.is_some() && !facts.limits.pids {
        if r.pids_limit.is_some_and(|n| n > 0) {
            warnings.push(
                "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."
                    .to_owned(),
            );
        }
        r.pids_limit = None;
    }
}

fn check_cpu(r: &mut Resources, facts: &HostFacts, warnings: &mut Vec<String>) -> Result<()> {
    let limits = facts.limits;
    if r.nano_cpus > 0 && r.cpu_period > 0 {
        return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set"));
    }
    if r.nano_cpus > 0 && r.cpu_quota > 0 {
        return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set"));
    }
    if r.nano_cpus > 0 && !limits.cpu_quota {
        return Err(Error::invalid(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        ));
    }
    let count = i64::try_from(facts.cpus.len()).unwrap_or(i64::MAX);
    if r.nano_cpus < 0 || r.nano_cpus > count.saturating_mul(1_000_000_000) {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
        )));
    }
    if r.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            r.cpu_shares
        )));
    }
    if r.cpu_shares > 0 && !limits.cpu_shares {
        warnings.push(
            "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."
                .to_owned(),
        );
        r.cpu_shares = 0;
    }
    if (r.cpu_period != 0 || r.cpu_quota != 0) && !limits.cpu_quota {
        warnings
            .push("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.".to_owned());
        r.cpu_period = 0;
        r.cpu_quota = 0;
    }
    if r.cpu_period != 0 && !(1_000..=1_000_000).contains(&r.cpu_period) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if r.cpu_quota > 0 && r.cpu_quota < 1_000 {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if r.cpu_percent > 0 {
        warnings.push("linux does not support CPU percent. Percent discarded.".to_owned());
        r.cpu_percent = 0;
    }
    if r.cpu_realtime_period != 0 || r.cpu_realtime_runtime != 0 {
        if !limits.cpu_realtime {
            return Err(Error::invalid("kernel does not support CPU real-time scheduler"));
        }
        if r.cpu_realtime_period < 0 {
            return Err(Error::invalid(format!(
                "invalid CPU real-time period ({}): microseconds above 0 expected",
                r.cpu_realtime_period
            )));
        }
        if r.cpu_realtime_period != 0 && r.cpu_realtime_runtime > r.cpu_realtime_period {
            return Err(Error::invalid("cpu real-time runtime cannot be higher than cpu real-time period"));
        }
    }
    Ok(())
}

fn check_cpuset(r: &mut Resources, facts: &HostFacts, warnings: &mut Vec<String>) -> Result<()> {
    let asked = !r.cpuset_cpus.is_empty() || !r.cpuset_mems.is_empty();
    if asked && !facts.limits.cpuset {
        warnings.push(
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.".to_owned(),
        );
        r.cpuset_cpus.clear();
        r.cpuset_mems.clear();
    }
    let check = |what: &str, plural: &str, given: &str, available: &BTreeSet<u32>| {
        if given.is_empty() {
            return Ok(());
        }
        let wanted = parse_list(given)
            .ok_or_else(|| Error::invalid(format!("Invalid value {given} for cpuset {what}")))?;
        if wanted.is_subset(available) {
            return Ok(());
        }
        let numbers: Vec<String> = available.iter().map(u32::to_string).collect();
        Err(Error::invalid(format!(
            "Requested {plural} are not available - requested {given}, available: {}",
            numbers.join(",")
        )))
    };
    check("cpus", "CPUs", &r.cpuset_cpus, &facts.cpus)?;
    check("mems", "memory nodes", &r.cpuset_mems, &facts.memory_nodes)
}

fn check_block_io(r: &mut Resources, facts: &HostFacts, warnings: &mut Vec<String>) -> Result<()> {
    let limits = facts.limits;
    if r.blkio_weight > 0 && !limits.blkio_weight {
        warnings.push(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
                .to_owned(),
        );
        r.blkio_weight = 0;
    }
    if r.blkio_weight > 0 && !(10..=1000).contains(&r.blkio_weight) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    if r.io_maximum_bandwidth != 0 || r.io_maximum_iops != 0 {
        return Err(Error::invalid(
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps",
        ));
    }
    if !r.blkio_weight_device.is_empty() && !limits.blkio_weight_device {
        warnings.push(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded."
                .to_owned(),
        );
        r.blkio_weight_device.clear();
    }
    let throttles = [
        (&mut r.blkio_device_read_bps, "BPS Block I/O read limit", "Block I/O BPS read limit"),
        (&mut r.blkio_device_write_bps, "BPS Block I/O write limit", "Block I/O BPS write limit"),
        (&mut r.blkio_device_read_iops, "IOPS Block read limit", "Block I/O IOPS read limit"),
        (&mut r.blkio_device_write_iops, "IOPS Block write limit", "Block I/O IOPS write limit"),
    ];
    for (devices, what, short) in throttles {
        if !devices.is_empty() && !limits.blkio_throttle {
            warnings.push(format!(
                "Your kernel does not support {what} or the cgroup is not mounted. {short} discarded."
            ));
            devices.clear();
        }
    }
    Ok(())
}

/// `linux.resources` without device rules.
pub(super) fn build(r: &Resources) -> Result<LinuxResources> {
    let mut all = LinuxResourcesBuilder::default();
    if let Some(memory) = memory(r)? {
        all = all.memory(memory);
    }
    if let Some(cpu) = cpu(r)? {
        all = all.cpu(cpu);
    }
    if let Some(block_io) = block_io(r)? {
        all = all.block_io(block_io);
    }
    if let Some(limit) = r.pids_limit {
        // Zero and below mean no limit; -1 takes away an earlier one.
        let limit = if limit > 0 { limit } else { -1 };
        all = all.pids(LinuxPidsBuilder::default().limit(limit).build().map_err(|e| broken(&e))?);
    }
    all.build().map_err(|e| broken(&e))
}

fn memory(r: &Resources) -> Result<Option<LinuxMemory>> {
    let mut memory = LinuxMemoryBuilder::default();
    if r.memory > 0 {
        memory = memory.limit(r.memory);
    }
    if r.memory_reservation > 0 {
        memory = memory.reservation(r.memory_reservation);
    }
    if r.memory_swap > 0 || (r.memory_swap == -1 && r.memory > 0) {
        memory = memory.swap(r.memory_swap);
    }
    if let Some(swappiness) = r.memory_swappiness.and_then(|v| u64::try_from(v).ok()) {
        memory = memory.swappiness(swappiness);
    }
    if r.oom_kill_disable == Some(true) {
        memory = memory.disable_oom_killer(true);
    }
    let memory = memory.build().map_err(|e| broken(&e))?;
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

fn cpu(r: &Resources) -> Result<Option<LinuxCpu>> {
    /// Microseconds.
    const PERIOD: u64 = 100_000;
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(shares) = u64::try_from(r.cpu_shares).ok().filter(|s| *s > 0) {
        cpu = cpu.shares(shares);
    }
    if r.nano_cpus > 0 {
        // A ten-thousandth of a billionth of a CPU: the quota in microseconds for a period of 100 ms.
        cpu = cpu.period(PERIOD).quota(r.nano_cpus / 10_000);
    }
    if let Some(period) = u64::try_from(r.cpu_period).ok().filter(|p| *p > 0) {
        cpu = cpu.period(period);
    }
    if r.cpu_quota != 0 {
        cpu = cpu.quota(r.cpu_quota);
    }
    if let Some(period) = u64::try_from(r.cpu_realtime_period).ok().filter(|p| *p > 0) {
        cpu = cpu.realtime_period(period);
    }
    if r.cpu_realtime_runtime != 0 {
        cpu = cpu.realtime_runtime(r.cpu_realtime_runtime);
    }
    if !r.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(r.cpuset_cpus.clone());
    }
    if !r.cpuset_mems.is_empty() {
        cpu = cpu.mems(r.cpuset_mems.clone());
    }
    let cpu = cpu.build().map_err(|e| broken(&e))?;
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

fn device_number(path: &str) -> Result<(i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).map_err(|e| Error::invalid(format!("stat {path}")).because(e))?;
    let device = metadata.rdev();
    Ok((rustix::fs::major(device).into(), rustix::fs::minor(device).into()))
}

fn throttle(devices: &[ThrottleDevice]) -> Result<Option<Vec<LinuxThrottleDevice>>> {
    let build = |device: &ThrottleDevice| {
        let (major, minor) = device_number(&device.path)?;
        LinuxThrottleDeviceBuilder::default()
            .major(major)
            .minor(minor)
            .rate(device.rate)
            .build()
            .map_err(|e| broken(&e))
    };
    let all = devices.iter().map(build).collect::<Result<Vec<_>>>()?;
    Ok((!all.is_empty()).then_some(all))
}

fn block_io(r: &Resources) -> Result<Option<LinuxBlockIo>> {
    let mut block = LinuxBlockIoBuilder::default();
    if r.blkio_weight > 0 {
        block = block.weight(r.blkio_weight);
    }
    let weigh = |device: &berth_api::types::container_create::WeightDevice| {
        let (major, minor) = device_number(&device.path)?;
        let built = LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(device.weight);
        built.build().map_err(|e| broken(&e))
    };
    let weights: Vec<LinuxWeightDevice> = r.blkio_weight_device.iter().map(weigh).collect::<Result<_>>()?;
    if !weights.is_empty() {
        block = block.weight_device(weights);
    }
    if let Some(devices) = throttle(&r.blkio_device_read_bps)? {
        block = block.throttle_read_bps_device(devices);
    }
    if let Some(devices) = throttle(&r.blkio_device_write_bps)? {
        block = block.throttle_write_bps_device(devices);
    }
    if let Some(devices) = throttle(&r.blkio_device_read_iops)? {
        block = block.throttle_read_iops_device(devices);
    }
    if let Some(devices) = throttle(&r.blkio_device_write_iops)? {
        block = block.throttle_write_iops_device(devices);
    }
    let block = block.build().map_err(|e| broken(&e))?;
    Ok((block != LinuxBlockIo::default()).then_some(block))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn refused(change: impl FnOnce(&mut Resources)) -> String {
        let mut r = Resources::default();
        change(&mut r);
        check(&mut r, &HostFacts::capable(), Occasion::Create).unwrap_err().to_string()
    }

    #[test]
    fn impossible_limits_are_refused_in_dockers_words() {
        assert_eq!(refused(|r| r.memory = 1000), "Minimum memory limit allowed is 6MB");
        assert_eq!(refused(|r| r.memory = -5), "Minimum memory limit allowed is 6MB");
        assert!(
            refused(|r| (r.memory, r.memory_swap) = (8 << 20, 7 << 20)).starts_with("Minimum memoryswap")
        );
        assert!(refused(|r| r.memory_swap = 7 << 20).starts_with("You should always set the Memory limit"));
        assert!(refused(|r| r.nano_cpus = 3_000_000_000).contains("only 2 CPUs available"));
        assert!(refused(|r| r.cpuset_cpus = "0-5".into()).contains("requested 0-5, available: 0,1"));
        assert_eq!(refused(|r| r.cpuset_cpus = "a".into()), "Invalid value a for cpuset cpus");
        assert!(refused(|r| r.cpu_period = 10).starts_with("CPU cfs period"));
        assert!(refused(|r| r.memory_swappiness = Some(101)).starts_with("Invalid value: 101"));
        assert!(refused(|r| r.blkio_weight = 5).starts_with("Range of blkio weight"));
    }

    #[test]
    fn a_poor_host_warns_and_drops() {
        let mut facts = HostFacts::capable();
        facts.limits.swap = false;
        facts.limits.pids = false;
        facts.limits.cpu_shares = false;
        let mut r = Resources {
            memory: 64 << 20,
            memory_swap: 128 << 20,
            pids_limit: Some(5),
            cpu_shares: 12,
            ..Resources::default()
        };
        let warnings = check(&mut r, &facts, Occasion::Create).unwrap();
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].ends_with("Memory limited without swap."));
        assert_eq!((r.memory_swap, r.pids_limit, r.cpu_shares), (-1, None, 0));
    }

    #[test]
    fn limits_become_the_specs() {
        let r = Resources {
            memory: 64 << 20,
            memory_swap: 128 << 20,
            nano_cpus: 500_000_000,
            cpuset_cpus: "0".into(),
            pids_limit: Some(0),
            oom_kill_disable: Some(false),
            ..Resources::default()
        };
        let built = build(&r).unwrap();
        let memory = built.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(128 << 20)));
        let cpu = built.cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(50_000), Some(100_000)));
        assert_eq!(built.pids().unwrap().limit(), -1);
        assert!(built.block_io().is_none());
        assert_eq!(build(&Resources::default()).unwrap(), LinuxResources::default());
    }

    proptest::proptest! {
        #[test]
        fn any_numbers_are_refused_or_built(memory: i64, swap: i64, nano: i64, quota: i64, period: i64, shares: i64, pids: Option<i64>) {
            let mut r = Resources { memory, memory_swap: swap, nano_cpus: nano, cpu_quota: quota, cpu_period: period, cpu_shares: shares, pids_limit: pids, ..Resources::default() };
            if check(&mut r, &HostFacts::capable(), Occasion::Update).is_ok() {
                let built = build(&r);
                proptest::prop_assert!(built.is_ok());
            }
        }
    }
}
