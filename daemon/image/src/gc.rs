// SPDX-License-Identifier: Apache-2.0
//! Garbage: files that no record reaches and nobody holds.
//!
//! Reached are, from each image: its config, its manifest, the blobs and layers that these list, and its own parents
//! directory; from each digest: the index that it is of. A sweep has the writer's lock, so that records do not change under it; pulls
//! in flight hold what they count on ([`crate::pins`]).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use berth_domain::{Digest, Error, ImageId, Result};
use rustix::fs::{FlockOperation, flock};

use crate::catalog::State;
use crate::layout::{io_error, remove_dir, sync_dir};
use crate::pins::Held;
use crate::{Images, Inner};

/// Threads that remove trees at a time, at the most: beyond these they would wait for the file system's journal.
const REMOVERS: usize = 4;

/// Interrupted downloads are kept this long for another attempt.
const PARTIAL_KEPT: Duration = Duration::from_secs(3 * 24 * 3600);

impl Images {
    /// Lets go of images that were removed while containers stood on them, where `in_use` finds no container any more,
    /// and removes what nothing needs. To be called when a container was removed, and after start. Blocks.
    ///
    /// # Errors
    ///
    /// Internal when files cannot be listed or moved.
    pub fn collect(&self, in_use: impl Fn(&ImageId) -> bool) -> Result<()> {
        let state = self.inner.catalog.state();
        let retired = |state: &State| -> Vec<ImageId> {
            state.images.keys().filter(|id| state.is_retired(id) && !in_use(id)).cloned().collect()
        };
        if retired(&state).is_empty() {
            return Ok(());
        }
        let mut leaving = Vec::new();
        self.inner.catalog.writer().change(|state| {
            for id in retired(state) {
                if let Some(guard) = self.inner.pins.leave(&id) {
                    leaving.push(guard);
                    state.forget(&id);
                }
            }
            Ok(())
        })?;
        drop(leaving);
        self.inner.sweep()
    }
}

impl Inner {
    /// Removes blobs and layers that nothing reaches.
    pub(crate) fn sweep(&self) -> Result<()> {
        let mut trash = Vec::new();
        {
            let writer = self.catalog.writer();
            let state = writer.state();
            let blobs = reached_blobs(&state);
            self.sweep_dir(&self.layout.blobs(), &|name| digest(name), &|d| blobs.contains(d), &mut trash)?;
            let layers: HashSet<&Digest> = state.images.values().flat_map(|image| &image.layers).collect();
            self.sweep_dir(&self.layout.layers(), &|name| digest(name), &|d| layers.contains(d), &mut trash)?;
            let of_image = |name: &str| name.strip_suffix(".parents").and_then(digest);
            let has_image = |id: &Digest| state.images.contains_key(id);
            self.sweep_dir(&self.layout.layers(), &of_image, &has_image, &mut trash)?;
        }
        self.sweep_partials()?;
        if trash.is_empty() {
            return Ok(());
        }
        sync_dir(&self.layout.staging())?;
        // Without the lock: trees of many files take their time, so that all processors share them.
        let next = AtomicUsize::new(0);
        let threads =
            std::thread::available_parallelism().map_or(1, NonZero::get).min(trash.len()).min(REMOVERS);
        std::thread::scope(|scope| {
            let work = || {
                while let Some(path) = trash.get(next.fetch_add(1, Ordering::Relaxed)) {
                    remove(path);
                }
            };
            for _ in 1..threads {
                // Without a further one it takes longer, and that is all.
                drop(std::thread::Builder::new().name("remove".into()).spawn_scoped(scope, work));
            }
            work();
        });
        Ok(())
    }

    /// Downloads that nobody went on with, in a daemon that does not restart for long.
    fn sweep_partials(&self) -> Result<()> {
        let staging = self.layout.staging();
        for name in names(&staging)? {
            if name.to_str().and_then(|n| n.strip_suffix(".partial")).and_then(digest).is_none() {
                continue;
            }
            let path = staging.join(&name);
            let Ok(file) = File::open(&path) else { continue };
            let old = file.metadata().is_ok_and(|meta| !is_fresh(&meta));
            // Whoever writes to it holds the lock, and whoever waits for it looks whether it is still there.
            if old && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_file(&path).map_err(|e| Error::io("removing", &path, e))?;
            }
        }
        Ok(())
    }

    fn sweep_dir(
        &self,
        dir: &Path,
        key: &dyn Fn(&str) -> Option<Digest>,
        is_reached: &dyn Fn(&Digest) -> bool,
        trash: &mut Vec<PathBuf>,
    ) -> Result<()> {
        for name in names(dir)? {
            let Some(digest) = name.to_str().and_then(key).filter(|d| !is_reached(d)) else { continue };
            let to = self.layout.fresh("trash");
            let from = dir.join(&name);
            let moved = self.pins.unless_held(&Held::Content(digest), || fs::rename(&from, &to));
            match moved {
                None => {}
                Some(Ok(())) => trash.push(to),
                Some(Err(e)) => return Err(Error::io("removing", &from, e)),
            }
        }
        Ok(())
    }

    /// Empties staging at start, except for downloads that can be resumed.
    pub(crate) fn clean_staging(&self) -> Result<()> {
        let staging = self.layout.staging();
        for name in names(&staging)? {
            let path = staging.join(&name);
            let meta = fs::symlink_metadata(&path).map_err(|e| Error::io("reading", &path, e))?;
            if meta.is_dir() {
                remove_dir(&path)?;
                continue;
            }
            let resumable = name.to_str().and_then(|n| n.strip_suffix(".partial")).and_then(digest).is_some();
            if !(resumable && is_fresh(&meta)) {
                fs::remove_file(&path).map_err(|e| Error::io("removing", &path, e))?;
            }
        }
        Ok(())
    }
}

/// Whether it was written to lately.
fn is_fresh(meta: &fs::Metadata) -> bool {
    let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_none_or(|age| age < PARTIAL_KEPT)
}

fn remove(path: &Path) {
    let removed = if path.is_dir() {
        remove_dir(path)
    } else {
        fs::remove_file(path).map_err(|e| io_error("removing", path, e))
    };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), error = %error.chain(), "left in staging until the next start");
    }
}

fn reached_blobs(state: &State) -> HashSet<Digest> {
    let mut reached: HashSet<Digest> = state.records.targets().collect();
    for image in state.images.values() {
        reached.insert(image.id.clone());
        reached.insert(image.manifest.digest.clone());
        reached.extend(image.layer_blobs.iter().map(|blob| blob.digest.clone()));
    }
    reached
}

fn names(dir: &Path) -> Result<Vec<OsString>> {
    fs::read_dir(dir)
        .and_then(|listing| listing.map(|entry| entry.map(|e| e.file_name())).collect())
        .map_err(|e| Error::io("listing", dir, e))
}

fn digest(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}
