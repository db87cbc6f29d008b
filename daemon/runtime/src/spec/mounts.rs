// SPDX-License-Identifier: Apache-2.0
//! The mounts of a container: the kernel's filesystems first, then what the user asked for.

use std::path::{Component, Path};

use berth_domain::{Error, Result};
use oci_spec::runtime::{Mount, MountBuilder};

use super::{Shm, broken};

/// What decides the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct MountInput<'a> {
    pub(super) user: &'a [Mount],
    pub(super) shm: &'a Shm,
    pub(super) shm_size: i64,
    pub(super) privileged: bool,
    pub(super) writable_cgroups: bool,
    /// The host's message queues are bound, not mounted.
    pub(super) host_queues: bool,
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(|e| broken(&e))
}

/// A bind mount of one file or directory, read-only.
pub(super) fn read_only_bind(source: &Path, destination: &str) -> Result<Mount> {
    let source =
        source.to_str().ok_or_else(|| Error::internal(format!("{} is not UTF-8", source.display())))?;
    mount(destination, "bind", source, &["bind", "ro"])
}

/// All mounts in order.
pub(super) fn mounts(input: MountInput<'_>) -> Result<Vec<Mount>> {
    let user_has = |destination: &str| input.user.iter().any(|m| m.destination() == Path::new(destination));
    let user_dev = user_has("/dev");
    let mut all = Vec::new();
    for (destination, kind, source, options) in DEFAULTS {
        if user_has(destination) || (user_dev && destination.starts_with("/dev/")) {
            continue;
        }
        let mut options: Vec<&str> = options.to_vec();
        let size = format!("size={}", input.shm_size);
        let (mut kind, mut source) = (*kind, (*source).to_owned());
        if *destination == "/dev/shm" {
            match input.shm {
                Shm::Private => options.push(&size),
                Shm::None => continue,
                Shm::Host => {
                    (kind, source, options) = ("bind", "/dev/shm".to_owned(), vec!["rbind", "rprivate"]);
                }
                Shm::Directory(path) => {
                    let path =
                        path.to_str().ok_or_else(|| Error::internal("the shm directory is not UTF-8"))?;
                    (kind, source, options) = ("bind", path.to_owned(), vec!["rbind", "rprivate"]);
                }
            }
        }
        if *destination == "/dev/mqueue" && input.host_queues {
            if !Path::new("/dev/mqueue").is_dir() {
                continue;
            }
            (kind, source, options) = ("bind", "/dev/mqueue".to_owned(), vec!["rbind", "rprivate"]);
        }
        let writable =
            (*destination == "/sys" && input.privileged) || (*kind == *"cgroup" && input.writable_cgroups);
        if writable {
            options.retain(|o| *o != "ro");
        }
        all.push(mount(destination, kind, &source, &options)?);
    }
    for own in input.user {
        check_destination(own)?;
        all.push(own.clone());
    }
    Ok(all)
}

type Default = (&'static str, &'static str, &'static str, &'static [&'static str]);

/// `--read-only` changes none of these: what is writable here is so in a read-only container as well.
const DEFAULTS: &[Default] = &[
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ),
    ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777"]),
];

/// Files of `/proc` that may be covered (lxcfs does): nothing in them is acted upon by the kernel or by a runtime.
const COVERABLE: [&str; 8] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];

/// A mount over `/proc` would take masks, labels and sysctls with it; so would one that hides a part of it.
fn check_destination(mount: &Mount) -> Result<()> {
    let destination = mount.destination();
    let plain = destination.is_absolute()
        && destination.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
        && destination != Path::new("/");
    if !plain {
        return Err(Error::invalid(format!(
            "invalid mount destination {:?}",
            destination.display().to_string()
        )));
    }
    if destination.starts_with("/proc") && !COVERABLE.iter().any(|p| destination == Path::new(p)) {
        return Err(Error::invalid(format!(
            "{:?} cannot be mounted because it is inside /proc",
            destination.display().to_string()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn bind(destination: &str) -> Mount {
        mount(destination, "bind", "/srv", &["rbind"]).unwrap()
    }

    fn check(user: &[Mount], shm: &Shm, privileged: bool) -> Vec<String> {
        let input = MountInput {
            user,
            shm,
            shm_size: 1 << 20,
            privileged,
            writable_cgroups: privileged,
            host_queues: false,
        };
        let text =
            |m: &Mount| format!("{} {}", m.destination().display(), m.options().as_ref().unwrap().join(","));
        mounts(input).unwrap().iter().map(text).collect()
    }

    #[test]
    fn user_mounts_replace_and_follow_the_defaults() {
        let all = check(&[bind("/dev/shm"), bind("/data")], &Shm::Private, false);
        assert_eq!(all.len(), 8);
        assert_eq!(all[6..], ["/dev/shm rbind", "/data rbind"]);
        let all = check(&[bind("/dev")], &Shm::Private, false);
        assert!(all.iter().filter(|m| m.starts_with("/dev")).count() == 1);
    }

    #[test]
    fn shm_comes_from_where_ipc_says() {
        let last = |shm| check(&[], &shm, false).last().unwrap().clone();
        assert_eq!(last(Shm::Private), "/dev/shm nosuid,noexec,nodev,mode=1777,size=1048576");
        assert_eq!(last(Shm::Host), "/dev/shm rbind,rprivate");
        assert_eq!(last(Shm::None), "/dev/mqueue nosuid,noexec,nodev");
    }

    #[test]
    fn privileged_may_write_sys_and_cgroups() {
        let has_ro = |privileged| {
            let all = check(&[], &Shm::Private, privileged);
            all.iter()
                .filter(|m| m.starts_with("/sys"))
                .filter(|m| m.split([' ', ',']).any(|o| o == "ro"))
                .count()
        };
        assert_eq!((has_ro(false), has_ro(true)), (2, 0));
    }

    #[test]
    fn proc_is_not_covered() {
        for bad in ["/proc", "/proc/sys", "/proc/self/attr", "/", "relative", "/a/../proc"] {
            assert!(check_destination(&bind(bad)).is_err(), "{bad}");
        }
        for good in ["/proc/meminfo", "/procedures", "/sys/fs/cgroup", "/a"] {
            check_destination(&bind(good)).unwrap();
        }
    }
}
