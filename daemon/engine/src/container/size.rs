// SPDX-License-Identifier: Apache-2.0
//! How much a container's files take, for `ps -s` and `inspect -s`.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use berth_domain::{Error, Result};

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

/// Bytes of the files beneath a directory, hard links once. What vanishes meanwhile does not count.
fn usage(root: &Path) -> Result<u64> {
    let mut seen = HashSet::new();
    let mut total = 0;
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("reading", &dir, error)),
        };
        for entry in entries.flatten() {
            // Never follows a link: what a container points at is not what it wrote.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                todo.push(entry.path());
            } else if metadata.is_file() && (metadata.nlink() == 1 || seen.insert(metadata.ino())) {
                total += metadata.len();
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
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
