// SPDX-License-Identifier: Apache-2.0
//! A mount point as a mount of the OCI runtime spec.

use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount, MountBuilder};

use super::{MountPoint, MountType, ReadOnly};
use berth_sys::idmap::Range;

/// The OCI mount of a point whose source is at `source` (unused for a tmpfs).
pub(crate) fn oci_mount(point: &MountPoint, source: &Path, recursive_read_only: bool) -> Result<Mount> {
    let mount = MountBuilder::default().destination(PathBuf::from(&point.destination));
    let mount = if point.r#type == MountType::Tmpfs {
        mount.typ("tmpfs").source("tmpfs").options(point.tmpfs.clone())
    } else {
        check_propagation(source, &point.propagation)?;
        let mut options = bind_options(point, recursive_read_only)?;
        let mut mount = mount.typ("bind").source(source);
        if let Some(mapped) = point.id_mapped()? {
            options.push(if mapped.recursive { "ridmap" } else { "idmap" }.to_owned());
            if let Some(map) = &mapped.map {
                mount = mount.uid_mappings(mappings(&map.uids)?).gid_mappings(mappings(&map.gids)?);
            }
        }
        mount.options(options)
    };
    mount.build().map_err(|e| Error::internal("building an OCI mount").because(e))
}

fn mappings(ranges: &[Range]) -> Result<Vec<LinuxIdMapping>> {
    let one = |range: &Range| {
        LinuxIdMappingBuilder::default()
            .container_id(range.stored)
            .host_id(range.seen)
            .size(range.count)
            .build()
            .map_err(|e| Error::internal("building an OCI mount").because(e))
    };
    ranges.iter().map(one).collect()
}

fn bind_options(point: &MountPoint, recursive_read_only: bool) -> Result<Vec<String>> {
    let mut options = vec![if point.non_recursive { "bind" } else { "rbind" }.to_owned()];
    if !point.rw {
        let word = match (point.read_only, recursive_read_only) {
            (ReadOnly::Recursive, false) => {
                return Err(Error::invalid(
                    "this kernel cannot make mounts read-only recursively (BindOptions.ReadOnlyForceRecursive)",
                ));
            }
            (ReadOnly::Recursive | ReadOnly::IfPossible, true) => "rro",
            (ReadOnly::NonRecursive, _) | (ReadOnly::IfPossible, false) => "ro",
        };
        options.push(word.to_owned());
    }
    if !point.propagation.is_empty() {
        options.push(point.propagation.clone());
    }
    Ok(options)
}

/// A mount can only share or follow what the mount that its source is on shares.
fn check_propagation(source: &Path, propagation: &str) -> Result<()> {
    let wanted: &[&str] = match propagation {
        "shared" | "rshared" => &["shared:"],
        "slave" | "rslave" => &["shared:", "master:"],
        _ => return Ok(()),
    };
    let real = std::fs::canonicalize(source).map_err(|e| Error::io("resolving", source, e))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Error::io("reading", "/proc/self/mountinfo", e))?;
    let (mount, shares) = mount_of(&table, &real)
        .ok_or_else(|| Error::internal(format!("Can't find mount point of {}", source.display())))?;
    if shares.iter().any(|field| wanted.iter().any(|w| field.starts_with(w))) {
        return Ok(());
    }
    let what = if wanted.len() == 1 { "a shared" } else { "a shared or slave" };
    Err(Error::invalid(format!(
        "path {} is mounted on {} but it is not {what} mount",
        source.display(),
        mount.display()
    )))
}

/// The mount that a path is on and its optional fields; the last of several at one place covers the others.
fn mount_of<'a>(table: &'a str, path: &Path) -> Option<(PathBuf, Vec<&'a str>)> {
    let mut best: Option<(PathBuf, Vec<&str>)> = None;
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let Some(point) = fields.get(4) else { continue };
        let point = PathBuf::from(unescape(point));
        let longer = best.as_ref().is_none_or(|(b, _)| point.components().count() >= b.components().count());
        if path.starts_with(&point) && longer {
            let optional = fields.iter().skip(6).take_while(|f| **f != "-").copied().collect();
            best = Some((point, optional));
        }
    }
    best
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_innermost_mount_and_its_sharing_are_found() {
        let table = "\
20 1 8:1 / / rw shared:1 - ext4 /dev/sda rw
21 20 8:2 / /srv\\040x rw - ext4 /dev/sdb rw
22 20 8:3 / /srv rw master:4 - ext4 /dev/sdc rw
";
        let check = |path: &str, mount: &str, shares: &[&str]| {
            let (found, optional) = mount_of(table, Path::new(path)).unwrap();
            assert_eq!((found.as_path(), optional.as_slice()), (Path::new(mount), shares), "{path}");
        };
        check("/srvx", "/", &["shared:1"]);
        check("/srv x/a", "/srv x", &[]);
        check("/srv/a/b", "/srv", &["master:4"]);
    }

    #[test]
    fn options_of_binds() {
        let check = |rw, read_only, can, expected: &str| {
            let mut point = MountPoint::new(MountType::Bind, "/d".into());
            (point.rw, point.read_only, point.propagation) = (rw, read_only, "rprivate".into());
            let mount = oci_mount(&point, Path::new("/srv"), can).unwrap();
            assert_eq!(mount.options().as_ref().unwrap().join(","), expected);
        };
        check(true, ReadOnly::IfPossible, true, "rbind,rprivate");
        check(false, ReadOnly::IfPossible, true, "rbind,rro,rprivate");
        check(false, ReadOnly::IfPossible, false, "rbind,ro,rprivate");
        check(false, ReadOnly::NonRecursive, true, "rbind,ro,rprivate");
        let mut point = MountPoint::new(MountType::Bind, "/d".into());
        point.idmap = "ridmap=uids=0-1000-1;gids=0-7-2".into();
        let mount = serde_json::to_value(oci_mount(&point, Path::new("/srv"), true).unwrap()).unwrap();
        assert_eq!(mount["options"], serde_json::json!(["rbind", "ridmap"]));
        assert_eq!(mount["gidMappings"], serde_json::json!([{"containerID": 0, "hostID": 7, "size": 2}]));
        let mut point = MountPoint::new(MountType::Bind, "/d".into());
        (point.rw, point.read_only) = (false, ReadOnly::Recursive);
        assert!(oci_mount(&point, Path::new("/srv"), false).is_err());
    }
}
