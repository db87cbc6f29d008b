// SPDX-License-Identifier: Apache-2.0
//! Paths beneath a root that somebody else fills: resolved once, by the kernel, to a descriptor, with the root as `/`. A
//! symlink, however placed and whenever swapped, never leads out.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A directory that is `/` for what is looked up in it.
#[derive(Debug)]
pub struct InRoot {
    root: OwnedFd,
}

/// The kernel answers `EAGAIN` when a rename or mount elsewhere raced with a `..` of the walk; it means "try again".
const RETRIES: usize = 128;

impl InRoot {
    /// The directory at a path of the host.
    ///
    /// # Errors
    ///
    /// Not a directory.
    pub fn open_root(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// The directory of a descriptor.
    #[must_use]
    pub fn from_fd(root: OwnedFd) -> Self {
        Self { root }
    }

    /// Opens a path; symlinks are followed inside the root, magic links never. Close-on-exec.
    ///
    /// # Errors
    ///
    /// As `open(2)`; `ELOOP` for a magic link.
    pub fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(self.root.as_fd(), relative, flags, mode, how)?)
    }

    /// A descriptor (`O_PATH`) of whatever is at a path, a last symlink followed.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn resolve(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH, Mode::empty())
    }

    /// `mkdir -p`: answers the directory (`O_PATH`). Directories it makes have this mode.
    ///
    /// # Errors
    ///
    /// `..` in the path; something on the way is no directory.
    pub fn create_dir_all(&self, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
        let directory = OFlags::PATH | OFlags::DIRECTORY;
        let mut walked = PathBuf::new();
        let mut here = self.open(&walked, directory, Mode::empty())?;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::RootDir | Component::CurDir => continue,
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "`..` in a path to be made"));
                }
            };
            walked.push(name);
            here = match self.open(&walked, directory, Mode::empty()) {
                Ok(next) => next,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    match rustix::fs::mkdirat(&here, name, mode) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(e.into()),
                    }
                    // What was just made is opened as itself: a link put in its place meanwhile is refused.
                    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                    openat2(here.as_fd(), Path::new(name), directory, Mode::empty(), how)?
                }
                Err(e) => return Err(e),
            };
        }
        Ok(here)
    }
}

impl AsFd for InRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// `openat2(2)`, close-on-exec, tried again while the walk is disturbed.
///
/// # Errors
///
/// As `openat2(2)`.
pub fn openat2(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    how: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    for _ in 0..RETRIES {
        match rustix::fs::openat2(directory, path, flags | OFlags::CLOEXEC, mode, how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Names in a directory (not `.` and `..`) with their types as the directory has them (may be unknown), as they are read:
/// there may be more than memory holds.
///
/// # Errors
///
/// The directory cannot be read.
pub fn listing(directory: impl AsFd) -> io::Result<impl Iterator<Item = io::Result<(CString, FileType)>>> {
    Ok(Dir::read_from(directory)?.filter_map(|entry| match entry {
        Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => None,
        Ok(entry) => Some(Ok((entry.file_name().to_owned(), entry.file_type()))),
        Err(error) => Some(Err(error.into())),
    }))
}

/// Whether there is nothing in a directory.
///
/// # Errors
///
/// The directory cannot be read.
pub fn is_empty(directory: impl AsFd) -> io::Result<bool> {
    Ok(listing(directory)?.next().transpose()?.is_none())
}

/// Below this depth a directory is moved to the top of the tree being removed, so that a deep tree takes no more descriptors than this.
const MAX_DEPTH: usize = 64;

/// Removes a name and all beneath it; false if there was nothing. Never follows a symlink and never leaves the filesystem: a mount in
/// the way is an error (`EXDEV`) and keeps its content.
///
/// # Errors
///
/// Something cannot be removed; what came before it is gone.
pub fn remove_all(directory: impl AsFd, name: &OsStr) -> io::Result<bool> {
    let name = CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    if name.as_bytes().contains(&b'/') || matches!(name.as_bytes(), b"" | b"." | b"..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain name"));
    }
    let directory = directory.as_fd();
    match rustix::fs::unlinkat(directory, &*name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR) => {}
        // An immutable file, or a message queue: POSIX lets unlink of a directory fail so as well, Linux does not.
        Err(e) => return Err(e.into()),
    }
    let Some(top) = open_for_removal(directory, &name)? else { return Ok(false) };
    let mut removal = Removal { top: top.as_fd(), moved: 0 };
    // Moving deep directories up adds entries to the top while it is emptied, so it is read until it is empty.
    while removal.empty(top.as_fd(), 0)? {}
    unlink_directory(directory, &name)?;
    Ok(true)
}

