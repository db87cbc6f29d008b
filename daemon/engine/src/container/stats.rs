// SPDX-License-Identifier: Apache-2.0
//! `ContainerStats`: what a container uses, read from its cgroup and its network namespace once a second.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_api::types::stats::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, InterfaceStats, MemoryStats, PidsStats, StatsSample,
};
use berth_domain::{Error, Result, Status};
use berth_sys::cgroup::Hierarchies;
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc;

use crate::Engine;
use crate::container::view::init_process;
use crate::files::blocking;
use crate::snapshot::Snapshot;

/// How many samples are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsMode {
    /// One a second until the client or the container goes.
    Stream,
    /// One, with the one before it, a second apart.
    Pair,
    /// One, at once.
    Once,
}

/// Between two samples.
const PERIOD: Duration = Duration::from_secs(1);
/// What Go writes for no time at all.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Nanoseconds of a tick in /proc: the kernel's interface has 100 a second on every architecture.
const TICK: u64 = 10_000_000;

impl Engine {
    /// Samples of what a container uses. One that does not run uses nothing.
    ///
    /// # Errors
    ///
    /// No such container; the first sample cannot be read.
    pub async fn container_stats(
        self: &Arc<Self>,
        name: &str,
        mode: StatsMode,
    ) -> Result<mpsc::Receiver<StatsSample>> {
        let handle = self.index.resolve(name)?;
        let (sender, samples) = mpsc::channel(1);
        let engine = Arc::clone(self);
        let mut last = engine.sample(handle.now()).await?;
        tokio::spawn(async move {
            let still = !runs(&handle.now());
            if mode != StatsMode::Pair || still {
                let sent = sender.send(last.clone()).await;
                if sent.is_err() || mode != StatsMode::Stream {
                    return;
                }
            }
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.tick().await;
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = sender.closed() => return,
                    () = engine.closing.raised() => return,
                }
                let now = handle.now();
                if now.state.removed {
                    return;
                }
                let mut next = match engine.sample(now).await {
                    Ok(next) => next,
                    Err(error) => {
                        tracing::warn!(container = %handle.id, error = error.chain(), "sampling a container");
                        return;
                    }
                };
                if next.read != NEVER && last.read != NEVER {
                    next.preread = last.read;
                    next.precpu_stats = last.cpu_stats;
                }
                last = next.clone();
                if sender.send(next).await.is_err() || mode == StatsMode::Pair {
                    return;
                }
            }
        });
        Ok(samples)
    }

    async fn sample(&self, now: Arc<Snapshot>) -> Result<StatsSample> {
        let empty = StatsSample {
            name: format!("/{}", now.name),
            id: now.id.to_string(),
            read: NEVER.into(),
            preread: NEVER.into(),
            ..StatsSample::default()
        };
        if !runs(&now) {
            return Ok(empty);
        }
        let cgroup = self.cgroup_path(&now);
        blocking(move || match read(&now, &cgroup, empty.clone()) {
            Ok(sample) => Ok(sample),
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(empty),
            Err(error) => Err(Error::internal("reading the container's cgroup").because(error)),
        })
        .await
    }
}

fn runs(now: &Snapshot) -> bool {
    matches!(now.state.status, Status::Running | Status::Paused)
}

fn read(now: &Snapshot, cgroup: &str, empty: StatsSample) -> io::Result<StatsSample> {
    let hierarchies = Hierarchies::detect()?;
    let relative = cgroup.trim_start_matches('/');
    let v1 = |controller: &str| -> Option<PathBuf> {
        let of = hierarchies.v1.iter().find(|v| v.controllers.iter().any(|c| c == controller))?;
        Some(of.mount.join(relative))
    };
    let unified = hierarchies.unified.as_ref().map(|mount| mount.join(relative));
    let host = Host::read()?;
    let mut sample = empty;
    let mut cpu = match (v1("cpuacct"), &unified) {
        (Some(usage), _) => cpu_v1(&usage, &v1("cpu").unwrap_or_else(|| usage.clone()))?,
        (None, Some(unified)) => cpu_v2(unified)?,
        (None, None) => CpuStats::default(),
    };
    cpu.system_cpu_usage = Some(host.cpu);
    cpu.online_cpus = Some(host.cpus);
    sample.cpu_stats = cpu;
    sample.memory_stats = match (v1("memory"), &unified) {
        (Some(memory), _) => memory_v1(&memory, host.memory)?,
        (None, Some(unified)) => memory_v2(unified, host.memory),
        (None, None) => MemoryStats::default(),
    };
    if let Some(pids) = v1("pids").or_else(|| unified.clone()) {
        sample.pids_stats = PidsStats {
            current: number(&pids.join("pids.current")).ok(),
            limit: number(&pids.join("pids.max")).ok(),
        };
    }
    sample.blkio_stats = match (v1("blkio"), &unified) {
        (Some(blkio), _) => blkio_v1(&blkio),
        (None, Some(unified)) => blkio_v2(unified),
        (None, None) => BlkioStats::default(),
    };
    if now.sandbox.is_some() {
        sample.networks = interfaces(now)?;
    }
    sample.read = jiff::Timestamp::now().to_string();
    Ok(sample)
}

