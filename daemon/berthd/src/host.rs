// SPDX-License-Identifier: Apache-2.0
//! What the host is, for `info` and `version`; read once.

use berth_domain::Result;
use berth_runtime::{CgroupLayout, HostFacts};

use crate::config::Settings;

/// The host.
#[derive(Debug, Clone)]
pub(crate) struct HostInfo {
    /// What it can do.
    pub(crate) facts: HostFacts,
    /// `6.1.0-...`
    pub(crate) kernel: String,
    /// `Debian GNU/Linux 12 (bookworm)`
    pub(crate) os: String,
    /// `12`
    pub(crate) os_version: String,
    /// `x86_64`
    pub(crate) machine: String,
    /// Its name.
    pub(crate) name: String,
    /// CPUs that the daemon may use.
    pub(crate) cpus: usize,
    /// Bytes of memory.
    pub(crate) memory: u64,
}

impl HostInfo {
    /// Asks the kernel and `/etc/os-release`.
    ///
    /// # Errors
    ///
    /// `/proc` or `/sys` is missing.
    pub(crate) fn read() -> Result<Self> {
        let facts = HostFacts::probe()?;
        let uname = rustix::system::uname();
        let release = ["/etc/os-release", "/usr/lib/os-release"]
            .into_iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default();
        let memory = rustix::system::sysinfo();
        #[allow(clippy::unnecessary_cast)] // The field's type differs between architectures.
        let memory = (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit));
        Ok(Self {
            facts,
            kernel: uname.release().to_string_lossy().into_owned(),
            os: os_release(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
            os_version: os_release(&release, "VERSION_ID").unwrap_or_default(),
            machine: uname.machine().to_string_lossy().into_owned(),
            name: uname.nodename().to_string_lossy().into_owned(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory,
        })
    }

    /// `1` or `2`. On the hybrid layout the controllers are on version 1.
    pub(crate) fn cgroup_version(&self) -> &'static str {
        match self.facts.cgroups {
            CgroupLayout::V1 | CgroupLayout::Hybrid => "1",
            CgroupLayout::V2 => "2",
        }
    }

    /// What `docker info` prints to the user.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let l = &self.facts.limits;
        let v1 = self.cgroup_version() == "1";
        [
            (l.memory, "No memory limit support"),
            (l.swap, "No swap limit support"),
            (l.oom_kill_disable || !v1, "No oom kill disable support"),
            (l.cpu_shares, "No cpu shares support"),
            (l.cpu_quota, "No cpu cfs quota support"),
            (l.cpuset, "No cpuset support"),
            (l.pids, "No pids limit support"),
            (self.facts.seccomp, "No seccomp support: containers run without a system call filter"),
            (self.ipv4_forwarding(), "IPv4 forwarding is disabled"),
        ]
        .into_iter()
        .filter(|(there, _)| !there)
        .map(|(_, text)| format!("WARNING: {text}"))
        .collect()
    }

    /// Asked anew: the daemon itself may have turned it on.
    pub(crate) fn ipv4_forwarding(&self) -> bool {
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|v| v.trim() == "1")
    }

    /// `name=seccomp,profile=builtin` and the like; clients parse them.
    pub(crate) fn security_options(&self, settings: &Settings, remapped: bool) -> Vec<String> {
        let mut options = Vec::new();
        if self.facts.apparmor && self.facts.apparmor_default {
            options.push("name=apparmor".to_owned());
        }
        if self.facts.seccomp {
            let profile = if settings.seccomp_profile.is_some() { "custom" } else { "builtin" };
            options.push(format!("name=seccomp,profile={profile}"));
        }
        if self.facts.cgroup_namespaces && self.facts.cgroups == CgroupLayout::V2 {
            options.push("name=cgroupns".to_owned());
        }
        if remapped {
            options.push("name=userns".to_owned());
        }
        if settings.no_new_privileges {
            options.push("name=no-new-privileges".to_owned());
        }
        options
    }
}

/// A value of `os-release`, without its quotes.
fn os_release(text: &str, key: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
}

/// Go's name of the architecture.
pub(crate) fn go_arch() -> String {
    berth_domain::Platform::host().architecture
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn os_release_values_lose_their_quotes() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID='12'\nID=debian\n";
        assert_eq!(os_release(text, "PRETTY_NAME").unwrap(), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(os_release(text, "VERSION_ID").unwrap(), "12");
        assert_eq!(os_release(text, "ID").unwrap(), "debian");
        assert_eq!(os_release(text, "NOPE"), None);
    }

    #[test]
    fn this_host_has_what_every_host_has() {
        let host = HostInfo::read().unwrap();
        assert!(host.cpus > 0 && host.memory > 1 << 20);
        assert!(!host.kernel.is_empty() && !host.machine.is_empty());
    }
}
