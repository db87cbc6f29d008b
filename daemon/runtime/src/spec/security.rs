// SPDX-License-Identifier: Apache-2.0
//! `--security-opt`, masked and read-only paths, sysctls.

use std::collections::{BTreeMap, HashMap};

use berth_api::types::container_create::HostConfig;
use berth_domain::{Error, Result};

use super::{Defaults, Namespaces, Share};
use crate::host::{HostFacts, PING_GROUP_RANGE, UNPRIVILEGED_PORT_START};
use crate::seccomp::{self, Profile, Target};

/// What `HostConfig::security_opt` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SecurityOptions {
    pub(super) no_new_privileges: bool,
    /// `unconfined`, `builtin` or the JSON of a profile.
    pub(super) seccomp: Option<String>,
    pub(super) apparmor: Option<String>,
    /// `systempaths=unconfined`; the docker CLI turns it into empty lists of paths before it reaches us.
    pub(super) system_paths_unconfined: bool,
    pub(super) writable_cgroups: Option<bool>,
}

impl SecurityOptions {
    pub(super) fn parse(given: Option<&Vec<String>>, defaults: &Defaults) -> Result<Self> {
        let mut options = Self { no_new_privileges: defaults.no_new_privileges, ..Self::default() };
        for option in given.into_iter().flatten() {
            match option.as_str() {
                "no-new-privileges" => {
                    options.no_new_privileges = true;
                    continue;
                }
                "writable-cgroups" => {
                    options.writable_cgroups = Some(true);
                    continue;
                }
                // SELinux is not ours to switch: there is nothing to disable.
                "disable" => continue,
                _ => {}
            }
            // A profile's JSON has colons: the first `=` counts if there is one.
            let (key, value) = option
                .split_once('=')
                .or_else(|| option.split_once(':'))
                .ok_or_else(|| Error::invalid(format!("invalid --security-opt 1: {option:?}")))?;
            let invalid = || Error::invalid(format!("invalid --security-opt 2: {option:?}"));
            match key {
                "label" => {}
                "apparmor" => options.apparmor = Some(value.to_owned()),
                "seccomp" => options.seccomp = Some(value.to_owned()),
                "no-new-privileges" => options.no_new_privileges = go_bool(value).ok_or_else(invalid)?,
                "writable-cgroups" => options.writable_cgroups = Some(go_bool(value).ok_or_else(invalid)?),
                "systempaths" if value == "unconfined" => options.system_paths_unconfined = true,
                _ => return Err(invalid()),
            }
        }
        Ok(options)
    }
}

/// The spellings that Go's `strconv.ParseBool` takes.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The filter of a container; `None` is unconfined.
pub(super) fn seccomp_profile(
    options: &SecurityOptions,
    host: &HostConfig,
    defaults: &Defaults,
    facts: &HostFacts,
    caps: &[&'static str],
) -> Result<Option<Profile>> {
    let target = Target { caps, arch: seccomp::host_arch(), kernel: facts.kernel };
    let asked = options.seccomp.as_deref();
    if asked == Some("unconfined") || (asked.is_none() && host.privileged) {
        return Ok(None);
    }
    if !facts.seccomp {
        if asked.is_some_and(|profile| profile != "builtin") {
            return Err(Error::invalid(
                "seccomp is not enabled in your kernel, cannot run a custom seccomp profile",
            ));
        }
        return Ok(None);
    }
    match (asked, defaults.seccomp_profile.as_deref()) {
        (Some("builtin"), _) | (None, None | Some("builtin")) => {
            Ok(Some(Profile::Default { caps: caps.to_vec(), kernel: facts.kernel }))
        }
        (None, Some("unconfined")) => Ok(None),
        (Some(json), _) | (None, Some(json)) => Ok(seccomp::load(json, target)?.map(Profile::Given)),
    }
}

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The masked paths of a container that asks for nothing else.
pub(super) fn default_masked(facts: &HostFacts) -> Vec<String> {
    let throttle = facts.thermal_throttle.iter().map(|p| p.display().to_string());
    MASKED.iter().map(|p| (*p).to_owned()).chain(throttle).collect()
}

/// The read-only paths of a container that asks for nothing else.
pub(super) fn default_read_only() -> Vec<String> {
    READ_ONLY.iter().map(|p| (*p).to_owned()).collect()
}

/// The sysctls of the IPC namespace besides `fs.mqueue.`.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Only what is the container's own may be set: a sysctl outside its namespaces would change the host.
pub(super) fn check_sysctls(
    asked: Option<&BTreeMap<String, String>>,
    private_network: bool,
    private_ipc: bool,
    private_uts: bool,
) -> Result<()> {
    for (key, value) in asked.into_iter().flatten() {
        // The kernel's file is found by turning dots into slashes (or by taking slashes as they are): no part may be
        // empty or climb.
        let plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:@".contains(&b))
        };
        let parts_are_plain =
            if key.contains('/') { key.split('/').all(plain) } else { key.split('.').all(plain) };
        if !parts_are_plain {
            return Err(Error::invalid(format!("invalid sysctl {key:?}: names separated by dots expected")));
        }
        if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            return Err(Error::invalid(format!("invalid value of sysctl {key:?}: control characters")));
        }
        let name = key.replace('/', ".");
        let own = if IPC_SYSCTLS.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
            if !private_ipc {
                return Err(Error::invalid(format!(
                    "sysctl {key:?} is not allowed in the hosts ipc namespace"
                )));
            }
            true
        } else if name.starts_with("net.") {
            if !private_network {
                return Err(Error::invalid(format!("sysctl {key:?} not allowed in host network namespace")));
            }
            true
        } else {
            private_uts && name == "kernel.domainname"
        };
        if !own {
            return Err(Error::invalid(format!("sysctl {key:?} is not in a separate kernel namespace")));
        }
    }
    Ok(())
}

