// SPDX-License-Identifier: Apache-2.0
//! Small files that are there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What has happened when a write returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The file survives the death of the process.
    Process,
    /// The file survives a power cut.
    Disk,
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Replaces `path` by a file with these bytes and this mode. Readers see the old file or the new one.
///
/// # Errors
///
/// The directory is missing or full; `path` is as it was then.
pub fn write(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let directory = parent(path)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{serial}.tmp", std::process::id()));
    let temporary = directory.join(temporary);
    let attempt = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        if durability == Durability::Disk {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)
    };
    if let Err(error) = attempt() {
        match std::fs::remove_file(&temporary) {
            // The first error is the one to tell; a leftover has a name that says what it is.
            Ok(()) | Err(_) => return Err(error),
        }
    }
    if durability == Durability::Disk { sync_directory(&directory) } else { Ok(()) }
}

/// Makes the names in a directory survive a power cut.
///
/// # Errors
///
/// The disk failed.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether a file name is a leftover of an interrupted [`write`].
#[must_use]
pub fn is_leftover(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

fn parent(path: &Path) -> io::Result<PathBuf> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_path_buf() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_write_replaces_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        write(&path, b"one, long", 0o600, Durability::Disk).unwrap();
        write(&path, b"two", 0o640, Durability::Process).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("x"), "").unwrap();
        assert!(write(&path, b"file over a directory", 0o600, Durability::Process).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(is_leftover(".config.json.1-2.tmp") && !is_leftover("config.json"));
    }
}
