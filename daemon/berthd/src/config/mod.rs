// SPDX-License-Identifier: Apache-2.0
//! Settings: what flags and `daemon.json` say, put together and checked.
//!
//! ```text
//! flags ──▶ Given ─┐
//!                  ├─ a key in both is an error ──▶ Settings (defaults filled in, values checked)
//! file  ──▶ Given ─┘
//! ```
//!
//! Flags and keys have Docker's names. A key of Docker's that Berth knows and does not need (`live-restore`:
//! always on) is accepted with a note in the log; one that would promise something Berth does not do is an error
//! that says so; any other key is an error that names it.

mod file;
mod flags;
mod given;
mod keys;
mod settings;

use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};

pub(crate) use flags::{Action, Flags};
pub(crate) use given::Given;
pub(crate) use settings::{Host, LogFormat, LogLevel, Settings};

/// Where the file is looked for when no flag says.
pub(crate) const DEFAULT_FILE: &str = "/etc/berth/daemon.json";

/// Settings and how they came about.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The settings in force.
    pub(crate) settings: Settings,
    /// What deserves a line in the log: keys without effect, odd values.
    pub(crate) notes: Vec<String>,
}

/// Reads the file and puts it together with the flags. A missing file is an error only when it was named.
///
/// # Errors
///
/// Every mistake in either, with the key that has it.
pub(crate) fn load(flags: &Given, file: Option<&Path>) -> Result<Loaded> {
    let path = file.map_or_else(|| PathBuf::from(DEFAULT_FILE), Path::to_path_buf);
    let mut notes = Vec::new();
    let wrap = |e: Error| e.context(format!("unable to configure the daemon with file {}", path.display()));
    let from_file = match file::read(&path, &mut notes) {
        Ok(given) => given,
        Err(file::Trouble::Missing) if file.is_none() => Given::default(),
        Err(file::Trouble::Missing) => {
            return Err(Error::invalid(format!("configuration file {} does not exist", path.display())));
        }
        Err(file::Trouble::Bad(e)) => return Err(wrap(e)),
    };
    let merged = Given::merge(flags, &from_file).map_err(wrap)?;
    let settings = Settings { certs_dirs: certs_dirs(&path), ..Settings::from_given(&merged)? };
    Ok(Loaded { settings, notes })
}

/// Registries' certificates: beside the configuration file, so that a daemon with one of its own has its own of these too;
/// then where they are for all.
fn certs_dirs(file: &Path) -> Vec<PathBuf> {
    const FOR_ALL: [&str; 2] = ["/etc/berth/certs.d", "/etc/docker/certs.d"];
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let mut dirs: Vec<PathBuf> = file.parent().map(|dir| dir.join("certs.d")).into_iter().collect();
    for dir in FOR_ALL.map(PathBuf::from) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}

#[cfg(test)]
mod tests;
