// SPDX-License-Identifier: Apache-2.0
//! A faithful copy of a tree: owner, mode, extended attributes, times, hard links, holes, devices.
//!
//! Both sides may be hostile: the source is an image, and the target may be mounted in a running container. So every step is by
//! descriptor and name, never by path; no symlink is followed on either side; a name that appears in the target while it is filled is an error.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use berth_sys::in_root;
use berth_sys::links::Links;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

/// Deeper trees are refused: each level holds two descriptors.
const MAX_DEPTH: usize = 512;
/// Longest value of an extended attribute and longest list of names, as the kernel has them.
const XATTR_SIZE_MAX: usize = 64 * 1024;
/// Most that is read at once where the kernel cannot copy by itself.
const CHUNK: usize = 128 * 1024;

/// Copies the content and the attributes of a directory into another, which must be empty.
pub(crate) fn copy(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let mut copy = Copy { target, linked: Links::default(), failed_at: None };
    let done = copy.directory(source, target, Path::new(""), 0);
    done.map_err(|error| match copy.failed_at {
        Some(path) => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
        None => error,
    })
}

struct Copy<'a> {
    target: BorrowedFd<'a>,
    /// Files with several names that were copied: where beneath the target.
    linked: Links,
    /// Where the first thing went wrong.
    failed_at: Option<PathBuf>,
}

impl Copy<'_> {
    fn directory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the tree is too deep"));
        }
        for entry in in_root::listing(source)? {
            let (name, _) = entry?;
            let path = path.join(OsStr::from_bytes(name.as_bytes()));
            let done = self.entry(source, target, &name, &path, depth);
            if done.is_err() && self.failed_at.is_none() {
                self.failed_at = Some(path);
            }
            done?;
        }
        let stat = rustix::fs::fstat(source)?;
        attributes(&stat, source, target)
    }

    fn entry(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let from = open_plain(source, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rustix::fs::mkdirat(target, name, Mode::RWXU)?;
            let to = open_plain(target, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            return self.directory(from.as_fd(), to.as_fd(), path, depth + 1);
        }
        if let Some(first) = self.linked.met(&stat, path.as_os_str().as_bytes()) {
            return link(self.target, Path::new(OsStr::from_bytes(&first)), target, name);
        }
        match kind {
            FileType::RegularFile => regular(source, target, name),
            FileType::Symlink => symlink(source, target, name, &stat),
            _ => special(source, target, name, &stat, kind),
        }
    }
}

/// Opens a name of a directory that is no symlink.
fn open_plain(directory: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

/// A further name for a file that was copied. The first name is looked up anew, without following links: where a container swaps
/// directories meanwhile, the outcome is an error and not a name for a file of the host.
fn link(root: BorrowedFd<'_>, first: &Path, target: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = in_root::openat2(root, first, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty(), how);
    let file = match file {
        // The last component may itself be a symlink with several names.
        Err(Errno::LOOP) => {
            let parent = first.parent().unwrap_or(Path::new(""));
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let directory =
                in_root::openat2(root, parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), how)?;
            let last = first.file_name().unwrap_or_default();
            rustix::fs::openat(
                &directory,
                last,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?
        }
        other => other?,
    };
    Ok(rustix::fs::linkat(&file, c"", target, name, AtFlags::EMPTY_PATH)?)
}

fn regular(source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let from = open_plain(source, name, OFlags::RDONLY)?;
    let stat = rustix::fs::fstat(&from)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
    content(from.as_fd(), to.as_fd(), u64::try_from(stat.st_size).unwrap_or_default())?;
    attributes(&stat, from.as_fd(), to.as_fd())
}

/// Copies the parts that hold data; the rest stays holes.
fn content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    rustix::fs::ftruncate(to, size)?;
    let mut offset = 0;
    while offset < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // A filesystem that does not know holes.
            Err(Errno::INVAL) => offset,
            Err(e) => return Err(e.into()),
        };
        let end = match rustix::fs::seek(from, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL | Errno::NXIO) => size,
            Err(e) => return Err(e.into()),
        };
        range(from, to, start, end)?;
        offset = end.max(start + 1);
    }
    Ok(())
}

fn range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let want = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::BADF) => {
                return by_hand(from, to, read_at, end);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let (from, to) = (File::from(from.try_clone_to_owned()?), File::from(to.try_clone_to_owned()?));
    let mut buffer = vec![0; CHUNK];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let read = from.read_at(&mut buffer[..want], at)?;
        if read == 0 {
            break;
        }
        to.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

fn symlink(source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let to = rustix::fs::readlinkat(source, name, Vec::new())?;
    rustix::fs::symlinkat(&to, target, name)?;
    nameless_attributes(source, target, name, stat)
}

fn special(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    kind: FileType,
) -> io::Result<()> {
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    rustix::fs::mknodat(target, name, kind, Mode::empty(), stat.st_rdev)?;
    rustix::fs::chownat(target, name, Some(owner(stat)), Some(group(stat)), AtFlags::SYMLINK_NOFOLLOW)?;
    // There is no descriptor of a device without opening the device, and changing a mode by name follows links: an O_PATH
    // descriptor's magic link is exact.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(target, name, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&node)?;
    if FileType::from_raw_mode(found.st_mode) != kind || found.st_rdev != stat.st_rdev {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a node was exchanged while it was copied"));
    }
    rustix::fs::chmod(magic(node.as_fd()), mode)?;
    nameless_attributes(source, target, name, stat)
}

fn magic(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn owner(stat: &Stat) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(stat.st_uid)
}

fn group(stat: &Stat) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(stat.st_gid)
}

