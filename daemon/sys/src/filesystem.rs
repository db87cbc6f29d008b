// SPDX-License-Identifier: Apache-2.0
//! File systems mounted where the host sees them: what a volume's options name.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::idmap::OwnerMap;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// What is to be mounted, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// What.
    pub source: Source,
    /// How.
    pub attributes: Attributes,
    /// How its owners are mapped.
    pub idmap: Option<OwnerMap>,
}

/// What is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of the host.
    Directory {
        /// It.
        path: PathBuf,
        /// With what is mounted beneath it.
        recursive: bool,
    },
    /// A file system.
    New {
        /// Its type.
        kind: String,
        /// Its device or server.
        device: String,
        /// Its own options.
        data: Vec<(String, Option<String>)>,
    },
}

/// The options that every mount has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*`.
    mount: u64,
    /// `MS_PRIVATE` and its like.
    propagation: u64,
    read_only: bool,
    sync: bool,
    dirsync: bool,
}

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const IDMAP: u64 = 0x10_0000;

impl Attributes {
    /// Takes a word of `mount(8)`; false for one that is the file system's own.
    pub fn take(&mut self, word: &str) -> bool {
        let mut flag = |bit: u64, set: bool| if set { self.mount |= bit } else { self.mount &= !bit };
        match word {
            "ro" | "rw" => {
                flag(RDONLY, word == "ro");
                self.read_only = word == "ro";
            }
            "nosuid" | "suid" => flag(NOSUID, word == "nosuid"),
            "nodev" | "dev" => flag(NODEV, word == "nodev"),
            "noexec" | "exec" => flag(NOEXEC, word == "noexec"),
            "nodiratime" | "diratime" => flag(NODIRATIME, word == "nodiratime"),
            "noatime" => self.mount = (self.mount & !ATIME) | NOATIME,
            "strictatime" => self.mount = (self.mount & !ATIME) | STRICTATIME,
            "atime" | "relatime" | "norelatime" | "nostrictatime" => self.mount &= !ATIME,
            "sync" | "async" => self.sync = word == "sync",
            "dirsync" => self.dirsync = true,
            "defaults" | "nomand" => {}
            "private" | "rprivate" => self.propagation = libc::MS_PRIVATE,
            "shared" | "rshared" => self.propagation = libc::MS_SHARED,
            "slave" | "rslave" => self.propagation = libc::MS_SLAVE,
            "unbindable" | "runbindable" => self.propagation = libc::MS_UNBINDABLE,
            _ => return false,
        }
        true
    }
}

impl Filesystem {
    /// Mounts it on a directory.
    ///
    /// # Errors
    ///
    /// The kernel has no such file system; what the file system says.
    pub fn mount(&self, at: &Path) -> io::Result<()> {
        let mount = match &self.source {
            Source::Directory { path, recursive } => {
                let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                if *recursive {
                    flags |= OpenTreeFlags::AT_RECURSIVE;
                }
                let tree = open_tree(CWD, path, flags)?;
                if let Some(idmap) = &self.idmap {
                    idmap.apply(&tree, *recursive)?;
                }
                set_attributes(&tree, *recursive, &self.attributes)?;
                tree
            }
            Source::New { kind, device, data } => {
                let mount = self.make(kind, device, data)?;
                if let Some(idmap) = &self.idmap {
                    idmap.apply(&mount, false)?;
                }
                let only = Attributes { mount: 0, ..self.attributes };
                set_attributes(&mount, false, &only)?;
                mount
            }
        };
        Ok(move_mount(&mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    }

    fn make(&self, kind: &str, device: &str, data: &[(String, Option<String>)]) -> io::Result<OwnedFd> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
            rustix::io::Errno::NODEV => io::Error::new(
                io::ErrorKind::Unsupported,
                format!("this kernel has no file system of type {kind:?} (is its module loaded?)"),
            ),
            errno => errno.into(),
        })?;
        let configure = || -> rustix::io::Result<OwnedFd> {
            if !device.is_empty() {
                fsconfig_set_string(&context, "source", device)?;
            }
            let Attributes { read_only, sync, dirsync, .. } = self.attributes;
            for (word, set) in [("ro", read_only), ("sync", sync), ("dirsync", dirsync)] {
                if set {
                    fsconfig_set_flag(&context, word)?;
                }
            }
            for (key, value) in data {
                match value {
                    Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str())?,
                    None => fsconfig_set_flag(&context, key.as_str())?,
                }
            }
            fsconfig_create(&context)?;
            let attributes =
                MountAttrFlags::from_bits_retain(u32::try_from(self.attributes.mount).unwrap_or(0));
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        };
        configure().map_err(|errno| said(context.as_fd(), errno))
    }
}

