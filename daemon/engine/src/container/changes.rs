// SPDX-License-Identifier: Apache-2.0
//! `ContainerChanges`: what a container changed in its image's files, as its upper directory tells.
//!
//! Kinds are the reference's: what has no counterpart in the image is added; a whiteout is a deletion, and so is what
//! a directory that was made anew hides; the directories above whatever changed count as modified.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use berth_domain::{Error, IdMap, Result};
use berth_sys::in_root::{self, InRoot};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::Engine;
use crate::container::view::{pin, reopen};
use crate::files::blocking;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Its content or attributes are others.
    Modified,
    /// It is not in the image.
    Added,
    /// It is only in the image.
    Deleted,
}

/// Changed paths, absolute in the container.
pub type Changes = BTreeMap<PathBuf, ChangeKind>;

/// Each level holds two descriptors.
const MAX_DEPTH: usize = 512;
/// All are sorted before they are told: so much may a container make of them, in bytes of paths. Millions of files.
const BYTES_MAX: usize = 512 << 20;
/// What a path takes beside itself.
const OVERHEAD: usize = 64;

impl Engine {
    /// What a container changed in its image's files.
    ///
    /// # Errors
    ///
    /// No such container; its files cannot be read.
    pub async fn container_changes(&self, name: &str) -> Result<Changes> {
        let now = self.index.resolve(name)?.now();
        let mut lower = self.backends.images.layers(&now.image)?;
        lower.push(self.init_layer());
        let upper = now.paths.upper.clone();
        blocking(move || {
            let image = berth_sys::mount::overlay_read_only(&lower)
                .map_err(|error| Error::internal("mounting the image's layers").because(error))?;
            let read = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let top: OwnedFd =
                rustix::fs::open(&upper, read, Mode::empty()).map_err(|e| Error::io("opening", &upper, e))?;
            compare(InRoot::from_fd(image), &top, now.id_map.as_deref())
                .map_err(|error| Error::io("reading", &upper, error))
        })
        .await
    }
}

fn compare(image: InRoot, upper: &OwnedFd, ids: Option<&IdMap>) -> io::Result<Changes> {
    let mut comparison = Comparison { image, ids, changes: Changes::new(), bytes: 0 };
    comparison.directory(upper, Path::new("/"), true, 0)?;
    let changed: Vec<PathBuf> = comparison.changes.keys().cloned().collect();
    for path in changed {
        for parent in path.ancestors().skip(1).filter(|parent| *parent != Path::new("/")) {
            comparison.changes.entry(parent.to_owned()).or_insert(ChangeKind::Modified);
        }
    }
    Ok(comparison.changes)
}

struct Comparison<'a> {
    image: InRoot,
    /// The container's users, if they are not the host's: the image's files have others' owners then.
    ids: Option<&'a IdMap>,
    changes: Changes,
    /// Of the paths among them.
    bytes: usize,
}

