// SPDX-License-Identifier: Apache-2.0
//! One entry: its name made safe to walk, its file written, its attributes set.

use std::io::{self, BufRead};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Unpack, times};
use crate::tar::{self, Entry, bad};

/// What a whiteout's name starts with.
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// The rest of the name of an opaque mark.
pub(super) const OPAQUE_SUFFIX: &[u8] = b".wh..opq";
/// The kernel's bound on paths, less the final NUL.
pub(super) const PATH_MAX: usize = 4095;

/// Entries name what they mean from the root, whether they start with `/`, `./` or neither: the components
/// joined by `/`, without `.` and `..`; empty for the root itself.
pub(crate) fn clean(path: &[u8]) -> io::Result<Vec<u8>> {
    if path.contains(&0) {
        return Err(bad("a name with a NUL byte"));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or_else(|| bad("the name leaves the layer's root"))?;
            }
            part => parts.push(part),
        }
    }
    let path = parts.join(&b'/');
    if path.len() > PATH_MAX {
        return Err(bad("the name is too long"));
    }
    Ok(path)
}

/// The directory (empty for the root) and the last component; `None` for the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    })
}

/// A name in a directory, as a path from the root.
pub(super) fn join(directory: &[u8], name: &[u8]) -> io::Result<Vec<u8>> {
    let path = if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() };
    if path.len() > PATH_MAX {
        return Err(bad("the name is too long"));
    }
    Ok(path)
}

/// The owner. 2^32-1 means "do not change" to the kernel and larger ones would wrap around.
pub(super) fn owner(entry: &Entry) -> io::Result<(u32, u32)> {
    let id = |id: u64| {
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| bad(format!("owner {id} is out of range")))
    };
    Ok((id(entry.uid)?, id(entry.gid)?))
}

pub(super) fn symlink_target(entry: &Entry) -> io::Result<&[u8]> {
    if entry.link.is_empty() || entry.link.len() > PATH_MAX || entry.link.contains(&0) {
        return Err(bad("invalid symlink target"));
    }
    Ok(&entry.link)
}

/// Attributes in overlayfs's own namespace would be orders to overlayfs.
pub(super) fn check_xattrs(entry: &Entry) -> io::Result<()> {
    match entry.xattrs.iter().find(|(name, _)| name.starts_with(b"trusted.overlay.")) {
        Some((name, _)) => {
            Err(bad(format!("the attribute {} is not an image's to set", String::from_utf8_lossy(name))))
        }
        None => Ok(()),
    }
}

pub(super) fn chown(file: impl AsFd, owner: (u32, u32)) -> io::Result<()> {
    Ok(rustix::fs::fchown(file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?)
}

/// Sets one attribute. A filesystem that cannot hold it is not the image's fault, except for capabilities,
/// without which its programs would not run as they should.
pub(super) fn set_xattr(name: &[u8], set: impl FnOnce(&[u8]) -> rustix::io::Result<()>) -> io::Result<()> {
    match set(name) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) if name != b"security.capability" => {
            tracing::debug!(name = %String::from_utf8_lossy(name), "the filesystem does not hold this attribute");
            Ok(())
        }
        // Labels of another host's policy, and attributes that only regular files may have.
        Err(Errno::INVAL) if name == b"security.selinux" => Ok(()),
        Err(Errno::PERM) if name.starts_with(b"user.") => Ok(()),
        Err(e) => Err(io::Error::new(
            io::Error::from(e).kind(),
            format!("setting the attribute {}: {e}", String::from_utf8_lossy(name)),
        )),
    }
}

impl Unpack<'_> {
    pub(super) fn file<R: BufRead>(
        &mut self,
        archive: &mut tar::Reader<R>,
        parent: &OwnedFd,
        name: &[u8],
        canonical: &[u8],
        entry: &Entry,
        owner: (u32, u32),
    ) -> io::Result<()> {
        check_xattrs(entry)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let created = Mode::from_raw_mode(entry.mode & 0o777);
        let file = self
            .replacing(parent, name, canonical, |parent| rustix::fs::openat(parent, name, flags, created))?;
        match &entry.sparse {
            None => self.plain(archive, &file)?,
            Some(extents) => {
                let mut extents = extents.iter().copied();
                let mut current = extents.next();
                self.stored(archive, |mut bytes| {
                    while !bytes.is_empty() {
                        let Some(extent) = current.as_mut().filter(|e| e.length > 0) else {
                            current = extents.next();
                            if current.is_none() {
                                return Err(bad("archive/tar: invalid sparse file"));
                            }
                            continue;
                        };
                        let n = usize::try_from(extent.length).unwrap_or(usize::MAX).min(bytes.len());
                        let n = rustix::io::pwrite(&file, &bytes[..n], extent.offset)?;
                        extent.offset += n as u64;
                        extent.length -= n as u64;
                        bytes = &bytes[n..];
                    }
                    Ok(())
                })?;
                rustix::fs::ftruncate(&file, entry.size)?;
            }
        }
        self.done.size = self.done.size.saturating_add(entry.size);
        let owned = owner != (0, 0);
        if owned {
            chown(&file, owner)?;
        }
        // After chown and the last write, both of which drop setuid.
        if owned || entry.mode != entry.mode & self.umask_leaves {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
        }
        for (name, value) in &entry.xattrs {
            set_xattr(name, |name| rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()))?;
        }
        rustix::fs::futimens(&file, &times(entry.mtime))?;
        Ok(())
    }

    fn plain<R: BufRead>(&mut self, archive: &mut tar::Reader<R>, file: &OwnedFd) -> io::Result<()> {
        let (mut at, mut holes) = (0, false);
        self.stored(archive, |mut bytes| {
            if tar::is_hole(bytes) {
                at += bytes.len() as u64;
                holes = true;
                return Ok(());
            }
            while !bytes.is_empty() {
                let n = rustix::io::pwrite(file, bytes, at)?;
                if n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                at += n as u64;
                bytes = &bytes[n..];
            }
            Ok(())
        })?;
        if holes {
            rustix::fs::ftruncate(file, at)?;
        }
        Ok(())
    }

    fn stored<R: BufRead>(
        &mut self,
        archive: &mut tar::Reader<R>,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let bytes = archive.data()?;
            let n = bytes.len();
            if n == 0 {
                return Ok(());
            }
            self.account(n as u64)?;
            write(bytes)?;
            archive.consume(n);
        }
    }

    /// Owner, attributes and times of a symlink or node, none of them through the name.
    pub(super) fn node_attributes(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        owner: (u32, u32),
    ) -> io::Result<()> {
        check_xattrs(entry)?;
        if owner != (0, 0) {
            let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            if entry.kind != tar::Kind::Symlink && entry.mode & 0o6000 != 0 {
                rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
            }
        }
        if !entry.xattrs.is_empty() {
            // lsetxattr has no *at form before Linux 6.13: the held parent is named through /proc.
            let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            for (name, value) in &entry.xattrs {
                set_xattr(name, |name| rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty()))?;
            }
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }
}