fn times(stat: &Stat) -> Timestamps {
    let nanoseconds = |n| i64::try_from(n).unwrap_or_default();
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: nanoseconds(stat.st_atime_nsec) },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds(stat.st_mtime_nsec) },
    }
}

/// Owner, attributes and times of what has no descriptor to write through: symlinks and devices.
fn nameless_attributes(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> io::Result<()> {
    rustix::fs::chownat(target, name, Some(owner(stat)), Some(group(stat)), AtFlags::SYMLINK_NOFOLLOW)?;
    let beside =
        |directory: BorrowedFd<'_>| Path::new(&magic(directory)).join(OsStr::from_bytes(name.to_bytes()));
    let (from, to) = (beside(source), beside(target));
    let mut names = Vec::new();
    match list_of(|buffer| rustix::fs::llistxattr(&from, buffer), &mut names) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::PERM) => names.clear(),
        Err(e) => return Err(e.into()),
    }
    let mut value = Vec::new();
    for attribute in wanted(&names) {
        list_of(|buffer| rustix::fs::lgetxattr(&from, attribute, buffer), &mut value)?;
        tolerate(rustix::fs::lsetxattr(&to, attribute, &value, XattrFlags::empty()))?;
    }
    rustix::fs::utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Owner, mode, attributes and times, in the order in which one does not undo another: a change of owner clears set-id bits and file
/// capabilities.
fn attributes(stat: &Stat, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::fchown(to, Some(owner(stat)), Some(group(stat)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut names = Vec::new();
    match list_of(|buffer| rustix::fs::flistxattr(from, buffer), &mut names) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP) => names.clear(),
        Err(e) => return Err(e.into()),
    }
    let mut value = Vec::new();
    for attribute in wanted(&names) {
        list_of(|buffer| rustix::fs::fgetxattr(from, attribute, buffer), &mut value)?;
        tolerate(rustix::fs::fsetxattr(to, attribute, &value, XattrFlags::empty()))?;
    }
    rustix::fs::futimens(to, &times(stat))?;
    Ok(())
}

/// Reads a list or a value into a buffer that holds the longest there is.
fn list_of(
    read: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>,
    into: &mut Vec<u8>,
) -> rustix::io::Result<()> {
    into.resize(XATTR_SIZE_MAX, 0);
    let size = read(into)?;
    into.truncate(size);
    Ok(())
}

/// Attributes that belong to the file and not to the filesystem it is on or to the host's policy.
fn wanted(names: &[u8]) -> impl Iterator<Item = &OsStr> {
    let foreign: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"security.selinux"];
    names
        .split(|b| *b == 0)
        .filter(move |name| !name.is_empty() && !foreign.iter().any(|f| name.starts_with(f)))
        .map(OsStr::from_bytes)
}

/// A target filesystem without such attributes keeps the file without them.
fn tolerate(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    /// A container that has the volume mounted exchanges what is copied for links to the host's directory, all the time.
    #[test]
    fn a_container_that_swaps_directories_for_links_gets_nothing_of_the_host() {
        const ROUNDS: usize = 40;
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        for name in ["image/sub/deep", "host/deep", "volume"] {
            std::fs::create_dir_all(place(name)).unwrap();
        }
        for n in 0..20 {
            std::fs::write(place("image/sub/deep").join(format!("f{n}")), "image").unwrap();
            std::fs::hard_link(
                place("image/sub/deep").join(format!("f{n}")),
                place("image").join(format!("z{n}")),
            )
            .unwrap();
        }
        std::fs::write(place("host/deep/f0"), "host").unwrap();
        std::os::unix::fs::symlink(place("host"), place("link")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (link, sub) = (place("link"), place("volume/sub"));
                while !stop.load(Ordering::Relaxed) {
                    // Fails while there is no such directory, which is part of the race.
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(rustix::fs::CWD, &link, rustix::fs::CWD, &sub, flags).ok();
                }
            });
            let image = open(&place("image"));
            for _ in 0..ROUNDS {
                let volume = open(&place("volume"));
                // An error is a fair outcome.
                drop(copy(image.as_fd(), volume.as_fd()));
                for entry in std::fs::read_dir(place("volume")).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_file() && !path.is_symlink() {
                        assert_ne!(std::fs::read_to_string(&path).unwrap(), "host", "{}", path.display());
                    }
                }
                in_root::remove_contents(&volume).ok();
            }
            stop.store(true, Ordering::Relaxed);
        });
        let names: Vec<_> =
            std::fs::read_dir(place("host/deep")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["f0"]);
        assert_eq!(std::fs::read_to_string(place("host/deep/f0")).unwrap(), "host");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(place("host/deep/f0")).unwrap().nlink(), 1);
    }

    #[test]
    fn a_tree_that_is_too_deep_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (image, volume) = (dir.path().join("image"), dir.path().join("volume"));
        std::fs::create_dir(&image).unwrap();
        std::fs::create_dir(&volume).unwrap();
        let mut here = in_root::InRoot::open_root(&image).unwrap();
        for _ in 0..MAX_DEPTH + 2 {
            here = in_root::InRoot::from_fd(here.create_dir_all(Path::new("d"), Mode::RWXU).unwrap());
        }
        let error = copy(open(&image).as_fd(), open(&volume).as_fd()).unwrap_err();
        assert!(error.to_string().ends_with("the tree is too deep"));
        assert!(error.to_string().len() < 4 * MAX_DEPTH, "each level is named once");
    }
}
