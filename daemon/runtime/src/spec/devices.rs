// SPDX-License-Identifier: Apache-2.0
//! Device nodes and the rules of the device cgroup. The nodes that every container has (`/dev/null`, ...) are the launcher's.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use berth_api::types::container_create::HostConfig;
use berth_domain::{Error, Result};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use super::broken;

/// Nodes and rules of a container.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    pub(super) rules: Vec<LinuxDeviceCgroup>,
    pub(super) warnings: Vec<String>,
}

const ALL_ACCESS: &str = "rwm";

/// Character devices that every container may use: zero, null, urandom, random, tty, console.
const ALLOWED: [(i64, i64); 6] = [(1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1)];
/// `/dev/fuse`: refused by name, whatever a runtime adds to the list.
const FUSE: (i64, i64) = (10, 229);

fn rule(allow: bool, device: Option<(LinuxDeviceType, i64, i64)>, access: &str) -> Result<LinuxDeviceCgroup> {
    let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).access(access);
    if let Some((kind, major, minor)) = device {
        rule = rule.typ(kind).major(major).minor(minor);
    }
    rule.build().map_err(|e| broken(&e))
}

fn default_rules() -> Result<Vec<LinuxDeviceCgroup>> {
    let mut rules = vec![rule(false, None, ALL_ACCESS)?];
    for (major, minor) in ALLOWED {
        rules.push(rule(true, Some((LinuxDeviceType::C, major, minor)), ALL_ACCESS)?);
    }
    rules.push(rule(false, Some((LinuxDeviceType::C, FUSE.0, FUSE.1)), ALL_ACCESS)?);
    Ok(rules)
}

/// The devices of a container.
pub(super) fn devices(host: &HostConfig) -> Result<Devices> {
    let mut found = Devices { nodes: Vec::new(), rules: Vec::new(), warnings: Vec::new() };
    if host.privileged {
        walk(Path::new("/dev"), &mut |path| {
            if let Some(node) = node(path, path)? {
                found.nodes.push(node);
            }
            Ok(())
        })?;
        found.rules.push(rule(true, None, ALL_ACCESS)?);
    } else {
        found.rules = default_rules()?;
    }
    for mapping in host.resources.devices.iter() {
        let source = mapping.path_on_host.as_str();
        let target = if mapping.path_in_container.is_empty() { source } else { &mapping.path_in_container };
        let access =
            if mapping.cgroup_permissions.is_empty() { ALL_ACCESS } else { &mapping.cgroup_permissions };
        check_mapping(source, target, access)?;
        if host.privileged {
            if source == target {
                found.warnings.push(format!("path in container {target} already exists in privileged mode"));
                continue;
            }
            if access != ALL_ACCESS {
                found.warnings.push(format!(
                    "custom {access} permissions for device {source} are ignored in privileged mode"
                ));
            }
        }
        for node in nodes_at(source, target)? {
            if !host.privileged {
                found.rules.push(rule(true, Some((node.typ(), node.major(), node.minor())), access)?);
            }
            found.nodes.push(node);
        }
    }
    if !host.privileged {
        for text in host.resources.device_cgroup_rules.iter().flatten() {
            found.rules.push(parse_rule(text)?);
        }
    }
    Ok(found)
}

fn check_mapping(source: &str, target: &str, access: &str) -> Result<()> {
    let climbs = Path::new(target).components().any(|c| c == std::path::Component::ParentDir);
    if !source.starts_with('/') || !target.starts_with('/') || climbs || target.contains('\0') {
        return Err(Error::invalid(format!(
            "invalid device mapping {source:?}:{target:?}: absolute paths expected"
        )));
    }
    if !valid_access(access) {
        return Err(Error::invalid(format!("invalid device mode: {access}")));
    }
    Ok(())
}

fn valid_access(access: &str) -> bool {
    (1..=3).contains(&access.len()) && access.bytes().all(|b| b"rwm".contains(&b))
}

/// The devices at a path of the host, a symlink followed: one, or all in a directory.
fn nodes_at(source: &str, target: &str) -> Result<Vec<LinuxDevice>> {
    let gathering = || format!("error gathering device information while adding custom device {source:?}");
    let real = std::fs::canonicalize(source).map_err(|e| Error::invalid(gathering()).because(e))?;
    if let Some(node) = node(&real, Path::new(target))? {
        return Ok(vec![node]);
    }
    let mut found = Vec::new();
    if real.is_dir() {
        walk(&real, &mut |path| {
            let below = path.strip_prefix(&real).unwrap_or(path);
            if let Some(node) = node(path, &Path::new(target).join(below))? {
                found.push(node);
            }
            Ok(())
        })?;
    }
    if found.is_empty() {
        Err(Error::invalid(format!("{}: not a device node", gathering())))
    } else {
        Ok(found)
    }
}