/// What the kernel wrote into a file system context about a failure, beside the error itself.
fn said(context: impl AsFd, errno: rustix::io::Errno) -> io::Error {
    let mut words = Vec::new();
    let mut log = match context.as_fd().try_clone_to_owned() {
        Ok(fd) => std::fs::File::from(fd),
        Err(_) => return errno.into(),
    };
    let mut line = [0; 512];
    while let Ok(n @ 1..) = log.read(&mut line) {
        let text = String::from_utf8_lossy(&line[..n]).trim().to_owned();
        words.extend(text.strip_prefix("e ").map(str::to_owned));
    }
    let error = io::Error::from(errno);
    if words.is_empty() {
        error
    } else {
        io::Error::new(error.kind(), format!("{error}: {}", words.join("; ")))
    }
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

fn set_attributes(mount: &OwnedFd, recursive: bool, attributes: &Attributes) -> io::Result<()> {
    if attributes.mount == 0 && attributes.propagation == 0 {
        return Ok(());
    }
    let clear = if attributes.mount & (ATIME | NODIRATIME) == 0 { 0 } else { ATIME };
    let attr = MountAttr { set: attributes.mount, clear, propagation: attributes.propagation, userns_fd: 0 };
    set(mount, recursive, &attr)
}

/// Takes writing away from a detached mount and, if asked, from the mounts beneath it.
pub(crate) fn make_read_only(mount: &OwnedFd, recursive: bool) -> io::Result<()> {
    set(mount, recursive, &MountAttr { set: RDONLY, clear: 0, propagation: 0, userns_fd: 0 })
}

/// Maps a detached mount's owners by a user namespace.
pub(crate) fn map_owners(mount: &OwnedFd, recursive: bool, namespace: &OwnedFd) -> io::Result<()> {
    let userns_fd = u64::try_from(namespace.as_raw_fd()).unwrap_or_default();
    set(mount, recursive, &MountAttr { set: IDMAP, clear: 0, propagation: 0, userns_fd })
}

#[allow(unsafe_code)]
fn set(mount: &OwnedFd, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, the structure is the kernel's of this size, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            std::mem::size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether something is mounted exactly at a path. Asks the kernel's table and not what is mounted, which may be a server's that
/// does not answer: whoever waits for that cannot even be killed.
///
/// # Errors
///
/// There is no such directory as it would be in.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(true) };
    let place = std::fs::canonicalize(parent)?.join(name);
    let table = std::fs::read("/proc/self/mountinfo")?;
    let mut points = table.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    Ok(points.any(|point| unescaped(point) == place.as_os_str().as_bytes()))
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        match more {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = more;
            }
        }
    }
    plain
}

/// Attaches a detached mount (see [`crate::mount::overlay_read_only`]) to a directory of the host.
///
/// # Errors
///
/// No such directory; not permitted.
pub fn attach(mount: &OwnedFd, at: &Path) -> io::Result<()> {
    Ok(move_mount(mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn attributes(words: &str) -> Attributes {
        let mut attributes = Attributes::default();
        for word in words.split(',') {
            assert!(attributes.take(word), "{word}");
        }
        attributes
    }

    #[test]
    fn a_tmpfs_and_a_bind_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let (at, other) = (dir.path().join("a \\t\n"), dir.path().join("other"));
        std::fs::create_dir(&at).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("f"), "x").unwrap();
        let new = |data: &str| Filesystem {
            source: Source::New {
                kind: "tmpfs".into(),
                device: "tmpfs".into(),
                data: vec![("size".into(), Some(data.into()))],
            },
            attributes: attributes("noexec,noatime"),
            idmap: None,
        };
        assert!(!is_mounted(&at).unwrap());
        new("1m").mount(&at).unwrap();
        assert!(is_mounted(&at).unwrap());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|l| l.contains(dir.path().to_str().unwrap())).unwrap();
        assert!(line.contains("noexec,noatime") && line.contains("size=1024k"), "{line}");
        assert!(crate::mount::detach(&at).unwrap());
        let error = new("much").mount(&at).unwrap_err().to_string();
        assert!(error.contains("size"), "{error}");
        let fixed = Filesystem {
            source: Source::Directory { path: other.clone(), recursive: true },
            attributes: attributes("ro"),
            idmap: None,
        };
        fixed.mount(&at).unwrap();
        assert!(at.join("f").exists() && std::fs::write(at.join("g"), "").is_err());
        assert!(crate::mount::detach(&at).unwrap() && !is_mounted(&at).unwrap());
        let none = Filesystem {
            source: Source::New { kind: "nosuchfs".into(), device: "x".into(), data: Vec::new() },
            attributes: Attributes::default(),
            idmap: None,
        };
        assert!(none.mount(&at).unwrap_err().to_string().contains("nosuchfs"));
    }
}
