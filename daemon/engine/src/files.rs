// SPDX-License-Identifier: Apache-2.0
//! Small files that must be whole: written beside their place and renamed into it.
//!
//! A rename survives `kill -9` of anything at once. For the power cut, [`Syncer`] fsyncs what was written a
//! moment later, many files in one go, so that no answer waits for a disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use berth_domain::{Error, Result};
use berth_sys::atomic::{self, Durability};

/// Writes a file whole.
///
/// # Errors
///
/// The disk is full or the directory gone; what was there before is still there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    atomic::write(path, bytes, mode, Durability::Process).map_err(|error| Error::io("writing", path, error))
}

/// Fsyncs files behind the answers, in groups.
#[derive(Debug, Clone)]
pub(crate) struct Syncer {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    files: BTreeSet<PathBuf>,
    closing: bool,
    idle: bool,
}

/// How long files gather: well below the second that is promised.
const GATHER: Duration = Duration::from_millis(100);

impl Syncer {
    /// Starts its thread.
    ///
    /// # Errors
    ///
    /// No thread can be started.
    pub(crate) fn start() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("record-sync".into())
            .spawn(move || thread.run())
            .map_err(|error| Error::internal("starting the thread that syncs records").because(error))?;
        Ok(Self { shared })
    }

    /// Has a file (and its place in its directory) on disk soon.
    pub(crate) fn soon(&self, path: PathBuf) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).files.insert(path);
        self.shared.wake.notify_all();
    }

    /// Syncs what is queued and ends the thread.
    pub(crate) fn close(&self) {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.closing = true;
        self.shared.wake.notify_all();
        while !(queue.files.is_empty() && queue.idle) {
            queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.idle = queue.files.is_empty();
            while queue.files.is_empty() {
                self.wake.notify_all();
                if queue.closing {
                    return;
                }
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.idle = false;
            if !queue.closing {
                let gathered = self.wake.wait_timeout_while(queue, GATHER, |queue| !queue.closing);
                queue = gathered.unwrap_or_else(PoisonError::into_inner).0;
            }
            let files = std::mem::take(&mut queue.files);
            drop(queue);
            sync_all(&files);
        }
    }
}

fn sync_all(files: &BTreeSet<PathBuf>) {
    let mut directories = BTreeSet::new();
    for path in files {
        sync_one(path);
        if let Some(parent) = path.parent() {
            directories.insert(parent);
        }
    }
    for directory in &directories {
        sync_one(directory);
    }
}

fn sync_one(path: &Path) {
    match File::open(path).and_then(|file| file.sync_all()) {
        Ok(()) => {}
        // Removed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(path = %path.display(), %error, "a record could not be synced to disk"),
    }
}

/// Runs blocking work on a thread made for it.
///
/// # Errors
///
/// What the work says.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("blocking work ended early").because(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::fs;

    use super::*;

    #[test]
    fn files_are_whole_and_nothing_is_left_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_whole(&path, b"one", 0o600).unwrap();
        write_whole(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = write_whole(&dir.path().join("gone/x"), b"", 0o600).expect_err("no such directory");
        assert!(error.chain().contains("gone/x"), "{}", error.chain());
    }

    #[test]
    fn closing_waits_for_what_is_queued() {
        let dir = tempfile::tempdir().unwrap();
        let syncer = Syncer::start().unwrap();
        for n in 0..10 {
            let path = dir.path().join(n.to_string());
            write_whole(&path, b"x", 0o600).unwrap();
            syncer.soon(path);
        }
        syncer.soon(dir.path().join("never there"));
        syncer.close();
        assert!(syncer.shared.queue.lock().unwrap().files.is_empty());
    }
}
