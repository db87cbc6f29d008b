// SPDX-License-Identifier: Apache-2.0
//! A volume on disk. Every change is a rename of something complete: after a power cut a volume is there with all that was
//! acknowledged, or it is not there.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};
use berth_sys::atomic::{self, Durability};
use berth_sys::{in_root, quota};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::store::Volume;

const DATA: &str = "_data";
const META: &str = "meta.json";
const FILLING: &str = ".filling";
const MAKING: &str = ".making-";
const REMOVING: &str = ".removing-";
pub(crate) const LOCAL: &str = "local";

/// Deepest directory that is measured.
const MAX_DEPTH: usize = 1024;

/// What `meta.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Version of this shape.
    schema: u32,
    created_at: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    /// `None` is the local one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    driver: Option<String>,
    /// The project of its quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    project: Option<u32>,
}

/// Where a new volume's content is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made<'a> {
    pub(crate) driver: &'a str,
    /// Bytes that it may take.
    pub(crate) size: Option<u64>,
}

const SCHEMA: u32 = 1;

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new().mode(mode).create(path).map_err(|e| Error::io("making", path, e))
}

/// The directory with all volumes: traversable, because containers with other users mount what is beneath it, and unreadable.
pub(crate) fn open_root(root: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o701).create(root);
    made.map_err(|e| Error::io("making", root, e))
}

/// The volumes that are there; what an interrupted change left is removed on a thread of its own.
pub(crate) fn read_all(root: &Path) -> Result<Vec<Volume>> {
    let mut volumes = Vec::new();
    let mut leftovers = Vec::new();
    for entry in std::fs::read_dir(root).map_err(|e| Error::io("reading", root, e))? {
        let entry = entry.map_err(|e| Error::io("reading", root, e))?;
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if name.starts_with('.') {
            leftovers.push(path);
            continue;
        }
        match read(&path, &name) {
            Ok(volume) => {
                // Moved now and removed later: the next one to fill the volume may come before that.
                let filling = path.join(FILLING);
                if filling.exists() {
                    let away = unique(root, REMOVING)?;
                    std::fs::rename(&filling, &away).map_err(|e| Error::io("renaming", &filling, e))?;
                    leftovers.push(away);
                }
                volumes.push(volume);
            }
            Err(error) => tracing::error!(volume = name, error = error.chain(), "skipping a damaged volume"),
        }
    }
    std::thread::spawn(move || {
        for path in leftovers {
            if let Err(error) = in_root::remove_path(&path) {
                tracing::warn!(path = %path.display(), %error, "removing a leftover");
            }
        }
    });
    Ok(volumes)
}

fn read(directory: &Path, name: &str) -> Result<Volume> {
    let path = directory.join(META);
    let bytes = std::fs::read(&path).map_err(|e| Error::io("reading", &path, e))?;
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|e| Error::internal(format!("reading {}", path.display())).because(e))?;
    if record.schema > SCHEMA {
        return Err(Error::internal(format!("{} was written by a newer version", path.display())));
    }
    let driver = record.driver.unwrap_or_else(|| LOCAL.to_owned());
    Ok(Volume {
        name: name.to_owned(),
        mountpoint: if driver == LOCAL { directory.join(DATA) } else { PathBuf::new() },
        driver,
        scope: LOCAL.to_owned(),
        status: None,
        project: record.project,
        created_at: record.created_at,
        labels: record.labels,
        options: record.options,
    })
}

/// A name that no earlier daemon used either: what it left may be on its way out still.
fn unique(root: &Path, prefix: &str) -> Result<PathBuf> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal(format!("no random bytes: {e}")))?;
    Ok(root.join(format!("{prefix}{:016x}", u64::from_ne_bytes(bytes))))
}

/// Makes a volume; durable when it returns.
pub(crate) fn make(
    root: &Path,
    name: &str,
    made: &Made<'_>,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
) -> Result<Volume> {
    let place = root.join(name);
    let making = unique(root, MAKING)?;
    let created_at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let driver = (made.driver != LOCAL).then(|| made.driver.to_owned());
    let project = std::cell::Cell::new(None);
    let attempt = || {
        make_directory(&making, 0o701)?;
        // The umask of the daemon is not the volume's.
        set_mode(&making, 0o701)?;
        if driver.is_none() {
            make_directory(&making.join(DATA), 0o755)?;
            set_mode(&making.join(DATA), 0o755)?;
            project.set(made.size.map(|size| bound(&making.join(DATA), size)).transpose()?);
        }
        let project = project.get();
        let record = Record { schema: SCHEMA, created_at, labels, options, driver, project };
        let json =
            serde_json::to_vec(&record).map_err(|e| Error::internal("writing meta.json").because(e))?;
        let path = making.join(META);
        atomic::write(&path, &json, 0o600, Durability::Disk).map_err(|e| Error::io("writing", &path, e))?;
        rename_new(&making, &place)?;
        atomic::sync_directory(root).map_err(|e| Error::io("syncing", root, e))
    };
    let attempted: Result<()> = attempt();
    if let Err(error) = attempted {
        if let Err(also) = in_root::remove_path(&making) {
            tracing::warn!(path = %making.display(), error = %also, "removing a half-made volume");
        }
        lift(root, name, project.get());
        return Err(error);
    }
    read(&place, name)
}

