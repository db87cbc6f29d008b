// SPDX-License-Identifier: Apache-2.0
//! `ContainerArchive` and `ContainerArchiveInfo`: a file or directory of a container, as a tar archive or only described.
//!
//! A path names what its last component is, a symlink as such, unless it ends with `/` or `/.`. It is looked up once,
//! by the kernel, with the container's root as `/`; from then on there are only descriptors.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_domain::{Error, Result};
use berth_sys::in_root::InRoot;
use bytes::Bytes;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::Engine;
use crate::container::view::{Purpose, View};
use crate::files::blocking;
use crate::tarball;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last component of the path as asked.
    pub name: String,
    /// In bytes.
    pub size: i64,
    /// Permissions and kind, as Go's `fs.FileMode` has them.
    pub mode: u32,
    /// When it was changed.
    pub modified_at: jiff::Timestamp,
    /// Where a symlink leads in the container, all links followed; empty for anything else.
    pub link_target: String,
}

/// Pieces of an archive. An error is the last: the archive is not whole.
pub type ArchivePieces = mpsc::Receiver<io::Result<Bytes>>;

/// Pieces ahead of a slow reader.
const AHEAD: usize = 4;
/// Symlinks followed on one path, as the kernel has it.
const SYMLINKS_MAX: usize = 40;

impl Engine {
    /// What is at a path of a container.
    ///
    /// # Errors
    ///
    /// No such container; nothing is there.
    pub async fn container_archive_info(self: &Arc<Self>, name: &str, path: &str) -> Result<PathStat> {
        let handle = self.index.resolve(name)?;
        let asked = Asked::new(name, path)?;
        let view = self.view(&handle, Purpose::Read).await?;
        blocking(move || Ok(find(&view, &asked)?.1)).await
    }

    /// What is at a path of a container, and an archive of it.
    ///
    /// # Errors
    ///
    /// No such container; nothing is there.
    pub async fn container_archive(
        self: &Arc<Self>,
        name: &str,
        path: &str,
    ) -> Result<(PathStat, ArchivePieces)> {
        let handle = self.index.resolve(name)?;
        let asked = Asked::new(name, path)?;
        let view = self.view(&handle, Purpose::Read).await?;
        let (view, file, stat) = blocking(move || {
            let (file, stat) = find(&view, &asked)?;
            Ok((view, file, stat))
        })
        .await?;
        let (sender, pieces) = mpsc::channel(AHEAD);
        let base = stat.name.clone();
        drop(tokio::task::spawn_blocking(move || {
            tarball::send(sender, &file, base.as_bytes(), tarball::Of::Files, view.ids());
            // Its mounts stay until the last byte was read.
            drop(view);
        }));
        self.container_event(&handle.now(), "archive-path", &[]);
        Ok((stat, pieces))
    }
}

/// A path as a client wrote it.
#[derive(Debug)]
pub(crate) struct Asked {
    container: String,
    path: String,
    /// Cleaned of `.`, `..` and doubled slashes, absolute.
    pub(crate) clean: PathBuf,
    /// It ended with `/` or `/.`: a last symlink is followed, and a directory is meant.
    directory: bool,
    /// What Go's `filepath.Base` says of it.
    base: String,
}

impl Asked {
    pub(crate) fn new(container: &str, path: &str) -> Result<Self> {
        if path.is_empty() {
            return Err(Error::invalid("bad parameter \"path\": cannot be empty"));
        }
        if path.contains('\0') {
            return Err(Error::invalid("bad parameter \"path\": it has a NUL byte in it"));
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let dot = path == "." || path.ends_with("/.");
        let base = match (dot, parts.last()) {
            (true, _) => ".",
            (false, Some(last)) => last,
            (false, None) => "/",
        };
        Ok(Self {
            container: container.to_owned(),
            path: path.to_owned(),
            base: base.to_owned(),
            directory: dot || path.ends_with('/'),
            clean: Path::new("/").join(parts.join("/")),
        })
    }

    /// The error that looking it up ended with.
    pub(crate) fn refused(&self, error: io::Error) -> Error {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => Error::not_found(format!(
                "Could not find the file {} in container {}",
                self.path, self.container
            )),
            Some(Errno::NOTDIR) => Error::invalid(format!("{}: not a directory", self.path)),
            Some(Errno::LOOP) => Error::invalid(format!("{}: too many levels of symbolic links", self.path)),
            Some(Errno::NAMETOOLONG) => Error::invalid(format!("{}: file name too long", self.path)),
            _ => Error::io("opening", format!("{} in container {}", self.path, self.container), error),
        }
    }
}

