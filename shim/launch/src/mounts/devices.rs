// SPDX-License-Identifier: Apache-2.0
//! Device nodes and terminals.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, makedev, mknodat, openat, statat,
};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::fs::{attach, bind_of, filesystem};
use crate::error::{Context as _, Error, Result};
use crate::path::{Missing, clean, ensure_in_root, open_in_root};
use crate::sys::DEVPTS_SUPER_MAGIC;

/// The nodes that every container has.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// A device node that the container is to have.
#[derive(Debug)]
pub(crate) struct Node {
    /// Absolute, in the container; on the host too inside a user namespace.
    pub(crate) path: PathBuf,
    kind: FileType,
    device: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The default nodes and the spec's, which win.
pub(crate) fn nodes(spec: &[LinuxDevice]) -> Result<Vec<Node>> {
    let asked = spec.iter().map(Node::new).collect::<Result<Vec<_>>>()?;
    let defaults = DEFAULTS.iter().filter(|(path, ..)| asked.iter().all(|node| node.path != Path::new(path)));
    let defaults = defaults.map(|(path, major, minor)| Node {
        path: PathBuf::from(path),
        kind: FileType::CharacterDevice,
        device: makedev(*major, *minor),
        mode: 0o666,
        uid: 0,
        gid: 0,
    });
    let mut nodes: Vec<Node> = defaults.collect();
    nodes.extend(asked);
    Ok(nodes)
}

impl Node {
    fn new(device: &LinuxDevice) -> Result<Self> {
        let path = clean(device.path());
        let number = |number: i64| {
            u32::try_from(number).map_err(|_| {
                Error::invalid(format!("device {}: {number} is no device number", path.display()))
            })
        };
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => {
                return Err(Error::invalid(format!("device {} has no type", path.display())));
            }
        };
        let device_number = match kind {
            FileType::Fifo => 0,
            _ => makedev(number(device.major())?, number(device.minor())?),
        };
        Ok(Self {
            kind,
            device: device_number,
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            path,
        })
    }
}

/// Makes a node at `path` beneath `root`. Inside a user namespace nodes cannot be made; the host's of the
/// same name is bound instead.
pub(crate) fn make_node(node: &Node, root: BorrowedFd<'_>, path: &Path, user_namespace: bool) -> Result<()> {
    let what = || format!("device {}", node.path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid(format!("{}: not a path for a device", what())));
    };
    let directory = ensure_in_root(root, parent, Missing::Directory)?;
    if user_namespace && node.kind != FileType::Fifo {
        return bind_node(node, directory.as_fd(), name);
    }
    let mode = Mode::from_raw_mode(node.mode);
    match mknodat(&directory, name, node.kind, mode, node.device) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let there = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).context(what)?;
            let same = FileType::from_raw_mode(there.st_mode) == node.kind && there.st_rdev == node.device;
            return match same {
                true => Ok(()),
                false => Err(Error::invalid(format!("{}: something else is there", what()))),
            };
        }
        Err(errno) => return Err(Error::internal(format!("{}: {errno}", what()))),
    }
    if (node.uid, node.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        chownat(&directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).context(what)?;
    }
    Ok(())
}

fn bind_node(node: &Node, directory: BorrowedFd<'_>, name: &std::ffi::OsStr) -> Result<()> {
    let what = || format!("device {}", node.path.display());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let host = openat(CWD, &node.path, flags, Mode::empty()).context(what)?;
    let mount = bind_of(&host, false).context(what)?;
    let stat = fstat(&mount).context(what)?;
    if FileType::from_raw_mode(stat.st_mode) != node.kind || stat.st_rdev != node.device {
        return Err(Error::invalid(format!("{}: the host's is another device", what())));
    }
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(directory, name, create, Mode::from_raw_mode(0o644)) {
        Err(Errno::EXIST) => openat(directory, name, flags, Mode::empty()),
        other => other,
    };
    attach(&mount, file.context(what)?).context(what)
}

/// Opens a new pseudo-terminal in the devpts at `path` beneath `root`: master and slave.
///
/// The multiplexer is checked to be one, on a devpts, before it is believed (CVE-2025-52565).
pub(crate) fn open_terminal(root: BorrowedFd<'_>, path: &Path) -> Result<(OwnedFd, OwnedFd)> {
    let what = || "open a terminal in the container";
    let probe = open_in_root(root, path, OFlags::PATH).context(what)?;
    let stat = fstat(&probe).context(what)?;
    let is_multiplexer = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(5, 2)
        && filesystem(&probe)? == DEVPTS_SUPER_MAGIC;
    if !is_multiplexer {
        return Err(Error::invalid(format!(
            "{} is not the container's terminal multiplexer",
            path.display()
        )));
    }
    let master = open_in_root(root, path, OFlags::RDWR | OFlags::NOCTTY).context(what)?;
    if filesystem(&master)? != DEVPTS_SUPER_MAGIC {
        return Err(Error::invalid(format!("{} changed while it was opened", path.display())));
    }
    unlockpt(&master).context(what)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).context(what)?;
    Ok((master, slave))
}