/// The sysctls of a container. `net.` ones only where the network namespace is new.
pub(super) fn sysctls(
    host: &HostConfig,
    domainname: &str,
    namespaces: &Namespaces,
    facts: &HostFacts,
    own_users: bool,
) -> Result<HashMap<String, String>> {
    check_sysctls(
        host.sysctls.as_ref(),
        namespaces.network != Share::Host,
        namespaces.ipc != Share::Host,
        namespaces.uts != Share::Host,
    )?;
    let mut all = HashMap::new();
    if !domainname.is_empty() && namespaces.uts == Share::Private {
        all.insert("kernel.domainname".to_owned(), domainname.to_owned());
    }
    if namespaces.network == Share::Private {
        for (name, value) in [(PING_GROUP_RANGE, "0 2147483647"), (UNPRIVILEGED_PORT_START, "0")] {
            // Groups of the host that the container has no names for are no values for it.
            let settable = !(own_users && name == PING_GROUP_RANGE);
            if settable && facts.default_sysctls.contains(name) {
                all.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    all.extend(host.sysctls.iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn parse(options: &[&str]) -> Result<SecurityOptions> {
        let given = options.iter().map(|s| (*s).to_owned()).collect();
        SecurityOptions::parse(Some(&given), &Defaults::default())
    }

    #[test]
    fn options_in_both_spellings() {
        let options = parse(&[
            "no-new-privileges:true",
            "seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}",
            "label=disable",
            "apparmor:unconfined",
        ])
        .unwrap();
        assert!(options.no_new_privileges);
        assert_eq!(options.seccomp.as_deref(), Some("{\"defaultAction\":\"SCMP_ACT_ALLOW\"}"));
        assert_eq!(options.apparmor.as_deref(), Some("unconfined"));
        assert!(!parse(&["no-new-privileges=false"]).unwrap().no_new_privileges);
        assert_eq!(parse(&["what"]).unwrap_err().to_string(), "invalid --security-opt 1: \"what\"");
        for bad in ["what=x", "no-new-privileges=maybe", "systempaths=confined"] {
            assert_eq!(parse(&[bad]).unwrap_err().to_string(), format!("invalid --security-opt 2: {bad:?}"));
        }
    }

    fn check(key: &str, value: &str) -> Result<()> {
        check_sysctls(Some(&[(key.to_owned(), value.to_owned())].into()), true, true, true)
    }

    #[test]
    fn only_sysctls_of_the_containers_own_namespaces() {
        for good in
            ["net.ipv4.ip_forward", "kernel.sem", "fs.mqueue.msg_max", "net/ipv4/conf/eth0.7/forwarding"]
        {
            check(good, "1 2").unwrap();
        }
        for bad in [
            "kernel.core_pattern",
            "net/../kernel/core_pattern",
            "net..x",
            ".net.x",
            "/net/x",
            "net.x\nkernel.y",
            "net.ipv4.x=1+kernel.core_pattern",
            "kernel.hostname",
            "vm.overcommit_memory",
            "",
        ] {
            assert!(check(bad, "1").is_err(), "{bad:?}");
        }
        assert!(check("net.ipv4.ip_forward", "1\n2").is_err());
        let asked = BTreeMap::from([("net.core.somaxconn".to_owned(), "1".to_owned())]);
        assert!(check_sysctls(Some(&asked), false, true, true).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_accepted_sysctl_leaves_its_directory(key in "[a-z./]{1,40}") {
            if check(&key, "1").is_ok() {
                let path = if key.contains('/') { key.clone() } else { key.replace('.', "/") };
                let outside = path.split('/').any(|p| p.is_empty() || p == "..");
                proptest::prop_assert!(!outside && path.starts_with("net/") || path.starts_with("fs/mqueue/") || path.starts_with("kernel/"));
            }
        }
    }
}
