// SPDX-License-Identifier: Apache-2.0
//! Unpacking a layer into a directory of its own, as overlayfs wants to see it.
//!
//! The archive is hostile. What holds whatever it says:
//!
//! - No name is ever given to the kernel as a path through the layer: [`tree::Tree`] walks one component at a time from held
//!   directory fds (`openat2`, beneath, no symlinks), resolving symlinks of the same layer itself, within the root, as a
//!   container would. `..` cannot climb over the root in a symlink, and is an error in an entry's name.
//! - The last component is only ever created (`O_EXCL`, `mkdirat`, ...) or removed, never followed. A later entry
//!   replaces an earlier one of its name.
//! - Entries, bytes, path lengths and remembered directories are bounded; so is what the disk may lose.
//! - Attributes that overlayfs gives meaning to (`trusted.overlay.*`) are ours to write, never the image's.
//!
//! Attributes of directories are set at the end: until then each is 0700 and takes no setgid from its parent.
//! Whiteouts (image spec, layer.md) become what overlayfs has for them: a character device 0/0, or the attribute
//! `trusted.overlay.opaque` on the directory.

mod entry;
mod tree;

#[cfg(test)]
mod tests;

pub(crate) use entry::clean;
pub(crate) use tree::remove_tree;

use std::collections::HashSet;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use berth_domain::Error;
use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps};
use rustix::io::Errno;

use crate::tar::{self, Entry, Kind, bad};
use tree::Tree;

/// The attribute that makes overlayfs hide what is below a directory.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// Inodes of the filesystem that stay free, on small ones a twentieth.
const INODES_KEPT: u64 = 20_000;
/// Implied directories of one layer that are remembered, in bytes of their names.
const IMPLIED_BYTES_MAX: usize = 4 << 20;

/// What one layer may ask of the disk.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries in its archive.
    pub entries: u64,
    /// Bytes of its files, holes not counted.
    pub bytes: u64,
    /// Bytes of the names and attributes of all its directories, which are kept in memory until the end.
    pub directory_names: u64,
    /// Bytes of the filesystem that stay free; fewer and unpacking ends with "no space left on device".
    /// On small filesystems a twentieth of their size, if that is less.
    pub keep_free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000_000, bytes: 1 << 40, directory_names: 64 << 20, keep_free: 256 << 20 }
    }
}

/// What was unpacked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Sum of the files' lengths.
    pub(crate) size: u64,
    pub(crate) entries: u64,
    /// Directories that the archive has files in but no entry for.
    pub(crate) implied: Vec<Vec<u8>>,
}

/// What a directory shall look like in the end.
#[derive(Debug)]
struct Attributes {
    path: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Where the bytes of a layer come from and when to give up.
pub(crate) struct Unpack<'a> {
    tree: Tree,
    limits: &'a Limits,
    given_up: &'a AtomicBool,
    directories: Vec<Attributes>,
    directory_names: u64,
    implied: HashSet<Vec<u8>>,
    /// Names that a whiteout of this layer removed from the layers below.
    whiteouts: HashSet<Vec<u8>>,
    done: Unpacked,
    written: u64,
    space_checked_at: u64,
    /// The permissions that the process's umask leaves a new file.
    umask_leaves: u32,
}

/// Unpacks the archive into the directory `root`, which is empty and nobody else's.
pub(crate) fn unpack<R: BufRead>(
    archive: &mut tar::Reader<R>,
    root: OwnedFd,
    limits: &Limits,
    given_up: &AtomicBool,
) -> io::Result<Unpacked> {
    let mut unpack = Unpack {
        umask_leaves: probe_umask(&root)?,
        tree: Tree::new(root),
        limits,
        given_up,
        directories: Vec::new(),
        directory_names: 0,
        implied: HashSet::new(),
        whiteouts: HashSet::new(),
        done: Unpacked::default(),
        written: 0,
        space_checked_at: 0,
    };
    unpack.check_space()?;
    while let Some(entry) = archive.next_entry()? {
        unpack.done.entries += 1;
        if unpack.done.entries > limits.entries {
            return Err(bad(format!("the layer has more than {} entries", limits.entries)));
        }
        if unpack.done.entries % 10_000 == 0 {
            unpack.check_space()?;
        }
        unpack.check_given_up()?;
        unpack.entry(archive, &entry).map_err(|e| named(&entry, e))?;
    }
    unpack.finish()
}

/// The error with the name of the entry that it is about.
fn named(entry: &Entry, error: io::Error) -> io::Error {
    let name = String::from_utf8_lossy(&entry.path);
    // About the stream, not about this entry.
    if error.kind() == io::ErrorKind::UnexpectedEof || error.get_ref().is_some_and(|e| e.is::<Error>()) {
        return error;
    }
    io::Error::new(error.kind(), format!("{name:?}: {error}"))
}