fn node(path: &Path, target: &Path) -> Result<Option<LinuxDevice>> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // Devices come and go.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("reading device", path, e)),
    };
    let kind = metadata.file_type();
    let kind = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        return Ok(None);
    };
    let number = metadata.rdev();
    LinuxDeviceBuilder::default()
        .path(target)
        .typ(kind)
        .major(rustix::fs::major(number))
        .minor(rustix::fs::minor(number))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .map(Some)
        .map_err(|e| broken(&e))
}

/// Directories of `/dev` that are mounts of their own in a container, and what LXC and udev keep there.
const NOT_ENTERED: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// Every file beneath a directory but `/dev/console`, ordered by name; symlinks are not followed.
fn walk(directory: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let listing = std::fs::read_dir(directory).map_err(|e| Error::io("reading", directory, e))?;
    let mut entries: Vec<(PathBuf, bool)> = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|e| Error::io("reading", directory, e))?;
        let kind = entry.file_type().map_err(|e| Error::io("reading", entry.path(), e))?;
        entries.push((entry.path(), kind.is_dir()));
    }
    entries.sort();
    for (path, is_directory) in entries {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if is_directory {
            if !NOT_ENTERED.contains(&name) {
                walk(&path, visit)?;
            }
        } else if path != Path::new("/dev/console") {
            visit(&path)?;
        }
    }
    Ok(())
}

/// `c 42:* rmw`.
fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let bad = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut parts = text.split(' ');
    let (Some(kind), Some(number), Some(access), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let (major, minor) = number.split_once(':').ok_or_else(bad)?;
    let parse = |text: &str| match text {
        "*" => Ok(-1),
        digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse::<u32>().map(i64::from).map_err(|_| bad())
        }
        _ => Err(bad()),
    };
    if !valid_access(access) {
        return Err(bad());
    }
    rule(true, Some((kind, parse(major)?, parse(minor)?)), access)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use berth_api::types::container_create::DeviceMapping;

    fn host(source: &str, target: &str, access: &str) -> HostConfig {
        let mut host = HostConfig::default();
        host.resources.devices = vec![DeviceMapping {
            path_on_host: source.into(),
            path_in_container: target.into(),
            cgroup_permissions: access.into(),
        }]
        .into();
        host
    }

    #[test]
    fn the_default_rules_deny_first_and_fuse_last() {
        let found = devices(&HostConfig::default()).unwrap();
        assert!(found.nodes.is_empty());
        let text: Vec<String> =
            found.rules.iter().map(|r| format!("{} {r}", if r.allow() { "allow" } else { "deny" })).collect();
        assert_eq!(text.first().unwrap(), "deny a *:* rwm");
        assert_eq!(text.last().unwrap(), "deny c 10:229 rwm");
        assert_eq!(text.len(), 8);
    }

    #[test]
    fn a_mapped_device_gets_a_node_and_a_rule() {
        let found = devices(&host("/dev/null", "/dev/nix", "rw")).unwrap();
        assert_eq!(found.nodes[0].path(), Path::new("/dev/nix"));
        assert_eq!((found.nodes[0].major(), found.nodes[0].minor()), (1, 3));
        assert_eq!(found.rules.last().unwrap().to_string(), "c 1:3 rw");
        for bad in [
            ("/dev/none", "/x", "r"),
            ("/etc/passwd", "/x", "r"),
            ("/dev/null", "/../x", "r"),
            ("/dev/null", "x", "r"),
            ("/dev/null", "/x", "q"),
        ] {
            assert!(devices(&host(bad.0, bad.1, bad.2)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn privileged_gets_all_nodes_and_one_rule() {
        let mut host = host("/dev/null", "/dev/null", "r");
        host.privileged = true;
        let found = devices(&host).unwrap();
        assert!(found.nodes.iter().any(|n| n.path() == Path::new("/dev/null")));
        assert!(
            found
                .nodes
                .iter()
                .all(|n| !n.path().starts_with("/dev/pts") && n.path() != Path::new("/dev/console"))
        );
        assert_eq!(found.rules.len(), 1);
        assert!(found.rules[0].allow() && found.rules[0].typ().is_none());
        assert_eq!(found.warnings, ["path in container /dev/null already exists in privileged mode"]);
    }

    #[test]
    fn rules_are_parsed_strictly() {
        assert_eq!(parse_rule("c 42:* rmw").unwrap().to_string(), "c 42:-1 rmw");
        for bad in [
            "",
            "c 1:3",
            "x 1:3 r",
            "c 1 r",
            "c 1:3 rwmx",
            "c 1:3  r",
            "c -1:3 r",
            "c 99999999999:1 r",
            "c 1:3 q",
        ] {
            assert!(parse_rule(bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_rule_makes_the_parser_panic(text in ".{0,40}") {
            let _result = parse_rule(&text);
        }
    }
}
