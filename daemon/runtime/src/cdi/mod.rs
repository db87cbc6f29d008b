// SPDX-License-Identifier: Apache-2.0
//! Devices by name (`--device vendor.com/class=name`, `--gpus`): the Container Device Interface.
//!
//! What such a device means for a container is said by spec files in a few directories, which vendors' tools write. They
//! are read when somebody asks, not watched: a container that asks for no device pays nothing, and what was written a
//! moment ago counts. Of two files that have the same device, the one in the later directory wins; in the same directory
//! neither does.

mod edits;
mod file;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};
use oci_spec::runtime::Spec;

use self::file::{Edits, File};

pub use self::edits::Owner;
pub use self::request::{DeviceRequest, requests};

/// Where spec files are unless the daemon is told otherwise.
pub const DEFAULT_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Most files of one directory that are read.
const MAX_FILES: usize = 1024;
/// The kind whose devices `--gpus` stands for.
const GPUS: &str = "nvidia.com/gpu";

/// What the files in the directories say at one moment.
#[derive(Debug, Default)]
pub struct Cdi {
    files: Vec<(PathBuf, File)>,
    /// Qualified name to file and place in it.
    devices: BTreeMap<String, (usize, usize)>,
    /// By file or directory.
    troubles: Vec<(PathBuf, String)>,
}

impl Cdi {
    /// Reads the directories, the one that wins last. One that is not there has no files.
    #[must_use]
    pub fn read(dirs: &[PathBuf]) -> Self {
        let mut found = Self::default();
        let mut priorities: BTreeMap<String, usize> = BTreeMap::new();
        for (priority, dir) in dirs.iter().enumerate() {
            let paths = found.list(dir);
            let mut twice: Vec<String> = Vec::new();
            for path in paths {
                let file = match file::read(&path) {
                    Ok(file) => file,
                    Err(why) => {
                        found.troubles.push((path, why));
                        continue;
                    }
                };
                let number = found.files.len();
                for (place, device) in file.devices.iter().enumerate() {
                    let name = format!("{}={}", file.kind, device.name);
                    let before = priorities.insert(name.clone(), priority);
                    let other = found.devices.insert(name.clone(), (number, place));
                    if before == Some(priority) {
                        let other = other.and_then(|(number, _)| found.files.get(number));
                        let other = other.map(|(path, _)| path.clone()).unwrap_or_default();
                        let why = format!("conflicting device {name:?} (specs {path:?}, {other:?})");
                        found.troubles.extend([(path.clone(), why.clone()), (other, why)]);
                        twice.push(name);
                    }
                }
                found.files.push((path, file));
            }
            for name in twice {
                found.devices.remove(&name);
            }
        }
        found
    }

    fn list(&mut self, dir: &Path) -> Vec<PathBuf> {
        let listing = match std::fs::read_dir(dir) {
            Ok(listing) => listing,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                self.troubles.push((dir.to_owned(), error.to_string()));
                return Vec::new();
            }
        };
        let is_spec = |path: &PathBuf| {
            path.extension().is_some_and(|extension| extension == "json" || extension == "yaml")
        };
        let mut paths: Vec<PathBuf> =
            listing.filter_map(|entry| Some(entry.ok()?.path())).filter(is_spec).collect();
        paths.retain(|path| !path.is_dir());
        paths.sort();
        if paths.len() > MAX_FILES {
            paths.truncate(MAX_FILES);
            self.troubles.push((dir.to_owned(), format!("more than {MAX_FILES} spec files")));
        }
        paths
    }

    /// Qualified names of all devices, ordered.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// Files that cannot be used, and why.
    pub fn troubles(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.troubles.iter().map(|(path, why)| (path.as_path(), why.as_str()))
    }

    /// Whether `--gpus` can be served.
    #[must_use]
    pub fn has_gpus(&self) -> bool {
        self.names().any(|name| name.strip_prefix(GPUS).is_some_and(|rest| rest.starts_with('=')))
    }

    /// Edits a container's spec so that it has these devices; answers further groups for its process.
    ///
    /// # Errors
    ///
    /// A device that no file has, or that the host does not have.
    pub fn inject(&self, names: &[String], spec: &mut Spec, owner: Owner) -> Result<Vec<u32>> {
        let mut unknown: Vec<&str> = Vec::new();
        let mut files: Vec<usize> = Vec::new();
        let mut all: Vec<&Edits> = Vec::new();
        for name in names {
            let found = self.devices.get(name).and_then(|(number, place)| {
                let (_, file) = self.files.get(*number)?;
                Some((*number, file, file.devices.get(*place)?))
            });
            let Some((number, file, device)) = found else {
                unknown.push(name);
                continue;
            };
            if !files.contains(&number) {
                files.push(number);
                all.push(&file.container_edits);
            }
            all.push(&device.container_edits);
        }
        let failed = |why: String| Error::internal(format!("CDI device injection failed: {why}"));
        if !unknown.is_empty() {
            for (path, why) in &self.troubles {
                tracing::warn!(path = %path.display(), why, "a CDI spec file cannot be used");
            }
            return Err(failed(format!("unresolvable CDI devices {}", unknown.join(", "))));
        }
        let mut groups = Vec::new();
        for edits in all {
            let more = edits::apply(spec, edits, owner)
                .map_err(|why| failed(format!("failed to inject devices: {why}")))?;
            groups.extend(more);
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(groups)
    }
}
