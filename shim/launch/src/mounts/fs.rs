// SPDX-License-Identifier: Apache-2.0
//! Detached mounts: of a new file system, or of a part of one that is there.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::idmap::IdMap;
use super::options::Options;
use crate::error::{Error, Result};
use crate::sys::{MS_PRIVATE, MountAttr, mount_setattr};

/// What the kernel wrote into a file system context about a failure, or else the error number's words.
pub(super) fn complaint(context: &OwnedFd, errno: Errno) -> String {
    let mut buffer = [0u8; 512];
    let mut said = Vec::new();
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let line = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).trim().to_owned();
        if let Some(text) = line.strip_prefix("e ") {
            said.push(text.to_owned());
        }
    }
    if said.is_empty() { errno.to_string() } else { format!("{errno}: {}", said.join("; ")) }
}

/// A new file system as a detached mount.
pub(crate) fn make_fs(kind: &str, source: Option<&str>, options: &Options) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| Error::internal(format!("file system {kind:?}: {errno}")))?;
    let configure = || {
        if let Some(source) = source {
            fsconfig_set_string(&context, "source", source)?;
        }
        for (key, value) in &options.data {
            match value {
                Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str())?,
                None => fsconfig_set_flag(&context, key.as_str())?,
            }
        }
        fsconfig_create(&context)?;
        let attributes = options.attr.set | options.recursive.set;
        let attributes = u32::try_from(attributes).map_err(|_| Errno::INVAL)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes))
    };
    let mount = configure().map_err(|errno| {
        Error::invalid(format!("mount a file system of type {kind:?}: {}", complaint(&context, errno)))
    })?;
    let propagation = options.attr.propagation | options.recursive.propagation;
    if propagation != 0 && propagation != MS_PRIVATE {
        let attr = MountAttr { propagation, ..MountAttr::default() };
        mount_setattr(&mount, false, &attr)
            .map_err(|errno| Error::internal(format!("propagation of a {kind} mount: {errno}")))?;
    }
    Ok(mount)
}

/// A host path as a detached mount with the options applied.
pub(super) fn make_bind(source: &Path, options: &Options, idmap: Option<&IdMap>) -> Result<OwnedFd> {
    let what = |errno: Errno| {
        let message = format!("bind source {}: {errno}", source.display());
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::invalid(message),
            _ => Error::internal(message),
        }
    };
    if let Some((key, _)) = options.data.first() {
        return Err(Error::invalid(format!(
            "bind mount of {}: option {key:?} is not one of a bind mount's",
            source.display()
        )));
    }
    let recursive = options.bind == Some(true);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let mount = open_tree(CWD, source, flags).map_err(what)?;
    if let Some(idmap) = idmap {
        idmap.apply(&mount).map_err(|error| Error {
            message: format!("bind source {}: {}", source.display(), error.message),
            ..error
        })?;
    }
    // What is said of no propagation is private: nothing that the host mounts later appears.
    let (mut all, mut own) = (options.recursive, options.attr);
    if all.propagation == 0 && own.propagation == 0 {
        all.propagation = MS_PRIVATE;
    }
    if !recursive {
        own.set |= all.set;
        own.clear |= all.clear;
        own.propagation |= all.propagation;
        all = MountAttr::default();
    }
    if !all.is_noop() {
        mount_setattr(&mount, true, &all).map_err(what)?;
    }
    if !own.is_noop() {
        mount_setattr(&mount, false, &own).map_err(what)?;
    }
    Ok(mount)
}

/// A host directory with everything below it as a private detached mount.
pub(crate) fn bind_tree(source: &Path) -> Result<OwnedFd> {
    make_bind(source, &Options { bind: Some(true), ..Options::default() }, None)
}

/// What a descriptor names (and what is mounted below it) as a detached mount.
pub(crate) fn bind_of(target: impl AsFd, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(target, "", flags)
}

/// Attaches a mount on what a descriptor names.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// The magic number of the file system that a descriptor is on.
pub(crate) fn filesystem(fd: impl AsFd) -> Result<i64> {
    let stat = rustix::fs::fstatfs(fd).map_err(|errno| Error::internal(format!("fstatfs: {errno}")))?;
    #[allow(clippy::unnecessary_cast)] // The field's width differs between architectures.
    Ok(stat.f_type as i64)
}