/// Bounds what a new directory may take; the project that it is in from now on.
///
/// # Errors
///
/// Invalid where the file system has no project quotas.
pub fn bound(directory: &Path, size: u64) -> Result<u32> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::Unsupported => Error::invalid(format!(
            "quota size requested but no quota support on {}: {error}",
            directory.display()
        )),
        _ => Error::io("setting a quota on", directory, error),
    };
    loop {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).map_err(|e| Error::internal(format!("no random bytes: {e}")))?;
        // High, where no administrator counts; and nobody else's.
        let project = u32::from_ne_bytes(bytes) >> 1 | 1 << 30;
        if quota::usage(directory, project).map_err(failed)? != (0, 0) {
            continue;
        }
        quota::set_project(directory, project).map_err(failed)?;
        quota::limit(directory, project, size).map_err(failed)?;
        return Ok(project);
    }
}

/// Forgets the bound of a volume that was removed.
pub(crate) fn lift_quota(root: &Path, volume: &Volume) {
    lift(root, &volume.name, volume.project);
}

fn lift(root: &Path, name: &str, project: Option<u32>) {
    let Some(project) = project else { return };
    if let Err(error) = quota::limit(root, project, 0) {
        tracing::warn!(volume = name, %error, "lifting a volume's quota");
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|e| Error::io("changing the mode of", path, e))
}

fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags)
        .map_err(|e| Error::io("renaming to", to, e))
}

/// Takes a volume out of the way, durably; answers where its content is, for [`discard`].
pub(crate) fn take_away(root: &Path, name: &str) -> Result<PathBuf> {
    let (place, away) = (root.join(name), unique(root, REMOVING)?);
    match std::fs::rename(&place, &away) {
        Ok(()) => {}
        // Somebody removed it by hand; so it is gone.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("removing", &place, e)),
    }
    atomic::sync_directory(root).map_err(|e| Error::io("syncing", root, e))?;
    Ok(away)
}

/// Frees the space of what was taken away. A failure costs space until the next start, and no more.
pub(crate) fn discard(away: &Path) {
    if let Err(error) = in_root::remove_path(away) {
        tracing::error!(path = %away.display(), %error, "freeing the space of a removed volume");
    }
}

/// A place beside `_data` to fill, empty.
pub(crate) fn open_filling(volume: &Path, project: Option<u32>) -> Result<PathBuf> {
    let path = volume.join(FILLING);
    in_root::remove_path(&path).map_err(|e| Error::io("removing", &path, e))?;
    make_directory(&path, 0o700)?;
    if let Some(project) = project {
        quota::set_project(&path, project).map_err(|e| Error::io("setting the quota of", &path, e))?;
    }
    Ok(path)
}

/// Puts what was filled in place of the empty `_data`.
pub(crate) fn finish_filling(volume: &Path, filling: BorrowedFd<'_>) -> Result<()> {
    let (from, to) = (volume.join(FILLING), volume.join(DATA));
    // The content must not be younger on disk than its name.
    rustix::fs::syncfs(filling).map_err(|e| Error::io("syncing", &from, e))?;
    std::fs::rename(&from, &to).map_err(|e| Error::io("renaming to", &to, e))?;
    atomic::sync_directory(volume).map_err(|e| Error::io("syncing", volume, e))
}

/// Bytes of all files beneath a directory, hard links counted once; links are not followed.
pub(crate) fn size(path: &Path) -> Result<u64> {
    let directory =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::io("opening", path, e))?;
    let mut seen = std::collections::HashSet::new();
    measure(directory.as_fd(), 0, &mut seen).map_err(|e| Error::io("measuring", path, e))
}

fn measure(
    directory: BorrowedFd<'_>,
    depth: usize,
    seen: &mut std::collections::HashSet<(u64, u64)>,
) -> std::io::Result<u64> {
    if depth > MAX_DEPTH {
        return Err(rustix::io::Errno::NAMETOOLONG.into());
    }
    let mut total = 0_u64;
    for entry in in_root::listing(directory)? {
        let (name, _) = entry?;
        let stat = match rustix::fs::statat(directory, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // A container at work.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let once = kind == FileType::Directory || stat.st_nlink == 1;
        if once || seen.insert((stat.st_dev, stat.st_ino)) {
            total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or_default());
        }
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(directory, &*name, flags, Mode::empty()) {
                Ok(child) => total = total.saturating_add(measure(child.as_fd(), depth + 1, seen)?),
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(total)
}