fn probe_umask(root: &OwnedFd) -> io::Result<u32> {
    use rustix::fs::{OFlags, fstat, openat, unlinkat};
    const NAME: &str = ".umask-probe";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(root, NAME, flags, Mode::from_raw_mode(0o777))?;
    let mode = fstat(&file)?.st_mode & 0o777;
    unlinkat(root, NAME, AtFlags::empty())?;
    Ok(mode)
}

impl Unpack<'_> {
    fn check_given_up(&self) -> io::Result<()> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(io::Error::other(Error::cancelled("given up")));
        }
        Ok(())
    }

    fn check_space(&mut self) -> io::Result<()> {
        self.space_checked_at = self.written;
        check_space(self.tree.root(), self.limits)
    }

    /// Counts bytes that are about to be written.
    fn account(&mut self, bytes: u64) -> io::Result<()> {
        self.written += bytes;
        if self.written > self.limits.bytes {
            return Err(bad(format!("the layer's files exceed {} bytes", self.limits.bytes)));
        }
        if self.written - self.space_checked_at >= 64 << 20 {
            self.check_space()?;
        }
        self.check_given_up()
    }

    fn remember(&mut self, directory: Attributes) -> io::Result<()> {
        let xattrs: usize = directory.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        self.directory_names += (directory.path.len() + xattrs) as u64 + 64;
        if self.directory_names > self.limits.directory_names {
            return Err(bad("the layer has too many directories"));
        }
        self.directories.push(directory);
        Ok(())
    }

    /// The directory at `path`, made where it is missing. Its canonical path, and it.
    fn parent(&mut self, path: &[u8]) -> io::Result<(Vec<u8>, std::rc::Rc<OwnedFd>)> {
        let mut made = Vec::new();
        let found = self.tree.directory(path, true, &mut made)?;
        for path in made {
            if self.whiteouts.contains(&path) {
                self.make_opaque(&path)?;
            }
            self.implied.insert(path.clone());
            self.remember(Attributes {
                path,
                mode: 0o755,
                owner: (0, 0),
                mtime: (0, 0),
                xattrs: Vec::new(),
            })?;
        }
        Ok(found)
    }

    fn make_opaque(&mut self, path: &[u8]) -> io::Result<()> {
        let dir = self.tree.held(path)?;
        rustix::fs::fsetxattr(&dir, OPAQUE, b"y", rustix::fs::XattrFlags::empty())?;
        Ok(())
    }

    fn entry<R: BufRead>(&mut self, archive: &mut tar::Reader<R>, entry: &Entry) -> io::Result<()> {
        let path = entry::clean(&entry.path)?;
        let Some((parent, name)) = entry::split(&path) else {
            // The root: what a container sees there is its own writable layer's.
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(entry::WHITEOUT) {
            // Its data, which it should not have, is skipped: that takes its time, too.
            self.account(entry.size)?;
            return self.whiteout(parent, hidden);
        }
        let (parent, parent_fd) = self.parent(parent)?;
        let canonical = entry::join(&parent, name)?;
        let owner = entry::owner(entry)?;
        if entry.kind == Kind::Directory {
            return self.directory(&parent_fd, name, canonical, entry, owner);
        }
        self.implied.remove(&canonical);
        match entry.kind {
            Kind::File => self.file(archive, &parent_fd, name, &canonical, entry, owner)?,
            Kind::HardLink => self.hard_link(&parent_fd, name, &canonical, entry)?,
            Kind::Symlink => {
                let target = entry::symlink_target(entry)?;
                self.replacing(&parent_fd, name, &canonical, |parent| {
                    rustix::fs::symlinkat(target, parent, name)
                })?;
                self.node_attributes(&parent_fd, name, entry, owner)?;
            }
            Kind::Char | Kind::Block | Kind::Fifo => {
                let (kind, device) = match entry.kind {
                    Kind::Char => (FileType::CharacterDevice, entry.device),
                    Kind::Block => (FileType::BlockDevice, entry.device),
                    _ => (FileType::Fifo, (0, 0)),
                };
                let device = rustix::fs::makedev(device.0, device.1);
                self.replacing(&parent_fd, name, &canonical, |parent| {
                    rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(entry.mode & 0o777), device)
                })?;
                // Nobody else can exchange the node between these calls: the tree is root's alone (0700).
                rustix::fs::chmodat(&parent_fd, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
                self.node_attributes(&parent_fd, name, entry, owner)?;
            }
            Kind::Directory => {}
        }
        Ok(())
    }

    /// Runs what creates `name`; if something has that name already, removes it and runs it again.
    fn replacing<T>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        canonical: &[u8],
        mut create: impl FnMut(&OwnedFd) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        match create(parent) {
            Err(Errno::EXIST) => {
                self.tree.remove(parent, name, canonical)?;
                Ok(create(parent)?)
            }
            other => Ok(other?),
        }
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        canonical: Vec<u8>,
        entry: &Entry,
        owner: (u32, u32),
    ) -> io::Result<()> {
        if self.tree.make_directory(parent, name, &canonical)? && self.whiteouts.contains(&canonical) {
            self.make_opaque(&canonical)?;
        }
        self.implied.remove(&canonical);
        entry::check_xattrs(entry)?;
        self.remember(Attributes {
            path: canonical,
            mode: entry.mode,
            owner,
            mtime: entry.mtime,
            xattrs: entry.xattrs.clone(),
        })
    }

    fn whiteout(&mut self, parent: &[u8], hidden: &[u8]) -> io::Result<()> {
        if hidden == entry::OPAQUE_SUFFIX {
            let (canonical, _) = self.parent(parent)?;
            return self.make_opaque(&canonical);
        }
        if hidden.starts_with(entry::WHITEOUT) {
            // Bookkeeping of the AUFS driver.
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(bad("invalid whiteout"));
        }
        let (parent, parent_fd) = self.parent(parent)?;
        let canonical = entry::join(&parent, hidden)?;
        // A whiteout is about the layers below. What this layer itself puts there stays; if that is
        // a directory it must not merge with what was there.
        match rustix::fs::statat(&parent_fd, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.make_opaque(&canonical)?;
            }
            Ok(_) => {}
            Err(Errno::NOENT) => {
                let mode = Mode::empty();
                rustix::fs::mknodat(&parent_fd, hidden, FileType::CharacterDevice, mode, 0)?;
            }
            Err(e) => return Err(e.into()),
        }
        self.directory_names += canonical.len() as u64 + 64;
        if self.directory_names > self.limits.directory_names {
            return Err(bad("the layer has too many whiteouts"));
        }
        self.whiteouts.insert(canonical);
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        canonical: &[u8],
        entry: &Entry,
    ) -> io::Result<()> {
        let missing = || {
            bad(format!("hard link to {:?}, which is not in the layer", String::from_utf8_lossy(&entry.link)))
        };
        let target = entry::clean(&entry.link)?;
        let Some((dir, last)) = entry::split(&target) else {
            return Err(missing());
        };
        let (dir, dir_fd) = self.tree.directory(dir, false, &mut Vec::new()).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => e,
        })?;
        if entry::join(&dir, last)? == canonical {
            return Ok(());
        }
        // The target first: what is replaced must not be what is linked to, nor above it.
        match rustix::fs::statat(&dir_fd, last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(bad("hard link to a directory"));
            }
            Ok(_) => {}
            Err(Errno::NOENT) => return Err(missing()),
            Err(e) => return Err(e.into()),
        }
        // No AT_SYMLINK_FOLLOW: a link to a symlink is one more name of the symlink itself.
        self.replacing(parent, name, canonical, |parent| {
            rustix::fs::linkat(&dir_fd, last, parent, name, AtFlags::empty())
        })
    }

    fn finish(mut self) -> io::Result<Unpacked> {
        let directories = std::mem::take(&mut self.directories);
        for directory in &directories {
            let dir = match self.tree.held(&directory.path) {
                Ok(dir) => dir,
                // Replaced by something else later on.
                Err(e)
                    if matches!(
                        Errno::from_io_error(&e),
                        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                    ) =>
                {
                    continue;
                }
                Err(e) => return Err(e),
            };
            if directory.owner != (0, 0) {
                entry::chown(&dir, directory.owner)?;
            }
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(directory.mode))?;
            for (name, value) in &directory.xattrs {
                entry::set_xattr(name, |name| {
                    rustix::fs::fsetxattr(&dir, name, value, rustix::fs::XattrFlags::empty())
                })?;
            }
            rustix::fs::futimens(&dir, &times(directory.mtime))?;
        }
        let mut done = self.done;
        // More than that is no image that anybody made; its record must not become a burden.
        if self.implied.iter().map(Vec::len).sum::<usize>() <= IMPLIED_BYTES_MAX {
            done.implied = self.implied.into_iter().collect();
            done.implied.sort();
        }
        Ok(done)
    }
}

/// Both times: archives of layers state no access time worth keeping.
fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

/// Whether the filesystem of `dir` has more room than must stay free.
pub(crate) fn check_space(dir: impl AsFd, limits: &Limits) -> io::Result<()> {
    check_room(dir, limits, 0)
}

/// Whether it has that room for so many bytes more.
pub(crate) fn check_room(dir: impl AsFd, limits: &Limits, bytes: u64) -> io::Result<()> {
    let fs = rustix::fs::fstatvfs(dir)?;
    let keep = limits.keep_free.min(fs.f_blocks.saturating_mul(fs.f_frsize) / 20);
    if fs.f_bavail.saturating_mul(fs.f_frsize) < keep.saturating_add(bytes) {
        return Err(Errno::NOSPC.into());
    }
    // Filesystems that make inodes as they go say 0.
    if fs.f_files > 0 && fs.f_favail < INODES_KEPT.min(fs.f_files / 20) {
        return Err(Errno::NOSPC.into());
    }
    Ok(())
}
