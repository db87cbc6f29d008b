// SPDX-License-Identifier: Apache-2.0
//! Network records on disk: `data-root/networks/<id>.json`, each written whole, then renamed into place.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use berth_domain::{Error, NetworkId, Result};

use crate::NetworkRecord;

/// Layout written by this daemon.
pub(crate) const VERSION: u32 = 1;

/// The directory of records.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn open(data_root: &Path) -> Result<Self> {
        let dir = data_root.join("networks");
        fs::create_dir_all(&dir).map_err(|e| Error::io("making", &dir, e))?;
        Ok(Self { dir })
    }

    /// All that can be read. One that cannot is left where it is, and logged: one bad file must not take the others' networks away.
    pub(crate) fn load(&self) -> Result<Vec<NetworkRecord>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| Error::io("reading", &self.dir, e))? {
            let path = entry.map_err(|e| Error::io("reading", &self.dir, e))?.path();
            if path.extension().is_some_and(|e| e == "tmp") {
                fs::remove_file(&path).map_err(|e| Error::io("removing", &path, e))?;
            } else if path.extension().is_some_and(|e| e == "json") {
                match read(&path) {
                    Ok(record) => records.push(record),
                    Err(error) => {
                        tracing::error!(path = %path.display(), error = %error.chain(), "a network's record cannot be used");
                    }
                }
            }
        }
        records.sort_by(|a, b| a.created_at.cmp(&b.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(records)
    }

    /// On disk when it returns.
    pub(crate) fn save(&self, record: &NetworkRecord) -> Result<()> {
        let path = self.path(&record.id);
        let temporary = path.with_extension("json.tmp");
        let json = serde_json::to_vec_pretty(record)
            .map_err(|e| Error::internal("writing a network's record").because(e))?;
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| Error::io("writing", &path, e))
    }

    /// Gone from disk when it returns; already gone is fine.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("removing", &path, e)),
        }
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("syncing", &self.dir, e))
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

fn read(path: &Path) -> Result<NetworkRecord> {
    let bytes = fs::read(path).map_err(|e| Error::io("reading", path, e))?;
    let record: NetworkRecord =
        serde_json::from_slice(&bytes).map_err(|e| Error::internal("not a network's record").because(e))?;
    if record.version > VERSION {
        return Err(Error::internal(format!("written by a newer daemon (layout {})", record.version)));
    }
    // The id names files and links.
    record.id.parse::<NetworkId>()?;
    Ok(record)
}
