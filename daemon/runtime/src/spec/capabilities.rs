// SPDX-License-Identifier: Apache-2.0
//! Capabilities: Docker's fourteen, and what `--cap-add`, `--cap-drop` and `--privileged` make of them. They go to the bounding,
//! permitted and effective sets; inheritable and ambient ones stay empty, or a program with file capabilities would gain
//! them for an unprivileged user.

use berth_domain::{Error, Result};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use crate::HostFacts;

/// All capabilities in the order of their numbers (`include/uapi/linux/capability.h`).
const ALL: [(&str, Capability); 41] = [
    ("CAP_CHOWN", Capability::Chown),
    ("CAP_DAC_OVERRIDE", Capability::DacOverride),
    ("CAP_DAC_READ_SEARCH", Capability::DacReadSearch),
    ("CAP_FOWNER", Capability::Fowner),
    ("CAP_FSETID", Capability::Fsetid),
    ("CAP_KILL", Capability::Kill),
    ("CAP_SETGID", Capability::Setgid),
    ("CAP_SETUID", Capability::Setuid),
    ("CAP_SETPCAP", Capability::Setpcap),
    ("CAP_LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("CAP_NET_BIND_SERVICE", Capability::NetBindService),
    ("CAP_NET_BROADCAST", Capability::NetBroadcast),
    ("CAP_NET_ADMIN", Capability::NetAdmin),
    ("CAP_NET_RAW", Capability::NetRaw),
    ("CAP_IPC_LOCK", Capability::IpcLock),
    ("CAP_IPC_OWNER", Capability::IpcOwner),
    ("CAP_SYS_MODULE", Capability::SysModule),
    ("CAP_SYS_RAWIO", Capability::SysRawio),
    ("CAP_SYS_CHROOT", Capability::SysChroot),
    ("CAP_SYS_PTRACE", Capability::SysPtrace),
    ("CAP_SYS_PACCT", Capability::SysPacct),
    ("CAP_SYS_ADMIN", Capability::SysAdmin),
    ("CAP_SYS_BOOT", Capability::SysBoot),
    ("CAP_SYS_NICE", Capability::SysNice),
    ("CAP_SYS_RESOURCE", Capability::SysResource),
    ("CAP_SYS_TIME", Capability::SysTime),
    ("CAP_SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("CAP_MKNOD", Capability::Mknod),
    ("CAP_LEASE", Capability::Lease),
    ("CAP_AUDIT_WRITE", Capability::AuditWrite),
    ("CAP_AUDIT_CONTROL", Capability::AuditControl),
    ("CAP_SETFCAP", Capability::Setfcap),
    ("CAP_MAC_OVERRIDE", Capability::MacOverride),
    ("CAP_MAC_ADMIN", Capability::MacAdmin),
    ("CAP_SYSLOG", Capability::Syslog),
    ("CAP_WAKE_ALARM", Capability::WakeAlarm),
    ("CAP_BLOCK_SUSPEND", Capability::BlockSuspend),
    ("CAP_AUDIT_READ", Capability::AuditRead),
    ("CAP_PERFMON", Capability::Perfmon),
    ("CAP_BPF", Capability::Bpf),
    ("CAP_CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// What a container has unless told otherwise.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// One word of `--cap-add` or `--cap-drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    All,
    One(&'static str),
}

fn word(given: &str, facts: &HostFacts) -> Result<Word> {
    let upper = given.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(Word::All);
    }
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    let Some(number) = ALL.iter().position(|(known, _)| *known == name) else {
        return Err(Error::invalid(format!("unknown capability: {name:?}")));
    };
    if facts.capabilities & (1 << number) == 0 {
        return Err(Error::invalid(format!(
            "capability not supported by your kernel or not available in the current environment: {name:?}"
        )));
    }
    Ok(Word::One(ALL[number].0))
}

fn words(given: Option<&Vec<String>>, facts: &HostFacts) -> Result<Vec<Word>> {
    given.into_iter().flatten().map(|name| word(name, facts)).collect()
}

fn available(facts: &HostFacts) -> Vec<&'static str> {
    let numbered = ALL.iter().enumerate();
    numbered
        .filter(|(number, _)| facts.capabilities & (1 << number) != 0)
        .map(|(_, (name, _))| *name)
        .collect()
}

/// Refuses names that do not exist, saying in which list they are.
pub(super) fn check(add: Option<&Vec<String>>, drop: Option<&Vec<String>>, facts: &HostFacts) -> Result<()> {
    words(add, facts).map_err(|e| e.context("invalid CapAdd"))?;
    words(drop, facts).map_err(|e| e.context("invalid CapDrop"))?;
    Ok(())
}

/// The capabilities of a container, by name and without doubles.
pub(super) fn names(
    add: Option<&Vec<String>>,
    drop: Option<&Vec<String>>,
    privileged: bool,
    facts: &HostFacts,
) -> Result<Vec<&'static str>> {
    if privileged {
        return Ok(available(facts));
    }
    let (add, drop) = (words(add, facts)?, words(drop, facts)?);
    let dropped = |name: &&'static str| drop.contains(&Word::One(name));
    let mut names: Vec<&'static str> = if add.contains(&Word::All) {
        // `--cap-drop ALL` does not take away what `--cap-add ALL` gives.
        return Ok(available(facts).into_iter().filter(|name| !dropped(name)).collect());
    } else if drop.contains(&Word::All) {
        Vec::new()
    } else {
        // The reference fails to start where one of the fourteen is missing; a daemon in a container should do better.
        let here = available(facts);
        DEFAULT.into_iter().filter(|name| here.contains(name) && !dropped(name)).collect()
    };
    for word in add {
        if let Word::One(name) = word {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// The sets of a process.
pub(super) fn sets(names: &[&'static str]) -> Result<LinuxCapabilities> {
    let set: Capabilities =
        ALL.iter().filter(|(name, _)| names.contains(name)).map(|(_, capability)| *capability).collect();
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .permitted(set.clone())
        .effective(set)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .map_err(|e| super::broken(&e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn check_names(add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        let list = |l: &[&str]| Some(l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        names(list(add).as_ref(), list(drop).as_ref(), false, &HostFacts::capable()).unwrap()
    }

    #[test]
    fn adding_and_dropping_combine_as_docker_has_it() {
        assert_eq!(check_names(&[], &[]), DEFAULT);
        assert_eq!(check_names(&["net_admin", "CAP_CHOWN"], &["MKNOD"]).len(), 14);
        assert_eq!(check_names(&["all"], &[]).len(), 41);
        assert_eq!(check_names(&["ALL"], &["sys_admin"]).len(), 40);
        assert_eq!(check_names(&["CHOWN", "chown"], &["ALL"]), ["CAP_CHOWN"]);
        assert!(check_names(&[], &["ALL"]).is_empty());
        assert!(check_names(&["KILL"], &["KILL"]).contains(&"CAP_KILL"));
    }

    #[test]
    fn unknown_and_missing_capabilities_are_named() {
        let mut facts = HostFacts::capable();
        let given = vec!["nope".to_owned()];
        let error = check(Some(&given), None, &facts).unwrap_err();
        assert_eq!(error.chain(), "invalid CapAdd: unknown capability: \"CAP_NOPE\"");
        facts.capabilities &= !(1 << 21);
        let given = vec!["SYS_ADMIN".to_owned()];
        let error = check(None, Some(&given), &facts).unwrap_err().chain();
        assert!(error.starts_with("invalid CapDrop: capability not supported by your kernel"), "{error}");
        assert_eq!(names(None, None, true, &facts).unwrap().len(), 40);
    }

    #[test]
    fn inheritable_and_ambient_sets_are_empty() {
        let sets = sets(&DEFAULT).unwrap();
        assert_eq!(sets.effective().as_ref().unwrap().len(), 14);
        assert_eq!(sets.bounding(), sets.permitted());
        assert!(
            sets.inheritable().as_ref().unwrap().is_empty() && sets.ambient().as_ref().unwrap().is_empty()
        );
    }
}