fn number(path: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(path)?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text:?}", path.display())))
}

/// Lines of a name and a number.
fn table(path: &Path) -> io::Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(path)?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect())
}

fn of(table: &BTreeMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

fn cpu_v1(usage: &Path, quota: &Path) -> io::Result<CpuStats> {
    let times = table(&usage.join("cpuacct.stat")).unwrap_or_default();
    let per_cpu = std::fs::read_to_string(usage.join("cpuacct.usage_percpu")).unwrap_or_default();
    let mut stats = CpuStats {
        cpu_usage: CpuUsage {
            total_usage: number(&usage.join("cpuacct.usage"))?,
            percpu_usage: per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect(),
            usage_in_kernelmode: of(&times, "system").saturating_mul(TICK),
            usage_in_usermode: of(&times, "user").saturating_mul(TICK),
        },
        ..CpuStats::default()
    };
    let throttled = table(&quota.join("cpu.stat")).unwrap_or_default();
    stats.throttling_data.periods = of(&throttled, "nr_periods");
    stats.throttling_data.throttled_periods = of(&throttled, "nr_throttled");
    stats.throttling_data.throttled_time = of(&throttled, "throttled_time");
    Ok(stats)
}

fn cpu_v2(unified: &Path) -> io::Result<CpuStats> {
    let all = table(&unified.join("cpu.stat"))?;
    let nanoseconds = |name: &str| of(&all, name).saturating_mul(1000);
    let mut stats = CpuStats {
        cpu_usage: CpuUsage {
            total_usage: nanoseconds("usage_usec"),
            percpu_usage: Vec::new(),
            usage_in_kernelmode: nanoseconds("system_usec"),
            usage_in_usermode: nanoseconds("user_usec"),
        },
        ..CpuStats::default()
    };
    stats.throttling_data.periods = of(&all, "nr_periods");
    stats.throttling_data.throttled_periods = of(&all, "nr_throttled");
    stats.throttling_data.throttled_time = nanoseconds("throttled_usec");
    Ok(stats)
}

fn memory_v1(memory: &Path, host: u64) -> io::Result<MemoryStats> {
    Ok(MemoryStats {
        usage: Some(number(&memory.join("memory.usage_in_bytes"))?),
        max_usage: number(&memory.join("memory.max_usage_in_bytes")).ok(),
        stats: Some(table(&memory.join("memory.stat"))?),
        failcnt: number(&memory.join("memory.failcnt")).ok().filter(|n| *n > 0),
        limit: Some(number(&memory.join("memory.limit_in_bytes")).map_or(host, |limit| limit.min(host))),
    })
}

/// A controller that is not enabled has no files: nothing is known then.
fn memory_v2(unified: &Path, host: u64) -> MemoryStats {
    MemoryStats {
        usage: number(&unified.join("memory.current")).ok(),
        max_usage: None,
        stats: table(&unified.join("memory.stat")).ok(),
        failcnt: None,
        // `max` is no number.
        limit: Some(number(&unified.join("memory.max")).map_or(host, |limit| limit.min(host))),
    }
}

fn blkio_v1(blkio: &Path) -> BlkioStats {
    // `8:0 Read 4096`; the sum over all devices is left out.
    let entries = |name: &str| -> Option<Vec<BlkioEntry>> {
        let text = std::fs::read_to_string(blkio.join(name)).unwrap_or_default();
        let entry = |line: &str| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let (op, value) = match (words.next()?, words.next()) {
                (op, Some(value)) => (op.to_owned(), value),
                (value, None) => (String::new(), value),
            };
            let value = value.parse().ok()?;
            Some(BlkioEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op, value })
        };
        Some(text.lines().filter_map(entry).collect())
    };
    BlkioStats {
        io_service_bytes_recursive: entries("blkio.throttle.io_service_bytes_recursive"),
        io_serviced_recursive: entries("blkio.throttle.io_serviced_recursive"),
        io_queue_recursive: entries("blkio.io_queued_recursive"),
        io_service_time_recursive: entries("blkio.io_service_time_recursive"),
        io_wait_time_recursive: entries("blkio.io_wait_time_recursive"),
        io_merged_recursive: entries("blkio.io_merged_recursive"),
        io_time_recursive: entries("blkio.time_recursive"),
        sectors_recursive: entries("blkio.sectors_recursive"),
    }
}