fn find(view: &View, asked: &Asked) -> Result<(OwnedFd, PathStat)> {
    let root = view.root();
    let flags =
        if asked.directory { OFlags::PATH | OFlags::DIRECTORY } else { OFlags::PATH | OFlags::NOFOLLOW };
    let file = root.open(&asked.clean, flags, Mode::empty()).map_err(|e| asked.refused(e))?;
    let stat = rustix::fs::fstat(&file).map_err(|e| asked.refused(e.into()))?;
    let link_target = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        leads_to(root, &asked.clean).to_string_lossy().into_owned()
    } else {
        String::new()
    };
    let modified_at = jiff::Timestamp::new(stat.st_mtime, i32::try_from(stat.st_mtime_nsec).unwrap_or(0))
        .unwrap_or_default();
    let described = PathStat {
        name: asked.base.clone(),
        size: stat.st_size,
        mode: go_mode(&stat),
        modified_at,
        link_target,
    };
    Ok((file, described))
}

/// Go's `fs.FileMode` of a file.
fn go_mode(stat: &Stat) -> u32 {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 23), (0o2000, 22), (0o1000, 20)]
        .into_iter()
        .filter(|(bit, _)| stat.st_mode & bit != 0)
        .fold(0, |mode, (_, shift)| mode | 1 << shift);
    kind | special | (stat.st_mode & 0o777)
}

/// Where a path leads, as text for the client: existing or not. Nothing is opened by it.
fn leads_to(root: &InRoot, path: &Path) -> PathBuf {
    let parts = |path: &Path| -> VecDeque<Vec<u8>> {
        path.as_os_str().as_bytes().split(|b| *b == b'/').map(<[u8]>::to_vec).collect()
    };
    let mut todo = parts(path);
    let mut at = PathBuf::from("/");
    let mut followed = 0;
    while let Some(part) = todo.pop_front() {
        match &*part {
            b"" | b"." => continue,
            b".." => {
                at.pop();
                continue;
            }
            part => at.push(OsStr::from_bytes(part)),
        }
        let Ok(fd) = root.open(&at, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) else { continue };
        // Only symlinks can be read so.
        let Ok(target) = rustix::fs::readlinkat(&fd, c"", Vec::new()) else { continue };
        followed += 1;
        if followed > SYMLINKS_MAX {
            break;
        }
        let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
        at.pop();
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        let mut next = parts(&target);
        next.append(&mut todo);
        todo = next;
    }
    at
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn paths_are_named_as_go_names_them() {
        let check = |path: &str, clean: &str, base: &str, directory: bool| {
            let asked = Asked::new("c", path).unwrap();
            assert_eq!(
                (asked.clean.to_str().unwrap(), &*asked.base, asked.directory),
                (clean, base, directory)
            );
        };
        check("/etc/passwd", "/etc/passwd", "passwd", false);
        check("etc//x/../y", "/etc/y", "y", false);
        check("/etc/", "/etc", "etc", true);
        check("/etc/.", "/etc", ".", true);
        check("/", "/", "/", true);
        check("/../..", "/", "/", false);
        Asked::new("c", "").expect_err("empty");
    }

    #[test]
    fn links_are_followed_as_text_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../../../b/x", dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("/c", dir.path().join("b")).unwrap();
        let root = InRoot::open_root(dir.path()).unwrap();
        assert_eq!(leads_to(&root, Path::new("/a")), Path::new("/c/x"));
        std::os::unix::fs::symlink("l", dir.path().join("l")).unwrap();
        leads_to(&root, Path::new("/l"));
    }
}
