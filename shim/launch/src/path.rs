// SPDX-License-Identifier: Apache-2.0
//! Paths inside a container's root: resolved once, to a descriptor, with links read as the container
//! would read them.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};
use crate::mounts::filesystem;
use crate::sys::PROC_SUPER_MAGIC;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// What a missing path is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Directory,
    File,
}

/// Opens a path beneath `root` as a process whose `/` is `root` would, save that magic links (those of
/// /proc that lead anywhere) are refused.
pub(crate) fn open_in_root(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let relative = relative(path);
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(&root, &relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename somewhere raced with a `..`; the kernel asks to be asked again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens (`O_PATH`) what a path beneath `root` names, making what is missing of it.
pub(crate) fn ensure_in_root(root: impl AsFd, path: &Path, missing: Missing) -> Result<OwnedFd> {
    match open_in_root(&root, path, OFlags::PATH) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOENT) => make_in_root(root.as_fd(), path, missing),
        Err(errno) => Err(Error::invalid(format!("{}: {errno}", path.display()))),
    }
}

/// Walks component by component. Every step is taken from a descriptor and never follows a link by
/// itself, so that whoever swaps directories meanwhile gains nothing.
fn make_in_root(root: impl AsFd, path: &Path, missing: Missing) -> Result<OwnedFd> {
    let at = |name: &OsStr, resolved: &Path| format!("{}", resolved.join(name).display());
    let mut pending: Vec<OsString> = components(path);
    let mut resolved = PathBuf::from("/");
    let mut here = open_in_root(&root, &resolved, OFlags::PATH | OFlags::DIRECTORY).context(|| "/")?;
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if filesystem(&here)? == PROC_SUPER_MAGIC {
            // Nothing can be made there, and what its links seem to say is not where they lead.
            return Err(Error::invalid(format!("{}: {}", path.display(), Errno::NOENT)));
        }
        if name == ".." {
            resolved.pop();
            here = open_in_root(&root, &resolved, OFlags::PATH | OFlags::DIRECTORY)
                .context(|| resolved.display().to_string())?;
            continue;
        }
        let last = pending.is_empty();
        let found = statat(&here, &name, AtFlags::SYMLINK_NOFOLLOW);
        match found.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Symlink) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::invalid(format!("{}: too many symbolic links", path.display())));
                }
                let target = readlinkat(&here, &name, Vec::new()).context(|| at(&name, &resolved))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.has_root() {
                    resolved = PathBuf::from("/");
                    here =
                        open_in_root(&root, &resolved, OFlags::PATH | OFlags::DIRECTORY).context(|| "/")?;
                }
                pending.extend(components(&target));
                continue;
            }
            Ok(_) => {}
            Err(Errno::NOENT) => make(&here, &name, last && missing == Missing::File)
                .context(|| format!("make {}", at(&name, &resolved)))?,
            Err(errno) => return Err(Error::invalid(format!("{}: {errno}", at(&name, &resolved)))),
        }
        let directory = if last { OFlags::empty() } else { OFlags::DIRECTORY };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | directory;
        here = openat(&here, &name, flags, Mode::empty()).context(|| at(&name, &resolved))?;
        resolved.push(&name);
    }
    Ok(here)
}

fn make(directory: impl AsFd, name: &OsStr, file: bool) -> rustix::io::Result<()> {
    let made = if file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(directory, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    } else {
        mkdirat(directory, name, Mode::from_raw_mode(0o755))
    };
    match made {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Components in reverse, so that the next one is popped.
fn components(path: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect();
    names.reverse();
    names
}

fn relative(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let start = bytes.iter().position(|byte| *byte != b'/').unwrap_or(bytes.len());
    match &bytes[start..] {
        [] => PathBuf::from("."),
        rest => PathBuf::from(OsStr::from_bytes(rest)),
    }
}

/// An absolute path without `.`, `..`, and repeated slashes, by its text alone.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{CWD, open};
    use std::os::unix::fs::symlink;

    fn check_make(setup: impl Fn(&Path), path: &str, missing: Missing, want: &str) {
        let dir = tempfile::tempdir().unwrap();
        let root_path = dir.path().join("root");
        std::fs::create_dir(&root_path).unwrap();
        setup(&root_path);
        let root = open(&root_path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let fd = ensure_in_root(&root, Path::new(path), missing).unwrap();
        let got = rustix::fs::fstat(&fd).unwrap();
        let expected = rustix::fs::statat(CWD, root_path.join(want), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!((got.st_ino, got.st_dev), (expected.st_ino, expected.st_dev), "{path}");
        let entries: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(entries.len(), 1, "{path} made something outside the root");
    }

    #[test]
    fn makes_what_is_missing() {
        check_make(|_| {}, "/a/b/c", Missing::Directory, "a/b/c");
        check_make(|_| {}, "/a/f", Missing::File, "a/f");
        check_make(|_| {}, "/../../x", Missing::Directory, "x");
        check_make(|root| std::fs::create_dir(root.join("a")).unwrap(), "/a/../b", Missing::Directory, "b");
    }

    #[test]
    fn links_stay_inside() {
        let link = |target: &'static str| move |root: &Path| symlink(target, root.join("l")).unwrap();
        check_make(link("/run/x"), "/l/y", Missing::Directory, "run/x/y");
        check_make(link("../../../out"), "/l/f", Missing::File, "out/f");
        check_make(link("/../../out"), "/l", Missing::File, "out");
    }

    #[test]
    fn link_loops_end() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let root = open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        assert!(ensure_in_root(&root, Path::new("/a/x"), Missing::Directory).is_err());
    }

    #[test]
    fn magic_links_are_refused() {
        let root = open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let errno = open_in_root(&root, Path::new("/proc/self/cwd"), OFlags::PATH).unwrap_err();
        assert_eq!(errno, Errno::LOOP);
    }

    #[test]
    fn cleaning() {
        for (path, want) in [("/a/../b", "/b"), ("//a/./b/", "/a/b"), ("/..", "/"), ("a", "/a"), ("", "/")] {
            assert_eq!(clean(Path::new(path)), Path::new(want), "{path:?}");
        }
    }
}
