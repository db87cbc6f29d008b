// SPDX-License-Identifier: Apache-2.0
//! `linux.sysctl`: only those that belong to a namespace of the container's own, written through a
//! procfs that nobody else has touched.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::error::{Context as _, Error, Result};
use crate::namespaces::Namespaces;
use crate::sys::{CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUTS};

/// Of `kernel.`, those of the IPC namespace.
const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// Beneath /proc/sys.
    path: PathBuf,
    value: String,
}

/// Checks the spec's settings.
pub(crate) fn plan(spec: &Spec, namespaces: &Namespaces) -> Result<Vec<Sysctl>> {
    let asked = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    let mut sysctls = Vec::new();
    for (name, value) in asked.into_iter().flatten() {
        let parts = parts(name)?;
        let wanted = match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["kernel", name] if IPC.contains(name) => CLONE_NEWIPC,
            ["fs", "mqueue", _] => CLONE_NEWIPC,
            ["kernel", "domainname"] => CLONE_NEWUTS,
            ["kernel", "hostname"] => {
                return Err(Error::invalid(format!(
                    "sysctl {name:?}: the host name has a setting of its own"
                )));
            }
            ["net", _, ..] => CLONE_NEWNET,
            _ => {
                return Err(Error::invalid(format!("sysctl {name:?} is not in a separate kernel namespace")));
            }
        };
        if !namespaces.has(wanted) {
            return Err(Error::invalid(format!(
                "sysctl {name:?}: the container shares that namespace with the host"
            )));
        }
        sysctls.push(Sysctl { path: parts.iter().collect(), value: value.clone() });
    }
    sysctls.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(sysctls)
}

/// The parts of a name. As sysctl(8) has it: the first separator decides whether `.` or `/` separates,
/// the other one then stands for the first within a part (`net/ipv4/conf/eth0.1/mtu`).
fn parts(name: &str) -> Result<Vec<String>> {
    let slashes = name.find(['.', '/']).is_some_and(|at| name.as_bytes().get(at) == Some(&b'/'));
    let separator = if slashes { '/' } else { '.' };
    let parts: Vec<String> = name
        .split(separator)
        .map(|part| if slashes { part.to_owned() } else { part.replace('/', ".") })
        .collect();
    let good = |part: &String| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:@".contains(&byte))
    };
    if parts.iter().all(good) {
        Ok(parts)
    } else {
        Err(Error::invalid(format!("sysctl {name:?} is not a name")))
    }
}

/// Writes them. `proc` is the root of the container's procfs, before anything is mounted on it.
pub(crate) fn apply(sysctls: &[Sysctl], proc: &OwnedFd) -> Result<()> {
    for Sysctl { path, value } in sysctls {
        let path = PathBuf::from("sys").join(path);
        let what = || format!("sysctl {}", path.display());
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let fd = openat2(proc, &path, flags, Mode::empty(), resolve)
            .map_err(|errno| Error::invalid(format!("{}: {errno}", what())))?;
        let written = rustix::io::write(&fd, value.as_bytes())
            .map_err(|errno| Error::invalid(format!("{} = {value:?}: {errno}", what())))?;
        if written != value.len() {
            return Err(Error::invalid(format!("{}: {value:?} was cut off", what()))).context(what);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(name: &str, namespaces: &str) -> Result<Vec<Sysctl>> {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "linux": {
                "namespaces": namespaces.split(' ').map(|kind| serde_json::json!({"type": kind})).collect::<Vec<_>>(),
                "sysctl": {name: "1"},
            }
        }))
        .unwrap();
        plan(&spec, &Namespaces::new(&spec, None, None)?)
    }

    #[test]
    fn names_become_paths() {
        let all = "mount ipc uts network";
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("kernel.shmmax", "kernel/shmmax"),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ] {
            assert_eq!(check(name, all).unwrap()[0].path, PathBuf::from(path), "{name}");
        }
    }

    #[test]
    fn others_are_refused() {
        let all = "mount ipc uts network";
        for name in [
            "kernel.core_pattern",
            "kernel.hostname",
            "vm.swappiness",
            "net",
            "net..x",
            "net/../kernel/core_pattern",
            "net.ipv4.a=1\nkernel.b",
            "kernel.msgmax+x",
            "",
        ] {
            assert!(check(name, all).is_err(), "{name:?}");
        }
        assert!(check("net.ipv4.ip_forward", "mount ipc").is_err());
        assert!(check("kernel.shmmax", "mount network").is_err());
    }
}
