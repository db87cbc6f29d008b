// SPDX-License-Identifier: Apache-2.0
//! Opening, and what to try when sled will not.
//!
//! ```text
//! lock the folder -> remove *.generating -> open and read every record
//!                                             | panic or damage
//!                                           remove snap.* (sled replays its log instead), again
//!                                             | panic or damage
//!                                           move the folder aside, open an empty one
//! ```
//! A host error (no space, no permission, no descriptors) is none of these: moving the folder would not help.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_domain::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::durable::{Files, sync_dir};
use crate::{CACHE_BYTES, panic_text};

/// How long sled may take to open. A damaged log can leave it waiting for an IO thread that died;
/// 30,000 records open in 0.16 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for a lock, and how long between two looks.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Unreadable folders kept for whoever wants to look at them.
const KEEP_BROKEN: usize = 2;

/// The folder's lock, held while the store is open.
#[derive(Debug)]
pub(crate) struct DirLock {
    _dir: File,
}

pub(crate) struct Opened {
    pub(crate) db: sled::Db,
    pub(crate) files: Files,
    pub(crate) moved_aside: Option<PathBuf>,
    pub(crate) lock: DirLock,
}

enum Failure {
    /// The host refused; the store may be whole.
    Host(Error),
    /// The store cannot be read.
    Damaged(String),
}

pub(crate) fn open(path: &Path) -> Result<Opened> {
    let lock = make_and_lock(path)?;
    remove_matching(path, &|name| name.starts_with("snap.") && name.ends_with(".generating"))?;
    let first = match attempt(path) {
        Ok(db) => return finish(path, db, None, lock),
        Err(Failure::Host(error)) => return Err(error),
        Err(Failure::Damaged(why)) => why,
    };
    tracing::warn!(path = %path.display(), error = %first, "the index does not open; trying without its snapshots");
    if remove_matching(path, &|name| name.starts_with("snap."))? > 0 {
        match attempt(path) {
            Ok(db) => return finish(path, db, None, lock),
            Err(Failure::Host(error)) => return Err(error),
            Err(Failure::Damaged(_)) => {}
        }
    }
    let aside = move_aside(path)?;
    tracing::error!(
        path = %path.display(), moved_to = %aside.display(), error = %first,
        "the index is damaged and was moved aside; it will be rebuilt from the files it indexes"
    );
    drop(lock);
    let lock = make_and_lock(path)?;
    match attempt(path) {
        Ok(db) => finish(path, db, Some(aside), lock),
        Err(Failure::Host(error)) => Err(error),
        Err(Failure::Damaged(why)) => Err(Error::internal("opening a new index").because(why)),
    }
}

fn finish(path: &Path, db: sled::Db, moved_aside: Option<PathBuf>, lock: DirLock) -> Result<Opened> {
    let mut files = Files::open(path)?;
    files.sync(&db)?;
    sync_dir(path)?;
    Ok(Opened { db, files, moved_aside, lock })
}

fn make_and_lock(path: &Path) -> Result<DirLock> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                sync_dir(parent)?;
            }
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(Error::io("making", path, e)),
    }
    let dir = File::open(path).map_err(|e| Error::io("opening", path, e))?;
    match patiently(|| flock(&dir, FlockOperation::NonBlockingLockExclusive), |e| *e == Errno::WOULDBLOCK) {
        Ok(()) => Ok(DirLock { _dir: dir }),
        Err(Errno::WOULDBLOCK) => {
            Err(Error::conflict(format!("the index {} is in use by another process", path.display())))
        }
        Err(e) => Err(Error::io("locking", path, e)),
    }
}

/// Tries again for a while where `is_locked`: a lock outlives its holder by as long as a child that it forked needs to
/// reach exec, and a restarted engine may start before the old one has quite ended.
#[allow(clippy::disallowed_methods)] // A lock that is let go of tells nobody.
fn patiently<T, E>(mut act: impl FnMut() -> Result<T, E>, is_locked: impl Fn(&E) -> bool) -> Result<T, E> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match act() {
            Err(e) if is_locked(&e) && Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
}

/// Opens sled on a thread of its own and reads every record, so that damage shows now and not in some request.
fn attempt(path: &Path) -> Result<sled::Db, Failure> {
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let (tell, answer) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("store-open".into())
        .spawn(move || {
            let opened = patiently(|| config.open(), is_sleds_lock).and_then(|db| {
                for record in db.iter() {
                    record?;
                }
                Ok(db)
            });
            // Nobody listens only when the deadline passed.
            drop(tell.send(opened));
        })
        .map_err(|e| Failure::Host(Error::internal("starting a thread").because(e)))?;
    match answer.recv_timeout(PATIENCE) {
        Ok(Ok(db)) => {
            // It has sent its answer; what is left of it cannot fail.
            drop(thread.join());
            Ok(db)
        }
        Ok(Err(error)) => {
            drop(thread.join());
            Err(classify(path, error))
        }
        Err(RecvTimeoutError::Timeout) => Err(Failure::Damaged("it did not open in time".into())),
        Err(RecvTimeoutError::Disconnected) => Err(Failure::Damaged(match thread.join() {
            Err(panic) => panic_text(&*panic),
            Ok(()) => "it did not open".into(),
        })),
    }
}

fn classify(path: &Path, error: sled::Error) -> Failure {
    match error {
        // sled reports its own lock as ErrorKind::Other; everything that the kernel said has an errno.
        sled::Error::Io(e) if e.raw_os_error().is_some() || e.kind() == io::ErrorKind::Other => {
            Failure::Host(Error::io("opening the index", path, e))
        }
        other => Failure::Damaged(other.to_string()),
    }
}

/// sled locks its file besides; its error has no errno.
fn is_sleds_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.kind() == io::ErrorKind::Other && e.to_string().contains("could not acquire lock"))
}

fn remove_matching(path: &Path, matches: &dyn Fn(&str) -> bool) -> Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(path).map_err(|e| Error::io("listing", path, e))? {
        let entry = entry.map_err(|e| Error::io("listing", path, e))?;
        if entry.file_name().to_str().is_some_and(matches) {
            fs::remove_file(entry.path()).map_err(|e| Error::io("removing", entry.path(), e))?;
            removed += 1;
        }
    }
    if removed > 0 {
        sync_dir(path)?;
    }
    Ok(removed)
}

fn move_aside(path: &Path) -> Result<PathBuf> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let marker = format!("{name}.broken-");
    let mut older: Vec<PathBuf> = fs::read_dir(parent)
        .map_err(|e| Error::io("listing", parent, e))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&marker)))
        .collect();
    older.sort();
    for stale in older.iter().rev().skip(KEEP_BROKEN - 1) {
        if let Err(error) = fs::remove_dir_all(stale) {
            tracing::warn!(path = %stale.display(), %error, "an old damaged index stays");
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut to = parent.join(format!("{marker}{now:011}"));
    let mut n = 0;
    while to.exists() {
        n += 1;
        to = parent.join(format!("{marker}{now:011}-{n}"));
    }
    fs::rename(path, &to).map_err(|e| Error::io("moving aside", path, e))?;
    sync_dir(parent)?;
    Ok(to)
}