impl Comparison<'_> {
    fn note(&mut self, path: PathBuf, kind: ChangeKind) -> io::Result<()> {
        self.bytes += path.as_os_str().len() + OVERHEAD;
        if self.bytes > BYTES_MAX {
            return Err(io::Error::other("the container changed more files than can be listed"));
        }
        self.changes.insert(path, kind);
        Ok(())
    }

    /// What the image has at a path, no link followed.
    fn below(&self, path: &Path) -> io::Result<Option<(OwnedFd, Stat)>> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        // In the image, what is above a link was a directory, or there is nothing to compare with.
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        match in_root::openat2(self.image.as_fd(), relative, flags, Mode::empty(), how) {
            Ok(fd) => Ok(Some((rustix::fs::fstat(&fd)?, fd))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            // The last component itself.
            Err(Errno::LOOP) => {
                let (Some(parent), Some(name)) = (relative.parent(), relative.file_name()) else {
                    return Ok(None);
                };
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                let directory = OFlags::PATH | OFlags::DIRECTORY;
                match in_root::openat2(self.image.as_fd(), parent, directory, Mode::empty(), how) {
                    Ok(parent) => {
                        let fd = pin(parent.as_fd(), name)?;
                        Ok(Some((rustix::fs::fstat(&fd)?, fd)))
                    }
                    Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
        .map(|found| found.map(|(stat, fd)| (fd, stat)))
    }

    fn directory(&mut self, here: &OwnedFd, path: &Path, merged: bool, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the tree is too deep"));
        }
        for entry in in_root::listing(here)? {
            let (name, _) = entry?;
            let name = OsStr::from_bytes(name.as_bytes());
            match pin(here.as_fd(), name) {
                Ok(fd) => self.entry(fd.as_fd(), path.join(name), merged, depth)?,
                // It went away since the directory was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn capability(&self, file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
        let value = capability(file)?;
        Ok(match self.ids {
            Some(ids) if !value.is_empty() => {
                crate::users::attributes::inside(b"security.capability", &value, ids).unwrap_or_default()
            }
            _ => value,
        })
    }

    fn entry(&mut self, file: BorrowedFd<'_>, path: PathBuf, merged: bool, depth: usize) -> io::Result<()> {
        let mut stat = rustix::fs::fstat(file)?;
        if let Some(ids) = self.ids {
            (stat.st_uid, stat.st_gid) = (ids.uid_inside(stat.st_uid), ids.gid_inside(stat.st_gid));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        // Beneath a directory that is new, nothing is the image's.
        let below = if merged { self.below(&path)? } else { None };
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            if below.is_some() {
                self.note(path, ChangeKind::Deleted)?;
            }
            return Ok(());
        }
        let was_directory = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let Some((old, old_stat)) = below else {
            self.note(path.clone(), ChangeKind::Added)?;
            if kind == FileType::Directory {
                let here = reopen(file, OFlags::RDONLY | OFlags::DIRECTORY)?;
                self.directory(&here, &path, false, depth + 1)?;
            }
            return Ok(());
        };
        if differ(&old_stat, &stat) || capability(old.as_fd())? != self.capability(file)? {
            self.note(path.clone(), ChangeKind::Modified)?;
        }
        if kind != FileType::Directory {
            return Ok(());
        }
        let here = reopen(file, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let opaque = crate::tarball::is_opaque(&here)?;
        if opaque && was_directory(&old_stat) {
            // Whatever is not here again is gone; what is, is compared.
            let old = reopen(old.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
            for entry in in_root::listing(&old)? {
                let (name, _) = entry?;
                let name = OsStr::from_bytes(name.as_bytes());
                if pin(here.as_fd(), name).is_err() {
                    self.note(path.join(name), ChangeKind::Deleted)?;
                }
            }
        }
        self.directory(&here, &path, was_directory(&old_stat), depth + 1)
    }
}

/// A file is copied up whole when it is opened for writing, and a directory for what is in it: by itself that is no change.
/// A directory's time and size follow from what is in it.
fn differ(old: &Stat, new: &Stat) -> bool {
    let kept = (old.st_mode, old.st_uid, old.st_gid, old.st_rdev)
        == (new.st_mode, new.st_uid, new.st_gid, new.st_rdev);
    let content =
        (old.st_mtime, old.st_mtime_nsec, old.st_size) == (new.st_mtime, new.st_mtime_nsec, new.st_size);
    !kept || !(content || FileType::from_raw_mode(new.st_mode) == FileType::Directory)
}

/// What a file may do by itself, if it is one.
fn capability(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    use std::os::fd::AsRawFd as _;
    let mut value = vec![0; 64];
    // Attributes cannot be read through an `O_PATH` descriptor, but through its name in /proc.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::getxattr(path, "security.capability", &mut value[..]) {
        Ok(n) => value.truncate(n),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => value.clear(),
        Err(error) => return Err(error.into()),
    }
    Ok(value)
}
