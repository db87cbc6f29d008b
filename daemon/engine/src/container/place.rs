// SPDX-License-Identifier: Apache-2.0
//! A directory of a container that an archive is unpacked in, entry by entry.

use std::ffi::OsStr;
use std::io::{self, BufRead};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use berth_domain::IdMap;
use berth_image::tar::{self, Entry, Kind, Reader};
use berth_sys::in_root::{self, InRoot};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::users::attributes;

/// What is kept of directories that are seen to at the end, in bytes; further ones keep the time of their unpacking.
const LATER_MAX: usize = 64 << 20;
/// What one takes beside its path and its access list.
const OVERHEAD: usize = 128;

/// The directory.
pub(crate) struct Place<'a> {
    root: &'a InRoot,
    path: &'a Path,
    keep_kinds: bool,
    owner: Option<(u32, u32)>,
    /// The container's users, if they are not the host's.
    ids: Option<&'a IdMap>,
    /// The directory that the last entry went to: archives come sorted.
    parent: Option<(PathBuf, OwnedFd)>,
    later: Vec<Later>,
    later_bytes: usize,
}

/// What a directory gets when all is in it: its times, which unpacking changes, and the access list that what is made in it
/// would inherit.
struct Later {
    path: PathBuf,
    times: Timestamps,
    access: Option<Vec<u8>>,
}

const DEFAULT_ACCESS: &[u8] = b"system.posix_acl_default";

/// An attribute that the file system cannot hold is lost, but for capabilities, without which a program does not run.
fn set_attribute(file: &OwnedFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) if name != b"security.capability" => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Permissions of a node, which the daemon's umask would cut: through a descriptor of this very node.
fn node_mode(parent: &OwnedFd, name: &OsStr, kind: FileType, device: u64, entry: &Entry) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let node = crate::container::view::pin(parent.as_fd(), name)?;
    let stat = rustix::fs::fstat(&node)?;
    if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != device {
        return Err(bad("it was exchanged while it was unpacked"));
    }
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(entry.mode))?)
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// A name in the archive as a path beneath the place; empty for the place itself.
fn clean(name: &[u8]) -> io::Result<PathBuf> {
    if name.contains(&0) {
        return Err(bad("a name with a NUL byte"));
    }
    let mut clean = PathBuf::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if clean.pop() => {}
            b".." => return Err(bad("the name leads out of the directory that is unpacked in")),
            part => clean.push(OsStr::from_bytes(part)),
        }
    }
    Ok(clean)
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
    Timestamps { last_access: time, last_modification: time }
}

impl<'a> Place<'a> {
    pub(crate) fn new(
        root: &'a InRoot,
        path: &'a Path,
        keep_kinds: bool,
        owner: Option<(u32, u32)>,
        ids: Option<&'a IdMap>,
    ) -> Self {
        Self { root, path, keep_kinds, owner, ids, parent: None, later: Vec::new(), later_bytes: 0 }
    }