/// Removes all that a directory holds, and keeps it.
///
/// # Errors
///
/// As [`remove_all`].
pub fn remove_contents(directory: impl AsFd) -> io::Result<()> {
    for entry in listing(directory.as_fd())? {
        remove_all(directory.as_fd(), OsStr::from_bytes(entry?.0.as_bytes()))?;
    }
    Ok(())
}

/// [`remove_all`] of a path of the host whose parent directory is trusted.
///
/// # Errors
///
/// As [`remove_all`].
pub fn remove_path(path: &Path) -> io::Result<bool> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    match InRoot::open_root(parent) {
        Ok(parent) => remove_all(parent, name),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    moved: u64,
}

impl Removal<'_> {
    /// One pass over a directory; true if there was anything in it.
    fn empty(&mut self, directory: BorrowedFd<'_>, depth: usize) -> io::Result<bool> {
        let mut found = false;
        for entry in listing(directory)? {
            let (name, kind) = &entry?;
            found = true;
            if *kind != FileType::Directory {
                match rustix::fs::unlinkat(directory, &**name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    Err(Errno::ISDIR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            if depth >= MAX_DEPTH {
                self.move_to_top(directory, name)?;
                continue;
            }
            if let Some(child) = open_for_removal(directory, name)? {
                while self.empty(child.as_fd(), depth + 1)? {}
                unlink_directory(directory, name)?;
            }
        }
        Ok(found)
    }

    fn move_to_top(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            let target = format!(".removing-{}", self.moved);
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(directory, name, self.top, target.as_str(), flags) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn open_for_removal(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(directory, Path::new(OsStr::from_bytes(name.to_bytes())), flags, Mode::empty(), how) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn unlink_directory(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_and_magic_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/passwd"), "inside").unwrap();
        std::fs::write(dir.path().join("outside"), "outside").unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("../../../etc/passwd", root.join("relative")).unwrap();
        symlink("../outside", root.join("out")).unwrap();
        let root = InRoot::open_root(&root).unwrap();
        for path in ["absolute", "/relative", "../../etc/passwd"] {
            let fd = root.open(Path::new(path), OFlags::RDONLY, Mode::empty()).unwrap();
            assert_eq!(std::io::read_to_string(std::fs::File::from(fd)).unwrap(), "inside", "{path}");
        }
        assert_eq!(root.resolve(Path::new("out")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let proc = InRoot::open_root(Path::new("/proc")).unwrap();
        let refused = proc.resolve(Path::new("self/root")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }

    #[test]
    fn directories_are_made_where_links_lead_inside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        std::fs::create_dir_all(path.join("real")).unwrap();
        symlink("/real", path.join("link")).unwrap();
        symlink("/nowhere", path.join("dangling")).unwrap();
        let root = InRoot::open_root(&path).unwrap();
        root.create_dir_all(Path::new("/link/a/b"), Mode::from_raw_mode(0o755)).unwrap();
        assert!(path.join("real/a/b").is_dir());
        assert!(root.create_dir_all(Path::new("dangling/x"), Mode::RWXU).is_err());
        assert!(root.create_dir_all(Path::new("a/../b"), Mode::RWXU).is_err());
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn removal_spares_what_links_point_at() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::create_dir_all(victim.join("x")).unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("a/f"), "").unwrap();
        symlink(&victim, tree.join("a/b/link")).unwrap();
        assert!(remove_path(&tree).unwrap());
        assert!(!tree.exists() && victim.join("x").exists());
        assert!(!remove_path(&tree).unwrap());
        symlink(&victim, &tree).unwrap();
        assert!(remove_path(&tree).unwrap());
        assert!(victim.join("x").exists());
        assert!(remove_all(InRoot::open_root(dir.path()).unwrap(), OsStr::new("..")).is_err());
    }

    #[test]
    fn a_tree_deeper_than_the_walk_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let mut here = InRoot::open_root(dir.path()).unwrap();
        for _ in 0..MAX_DEPTH * 8 {
            let made = here.create_dir_all(Path::new("d"), Mode::RWXU).unwrap();
            here = InRoot::from_fd(made);
        }
        drop(here);
        assert!(remove_path(&dir.path().join("d")).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_mount_in_the_way_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("tree/mnt");
        std::fs::create_dir_all(&inner).unwrap();
        crate::mount::tmpfs(&inner, 1 << 20, 0o755).unwrap();
        std::fs::write(inner.join("precious"), "").unwrap();
        let error = remove_path(&dir.path().join("tree")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::XDEV.raw_os_error()));
        assert!(inner.join("precious").exists());
        crate::mount::detach(&inner).unwrap();
    }
}
