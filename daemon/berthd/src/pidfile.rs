// SPDX-License-Identifier: Apache-2.0
//! One daemon per data root, and its process id in a file for those who want it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};
use berth_sys::lock::FileLock;

/// The right to a data root, held until the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct RootLock {
    _lock: FileLock,
}

impl RootLock {
    /// Takes `<data-root>/lock` and writes our process id into it.
    ///
    /// # Errors
    ///
    /// Another daemon has it; the message names its process.
    pub(crate) fn take(data_root: &Path) -> Result<Self> {
        let path = data_root.join("lock");
        let Some(lock) = FileLock::try_acquire(&path).map_err(|e| Error::io("locking", &path, e))? else {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            let holder = match holder.trim() {
                "" => "another process".to_owned(),
                pid => format!("process {pid}"),
            };
            return Err(Error::conflict(format!(
                "data root {} is in use by {holder}: one daemon per data root",
                data_root.display()
            )));
        };
        std::fs::write(&path, format!("{}\n", std::process::id()))
            .map_err(|e| Error::io("writing", &path, e))?;
        Ok(Self { _lock: lock })
    }
}

/// A file with our process id, removed when dropped.
#[derive(Debug)]
pub(crate) struct PidFile(PathBuf);

impl PidFile {
    /// Writes it.
    ///
    /// # Errors
    ///
    /// It names a process that still runs; it cannot be written.
    pub(crate) fn write(path: &Path) -> Result<Self> {
        let old = std::fs::read_to_string(path).unwrap_or_default();
        if let Ok(pid) = old.trim().parse::<u32>() {
            if pid != std::process::id() && Path::new("/proc").join(pid.to_string()).exists() {
                return Err(Error::conflict(format!(
                    "pid file {} names process {pid}, which still runs: stop it or remove the file",
                    path.display()
                )));
            }
        }
        let write = || -> std::io::Result<()> {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            let mut file = std::fs::File::create(path)?;
            writeln!(file, "{}", std::process::id())
        };
        write().map_err(|e| Error::io("writing", path, e))?;
        Ok(Self(path.to_path_buf()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), error = %e, "the pid file was not removed");
        }
    }
}
