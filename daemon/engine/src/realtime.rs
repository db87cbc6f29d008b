// SPDX-License-Identifier: Apache-2.0
//! `cpu-rt-period` and `cpu-rt-runtime` of the daemon: the kernel lets a group of a version 1 hierarchy have no more realtime
//! than its parent has, and a new one has none. So the groups above a container get what the daemon was told.

use std::path::{Component, Path};

use berth_domain::{Error, Result};
use berth_runtime::HostFacts;
use berth_sys::cgroup::Hierarchies;

use crate::config::EngineConfig;

/// Refuses settings that this host cannot keep.
///
/// # Errors
///
/// Invalid input, in the reference's words.
pub fn check_realtime(period: i64, runtime: i64, facts: &HostFacts) -> Result<()> {
    if (period, runtime) == (0, 0) || facts.limits.cpu_realtime {
        return Ok(());
    }
    Err(Error::invalid(match facts.cgroups {
        berth_runtime::CgroupLayout::V2 => {
            "daemon-scoped cpu-rt-period and cpu-rt-runtime are not implemented for cgroup v2"
        }
        _ => "daemon-scoped cpu-rt-period and cpu-rt-runtime are not supported by the kernel",
    }))
}

/// Makes the groups above a container's and gives them the daemon's share.
pub(crate) fn ready(config: &EngineConfig, cgroup: &str) -> Result<()> {
    let files = [("cpu.rt_period_us", config.cpu_rt_period), ("cpu.rt_runtime_us", config.cpu_rt_runtime)];
    if files.iter().all(|(_, value)| *value == 0) {
        return Ok(());
    }
    let found = Hierarchies::detect().map_err(|error| Error::io("reading", "/proc/self/mountinfo", error))?;
    let has_cpu = |controllers: &[String]| controllers.iter().any(|one| one == "cpu");
    let Some(hierarchy) = found.v1.iter().find(|v1| has_cpu(&v1.controllers)) else {
        return Err(Error::internal("unable to init CPU RT controller: there is no hierarchy with cpu"));
    };
    let above = Path::new(cgroup).parent().unwrap_or_else(|| Path::new("/"));
    let mut group = hierarchy.mount.clone();
    for component in above.components() {
        let Component::Normal(name) = component else { continue };
        group.push(name);
        let failed = |what: &str, path: &Path, error| {
            Error::internal("unable to init CPU RT controller").because(Error::io(what, path, error))
        };
        std::fs::create_dir_all(&group).map_err(|error| failed("making", &group, error))?;
        for (file, value) in files.iter().filter(|(_, value)| *value != 0) {
            let path = group.join(file);
            std::fs::write(&path, value.to_string()).map_err(|error| failed("writing", &path, error))?;
        }
    }
    Ok(())
}