    /// Unpacks one entry.
    pub(crate) fn entry<R: BufRead>(&mut self, archive: &mut Reader<R>, entry: &Entry) -> io::Result<()> {
        let path = clean(&entry.path)?;
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            // The place itself: it is there, and is not the archive's to change.
            return Ok(());
        };
        let parent = match self.parent.take() {
            Some((held, fd)) if held == directory => fd,
            // Looked up anew from the root: a symlink leads where it leads in the container.
            _ => self.root.create_dir_all(&self.path.join(directory), Mode::from_raw_mode(0o755))?,
        };
        self.check_kind(&parent, name, entry)?;
        match entry.kind {
            Kind::Directory => self.directory(&parent, name, &path, entry)?,
            Kind::File => self.file(archive, &parent, name, entry)?,
            Kind::HardLink => self.hard_link(&parent, name, entry)?,
            Kind::Symlink => {
                in_root::remove_all(&parent, name)?;
                rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), &parent, name)?;
                self.named_attributes(&parent, name, entry)?;
            }
            Kind::Char | Kind::Block | Kind::Fifo => {
                let kind = match entry.kind {
                    Kind::Char => FileType::CharacterDevice,
                    Kind::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                in_root::remove_all(&parent, name)?;
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                rustix::fs::mknodat(&parent, name, kind, Mode::empty(), device)?;
                self.named_attributes(&parent, name, entry)?;
                node_mode(&parent, name, kind, device, entry)?;
            }
        }
        self.parent = Some((directory.to_owned(), parent));
        Ok(())
    }

    /// Gives directories what they could not have while they were filled.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        for Later { path, times, access } in std::mem::take(&mut self.later).into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            match self.root.open(&self.path.join(path), flags, Mode::empty()) {
                Ok(directory) => {
                    if let Some(access) = access {
                        self.set_attribute(&directory, DEFAULT_ACCESS, &access)?;
                    }
                    rustix::fs::futimens(&directory, &times)?;
                }
                // The container has moved it meanwhile.
                Err(error) => tracing::debug!(%error, "a directory's times are not set"),
            }
        }
        Ok(())
    }

    fn check_kind(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<()> {
        if !self.keep_kinds {
            return Ok(());
        }
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let place = self.path.display();
        match (FileType::from_raw_mode(stat.st_mode) == FileType::Directory, entry.kind == Kind::Directory) {
            (true, false) => {
                Err(bad(format!("cannot overwrite directory {name:?} with non-directory \"{place}\"")))
            }
            (false, true) => {
                Err(bad(format!("cannot overwrite non-directory {name:?} with directory \"{place}\"")))
            }
            _ => Ok(()),
        }
    }

    fn set_attribute(&self, file: &OwnedFd, name: &[u8], value: &[u8]) -> io::Result<()> {
        let Some(ids) = self.ids else { return set_attribute(file, name, value) };
        let value = attributes::to_host(name, value, ids).ok_or_else(|| {
            bad(format!("its attribute {} names others than the container's users", name.escape_ascii()))
        })?;
        set_attribute(file, name, &value)
    }

    fn owner_of(&self, entry: &Entry) -> io::Result<(Option<Uid>, Option<Gid>)> {
        let (uid, gid) = match self.owner {
            Some(owner) => owner,
            None => {
                // 2^32-1 means "leave it" to the kernel.
                let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
                id(entry.uid).zip(id(entry.gid)).ok_or_else(|| bad("its owner is out of range"))?
            }
        };
        let (uid, gid) = match self.ids {
            None => (uid, gid),
            Some(ids) => ids.uid_to_host(uid).zip(ids.gid_to_host(gid)).ok_or_else(|| {
                bad(format!("its owner {uid}:{gid} is none of the container's users (userns-remap)"))
            })?,
        };
        Ok((Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
    }

    fn directory(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path, entry: &Entry) -> io::Result<()> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    in_root::remove_all(parent, name)?;
                    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = in_root::openat2(parent.as_fd(), Path::new(name), flags, Mode::empty(), how)?;
        self.attributes(&directory, entry)?;
        let access = entry.xattrs.iter().find(|(name, _)| name == DEFAULT_ACCESS).map(|(_, value)| value);
        let bytes = path.as_os_str().len() + access.map_or(0, Vec::len) + OVERHEAD;
        if self.later_bytes + bytes <= LATER_MAX {
            self.later_bytes += bytes;
            self.later.push(Later { path: path.to_owned(), times: times(entry), access: access.cloned() });
        } else if let Some(access) = access {
            self.set_attribute(&directory, DEFAULT_ACCESS, access)?;
        }
        Ok(())
    }

    fn file<R: BufRead>(
        &self,
        archive: &mut Reader<R>,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
    ) -> io::Result<()> {
        in_root::remove_all(parent, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
        // A plain file is one extent; a sparse one has holes between its own.
        let mut extents = entry.sparse.iter().flatten().map(|e| (e.offset, e.length));
        let mut holes = false;
        let mut extent = if entry.sparse.is_some() { extents.next() } else { Some((0, u64::MAX)) };
        loop {
            let mut bytes = archive.data()?;
            let stored = bytes.len();
            if stored == 0 {
                break;
            }
            while !bytes.is_empty() {
                let Some((offset, left)) = extent.filter(|(_, left)| *left > 0) else {
                    extent = Some(extents.next().ok_or_else(|| bad("archive/tar: invalid sparse file"))?);
                    continue;
                };
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let n = if tar::is_hole(&bytes[..most]) {
                    holes = true;
                    most
                } else {
                    rustix::io::pwrite(&file, &bytes[..most], offset)?
                };
                extent = Some((offset + n as u64, left - n as u64));
                bytes = &bytes[n..];
            }
            archive.consume(stored);
        }
        if entry.sparse.is_some() || holes {
            rustix::fs::ftruncate(&file, entry.size)?;
        }
        self.attributes(&file, entry)?;
        rustix::fs::futimens(&file, &times(entry))?;
        Ok(())
    }

    fn hard_link(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let target = clean(&entry.link)?;
        let (Some(directory), Some(last)) = (target.parent(), target.file_name()) else {
            return Err(bad("a hard link to a directory"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = self.root.open(&self.path.join(directory), flags, Mode::empty())?;
        let (there, here) = (rustix::fs::fstat(&directory)?, rustix::fs::fstat(parent)?);
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) && last == name {
            return Ok(());
        }
        let stat = rustix::fs::statat(&directory, last, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(bad("a hard link to a directory"));
        }
        in_root::remove_all(parent, name)?;
        Ok(rustix::fs::linkat(&directory, last, parent, name, AtFlags::empty())?)
    }

    /// Owner, permissions and extended attributes, in the order in which one does not undo the other.
    fn attributes(&self, file: &OwnedFd, entry: &Entry) -> io::Result<()> {
        let (uid, gid) = self.owner_of(entry)?;
        rustix::fs::fchown(file, uid, gid)?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
        for (name, value) in &entry.xattrs {
            // Those of the kernel's own subsystems are not an archive's to set.
            if crate::tarball::is_the_files(name) && name != DEFAULT_ACCESS {
                self.set_attribute(file, name, value)?;
            }
        }
        Ok(())
    }

    /// Owner and times of what cannot be opened: by its name, which is not followed.
    fn named_attributes(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let (uid, gid) = self.owner_of(entry)?;
        rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}