fn blkio_v2(unified: &Path) -> BlkioStats {
    let text = std::fs::read_to_string(unified.join("io.stat")).unwrap_or_default();
    let mut bytes = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let device = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for word in words {
            let (op, value) = match word.split_once('=') {
                Some(("rbytes", value)) => ("read", value),
                Some(("wbytes", value)) => ("write", value),
                _ => continue,
            };
            let Ok(value) = value.parse() else { continue };
            bytes.push(BlkioEntry { major, minor, op: op.into(), value });
        }
    }
    BlkioStats { io_service_bytes_recursive: Some(bytes), ..BlkioStats::default() }
}

/// Counters of the container's interfaces but loopback's.
fn interfaces(now: &Snapshot) -> io::Result<Option<BTreeMap<String, InterfaceStats>>> {
    let process = init_process(now)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut text = String::new();
    std::fs::File::from(rustix::fs::openat(&process, "net/dev", flags, Mode::empty())?)
        .read_to_string(&mut text)?;
    Ok(Some(devices(&text)).filter(|found| !found.is_empty()))
}

fn devices(text: &str) -> BTreeMap<String, InterfaceStats> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let n: Vec<u64> = counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let at = |i: usize| n.get(i).copied().unwrap_or(0);
        let stats = InterfaceStats {
            rx_bytes: at(0),
            rx_packets: at(1),
            rx_errors: at(2),
            rx_dropped: at(3),
            tx_bytes: at(8),
            tx_packets: at(9),
            tx_errors: at(10),
            tx_dropped: at(11),
        };
        Some((name.trim().to_owned(), stats)).filter(|(name, _)| name != "lo")
    };
    text.lines().filter_map(line).collect()
}

/// What all processes share.
struct Host {
    /// Nanoseconds that all processors have spent.
    cpu: u64,
    cpus: u32,
    /// Bytes.
    memory: u64,
}

impl Host {
    fn read() -> io::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(7);
        let cpu = ticks.filter_map(|n| n.parse::<u64>().ok()).sum::<u64>().saturating_mul(TICK);
        let cpus = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let kib = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
        Ok(Self {
            cpu,
            cpus: u32::try_from(cpus).unwrap_or(1),
            memory: kib.map_or(u64::MAX, |kib: u64| kib * 1024),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn both_hierarchies_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 4\nthrottled_usec 7\n");
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        write("memory.stat", "anon 1\ninactive_file 2\n");
        write("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n");
        let cpu = cpu_v2(dir.path()).unwrap();
        assert_eq!((cpu.cpu_usage.total_usage, cpu.throttling_data.throttled_time), (5000, 7000));
        let memory = memory_v2(dir.path(), 1 << 30);
        assert_eq!(
            (memory.usage, memory.limit, memory.stats.unwrap()["inactive_file"]),
            (Some(4096), Some(1 << 30), 2)
        );
        let io = blkio_v2(dir.path()).io_service_bytes_recursive.unwrap();
        assert_eq!((io[1].op.as_str(), io[1].value), ("write", 20));
        write("cpuacct.usage", "9\n");
        write("cpuacct.usage_percpu", "4 5 \n");
        write("cpuacct.stat", "user 1\nsystem 2\n");
        let cpu = cpu_v1(dir.path(), dir.path()).unwrap().cpu_usage;
        assert_eq!((cpu.total_usage, cpu.percpu_usage, cpu.usage_in_kernelmode), (9, vec![4, 5], 20_000_000));
        write("blkio.throttle.io_service_bytes_recursive", "8:0 Read 1\n8:0 Total 1\nTotal 1\n");
        assert_eq!(blkio_v1(dir.path()).io_service_bytes_recursive.unwrap().len(), 2);
        let text = "Inter-| Receive\n face |bytes\n    lo: 1 2\n  eth0: 10 1 0 0 0 0 0 0 20 2 0 0 0 0 0 0\n";
        let found = devices(text);
        assert_eq!((found.len(), found["eth0"].rx_bytes, found["eth0"].tx_bytes), (1, 10, 20));
    }
}
