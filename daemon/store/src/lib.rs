// SPDX-License-Identifier: Apache-2.0
//! The metadata index: sled 0.34.7, and nothing else of the engine knows sled.
//!
//! What sled was measured to do, and what is done about it here:
//!
//! - `flush` alone is not durable (it ends in `sync_file_range`): 27 of 54 power cuts lost acknowledged
//!   writes. So one function, [`durable::Files::sync`], always follows it with a sync of sled's files, and only
//!   the commit thread calls either.
//! - A torn `snap.*.generating` or a flipped byte makes `open` panic. So it runs where a panic is caught
//!   ([`open`]); a folder that stays unreadable is moved aside, and [`Store::was_rebuilt`] tells
//!   the owner of the facts to write them again from its files. Nothing may live only here.
//! - A failed write leaves sled in an unknown state: the first one is kept and answers every later commit
//!   until the store is opened anew.
//! - Values past some 128 KiB leak and its default cache is 1 GiB: values are bounded, the cache is small.
//!
//! ```text
//! <path>/            locked (flock on the directory) by whoever has it open
//!   conf, db, blobs/, snap.*      sled's own
//! <path>.broken-<unix seconds>    an unreadable folder, moved aside; the newest two are kept
//! ```
//!
//! All trees live in one sled tree under the prefix `<tree>\0`, so that a [`Batch`] over several of them is
//! one atomic batch of sled's.
#![forbid(unsafe_code)]

mod commit;
mod durable;
mod open;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_domain::{Error, Result};

/// The largest value in bytes.
pub const MAX_VALUE: usize = 64 * 1024;
/// The longest key in bytes, without its tree.
pub const MAX_KEY: usize = 1024;
/// The longest tree name in bytes.
pub const MAX_TREE_NAME: usize = 64;

const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// A record: its key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// An open store. Clones share it; the last one dropped closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    // Dropped first: joins the commit thread, which holds the database too.
    committer: commit::Committer,
    db: sled::Db,
    moved_aside: Option<PathBuf>,
    // Dropped last, so that nobody opens the folder before sled has let go of it.
    _lock: open::DirLock,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("moved_aside", &self.inner.moved_aside).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at `path` (a folder, made if missing, mode 0700), mending what can be mended.
    ///
    /// # Errors
    ///
    /// Conflict when another process has it open; Internal when the folder cannot be made or written
    /// (permissions, a full disk): such a folder is left as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let opened = open::open(path.as_ref())?;
        let committer = commit::Committer::start(opened.db.clone(), opened.files)?;
        Ok(Self {
            inner: Arc::new(Inner {
                committer,
                db: opened.db,
                moved_aside: opened.moved_aside,
                _lock: opened.lock,
            }),
        })
    }

    /// Whether the folder was unreadable and this is a new, empty store: its facts must be written again.
    #[must_use]
    pub fn was_rebuilt(&self) -> bool {
        self.inner.moved_aside.is_some()
    }

    /// Where the unreadable folder was moved.
    #[must_use]
    pub fn moved_aside(&self) -> Option<&Path> {
        self.inner.moved_aside.as_deref()
    }

    /// The records under this name. A name is 1 to 64 bytes and has no NUL.
    ///
    /// # Errors
    ///
    /// Invalid when the name breaks that rule.
    pub fn tree(&self, name: &str) -> Result<Tree> {
        Ok(Tree { db: self.inner.db.clone(), prefix: tree_prefix(name)? })
    }

    /// Writes all of `batch` or none of it; on return it survives a power cut. Blocks: one flush and one sync,
    /// shared with the commits that arrive meanwhile.
    ///
    /// # Errors
    ///
    /// Invalid for a key or value over its bound; Internal when writing failed, now or ever since open.
    pub fn commit(&self, batch: Batch) -> Result<()> {
        let ops = batch.checked()?;
        if ops.is_empty() {
            return Ok(());
        }
        self.inner.committer.commit(ops)
    }
}

/// Records under one name; a cheap handle. Reads see what was committed.
#[derive(Debug, Clone)]
pub struct Tree {
    db: sled::Db,
    prefix: Vec<u8>,
}

impl Tree {
    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// Internal when the store cannot be read.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let key = prefixed(&self.prefix, key.as_ref());
        guarded("reading the index", || Ok(self.db.get(key)?.map(|value| value.to_vec())))
    }

    /// The records whose keys start with `prefix`, in order of their keys.
    ///
    /// # Errors
    ///
    /// Internal when the store cannot be read.
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<Record>> {
        let from = prefixed(&self.prefix, prefix.as_ref());
        guarded("scanning the index", || {
            self.db
                .scan_prefix(from)
                .map(|record| {
                    let (key, value) = record?;
                    Ok((key[self.prefix.len()..].to_vec(), value.to_vec()))
                })
                .collect()
        })
    }

    /// Every record, in order of the keys.
    ///
    /// # Errors
    ///
    /// Internal when the store cannot be read.
    pub fn iter(&self) -> Result<Vec<Record>> {
        self.scan_prefix([])
    }
}

/// Changes to be made together.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    ops: Vec<(String, Vec<u8>, Option<Vec<u8>>)>,
}

/// A checked change: the whole key, and the value or its removal.
type Op = (Vec<u8>, Option<Vec<u8>>);

impl Batch {
    /// No change yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a record.
    pub fn put(&mut self, tree: &str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.ops.push((tree.to_owned(), key.into(), Some(value.into())));
        self
    }

    /// Removes a record, if it is there.
    pub fn delete(&mut self, tree: &str, key: impl Into<Vec<u8>>) -> &mut Self {
        self.ops.push((tree.to_owned(), key.into(), None));
        self
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn checked(self) -> Result<Vec<Op>> {
        self.ops
            .into_iter()
            .map(|(tree, key, value)| {
                if key.len() > MAX_KEY {
                    return Err(Error::invalid(format!(
                        "a key of {} bytes in {tree:?}: {MAX_KEY} at most",
                        key.len()
                    )));
                }
                if let Some(value) = value.as_ref().filter(|v| v.len() > MAX_VALUE) {
                    return Err(Error::invalid(format!(
                        "a value of {} bytes in {tree:?}: {MAX_VALUE} at most",
                        value.len()
                    )));
                }
                Ok((prefixed(&tree_prefix(&tree)?, &key), value))
            })
            .collect()
    }
}

fn tree_prefix(name: &str) -> Result<Vec<u8>> {
    if name.is_empty() || name.len() > MAX_TREE_NAME || name.contains('\0') {
        return Err(Error::invalid(format!("invalid tree name {name:?}")));
    }
    let mut prefix = name.as_bytes().to_vec();
    prefix.push(0);
    Ok(prefix)
}

fn prefixed(prefix: &[u8], key: &[u8]) -> Vec<u8> {
    [prefix, key].concat()
}

/// Runs sled code, which may panic on damaged pages.
fn guarded<T>(doing: &str, run: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::internal(doing).because(error)),
        Err(panic) => Err(Error::internal(doing).because(panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "the database code panicked".to_owned())
}

#[cfg(test)]
mod tests;
