// SPDX-License-Identifier: Apache-2.0
//! The one place where sled's writes are made durable.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};

use crate::guarded;

/// sled's files of one store.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
    // `db` is one file for the life of the store: sled never renames it.
    db: File,
    // Files that sled writes once and then only reads or removes.
    synced: HashSet<OsString>,
}

impl Files {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let db = root.join("db");
        let file = File::open(&db).map_err(|e| Error::io("opening", &db, e))?;
        Ok(Self { root: root.to_owned(), db: file, synced: HashSet::new() })
    }

    /// Flushes sled and syncs its files: both, always.
    pub(crate) fn sync(&mut self, database: &sled::Db) -> Result<()> {
        guarded("flushing the index", || database.flush().map(|_| ()))?;
        self.db.sync_data().map_err(|e| Error::io("syncing", self.root.join("db"), e))?;
        let root = self.root.clone();
        self.sync_new(&root, &|name| {
            name == "conf" || (name.starts_with("snap.") && !name.ends_with(".generating"))
        })?;
        self.sync_new(&root.join("blobs"), &|_| true)
    }

    fn sync_new(&mut self, dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let listing = match fs::read_dir(dir) {
            Ok(listing) => listing,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("listing", dir, e)),
        };
        let mut grown = false;
        for entry in listing {
            let entry = entry.map_err(|e| Error::io("listing", dir, e))?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(wanted) || self.synced.contains(&name) {
                continue;
            }
            match File::open(entry.path()).and_then(|file| file.sync_all()) {
                Ok(()) => {}
                // sled removes old snapshots and blobs as it goes.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("syncing", entry.path(), e)),
            }
            if self.synced.len() > 4096 {
                self.synced.clear();
            }
            self.synced.insert(name);
            grown = true;
        }
        if grown { sync_dir(dir) } else { Ok(()) }
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(|e| Error::io("syncing", dir, e))
}
