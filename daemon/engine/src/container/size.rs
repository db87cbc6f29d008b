// SPDX-License-Identifier: Apache-2.0
//! How much a container's files take, for `ps -s` and `inspect -s`.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use berth_domain::{Error, Result};
use berth_sys::in_root;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::Engine;
use crate::files::blocking;

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What the container wrote.
    pub rw: u64,
    /// That and its image.
    pub root_fs: u64,
}

impl Engine {
    /// Measures. Walks the container's upper directory.
    ///
    /// # Errors
    ///
    /// No such container; its files cannot be read.
    pub async fn container_size(&self, name: &str) -> Result<Sizes> {
        let now = self.index.resolve(name)?.now();
        let image = self.backends.images.facts(&now.image).map_or(0, |facts| facts.size);
        let upper = now.paths.upper.clone();
        let rw = blocking(move || usage(&upper)).await?;
        Ok(Sizes { rw, root_fs: rw + image })
    }
}

/// Each level holds a descriptor; what lies deeper does not count.
const MAX_DEPTH: usize = 512;

/// Bytes of the files beneath a directory, hard links once. What vanishes meanwhile does not count.
fn usage(root: &Path) -> Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(root, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(0),
        Err(error) => return Err(Error::io("opening", root, error)),
    };
    beneath(&directory, 0, &mut HashSet::new()).map_err(|error| Error::io("measuring", root, error))
}

/// A container at work moves and links what is walked through here: nothing is reached but from a held directory, and no
/// link is followed, for what a container points at is not what it wrote.
fn beneath(directory: &OwnedFd, depth: usize, seen: &mut HashSet<u64>) -> io::Result<u64> {
    let mut total = 0_u64;
    for entry in in_root::listing(directory)? {
        let (name, _) = entry?;
        let stat = match rustix::fs::statat(directory, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth < MAX_DEPTH => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(directory, &*name, flags, Mode::empty()) {
                    Ok(child) => total = total.saturating_add(beneath(&child, depth + 1, seen)?),
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            FileType::RegularFile if stat.st_nlink == 1 || seen.insert(stat.st_ino) => {
                total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
            }
            _ => {}
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::fs;

    use super::*;

    #[test]
    fn hard_links_count_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/a"), [0; 100]).unwrap();
        fs::hard_link(dir.path().join("d/a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        assert_eq!(usage(dir.path()).unwrap(), 100);
        assert_eq!(usage(&dir.path().join("gone")).unwrap(), 0);
    }
}
