// SPDX-License-Identifier: Apache-2.0
//! What is kept of a container on disk.
//!
//! ```text
//! <data-root>/containers/<id>/
//!     config.json        ConfigRecord: what was asked; written last at create, so that a container is whole or not there
//!     unwanted.json      UnwantedRecord: anonymous volumes that go if this directory goes; there during create and removal
//!     state.json         StateRecord: what became of it; absent until the first start
//!     upper/ work/       its root filesystem's changes
//!     <id>-json.log      its output (and .1, .2, ...), written by the shim
//!     hostname hosts resolv.conf
//! <data-root>/removing/<id>/   being deleted
//! ```
//!
//! `config.json` keeps what was asked in the API's own shape, after merging in the image's config. The form
//! that the engine works with ([`crate::asked::Asked`]) is derived from it by the function that create uses.
//!
//! Schemas: 1 is the first.

use std::path::Path;

use berth_api::types::container_create::{ContainerConfig, HostConfig, NetworkingConfig};
use berth_domain::{Error, Extent, IdMap, Result};
use berth_network::SandboxRecord;
use berth_volume::MountPoint;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The schema that this daemon writes, and the newest that it reads.
pub(crate) const SCHEMA: u32 = 1;

pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const STATE_FILE: &str = "state.json";
pub(crate) const UNWANTED_FILE: &str = "unwanted.json";

/// `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConfigRecord {
    pub(crate) schema: u32,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
    pub(crate) image: String,
    pub(crate) image_name: String,
    pub(crate) platform: String,
    pub(crate) config: ContainerConfig,
    pub(crate) host_config: HostConfig,
    pub(crate) networking: NetworkingConfig,
    #[serde(default)]
    pub(crate) mounts: Vec<MountPoint>,
    /// Its users and groups, if they are not the host's. Its files are stored accordingly: for its whole life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id_map: Option<IdMapRecord>,
}

/// [`IdMap`]: first id inside, first id outside, how many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct IdMapRecord {
    uids: Vec<(u32, u32, u32)>,
    gids: Vec<(u32, u32, u32)>,
}

impl From<&IdMap> for IdMapRecord {
    fn from(map: &IdMap) -> Self {
        let list = |extents: &[Extent]| extents.iter().map(|e| (e.container, e.host, e.count)).collect();
        Self { uids: list(&map.uids), gids: list(&map.gids) }
    }
}

impl From<IdMapRecord> for IdMap {
    fn from(record: IdMapRecord) -> Self {
        let list = |all: Vec<(u32, u32, u32)>| {
            all.into_iter().map(|(container, host, count)| Extent { container, host, count }).collect()
        };
        Self { uids: list(record.uids), gids: list(record.gids) }
    }
}

/// `unwanted.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UnwantedRecord {
    pub(crate) schema: u32,
    pub(crate) mounts: Vec<MountPoint>,
}

/// Notes that the anonymous volumes among `mounts` go with a directory, should nobody come to remove them.
///
/// # Errors
///
/// As [`write`].
pub(crate) fn note_unwanted<'a>(dir: &Path, mounts: impl IntoIterator<Item = &'a MountPoint>) -> Result<()> {
    let mounts: Vec<MountPoint> = mounts.into_iter().filter(|mount| mount.anonymous).cloned().collect();
    if mounts.is_empty() {
        return Ok(());
    }
    write(&dir.join(UNWANTED_FILE), &UnwantedRecord { schema: SCHEMA, mounts })
}

/// `state.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StateRecord {
    pub(crate) schema: u32,
    /// A word of [`berth_domain::Status`]; `starting` between the preparation of a start and its outcome.
    pub(crate) status: String,
    pub(crate) exit_code: i32,
    pub(crate) error: String,
    pub(crate) oom_killed: bool,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) restart_count: u32,
    /// The last run was ended by a person: policies leave it alone.
    pub(crate) by_hand: bool,
    pub(crate) network: Option<SandboxRecord>,
    /// Where the last run's cgroup is: another daemon may be told to lay them out otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cgroup: Option<String>,
}

/// The status word between the preparation of a start and its outcome.
pub(crate) const STARTING: &str = "starting";

/// Reads a record and checks its schema.
///
/// # Errors
///
/// The file cannot be read, is torn, or was written by a newer daemon.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    #[derive(Deserialize)]
    struct Versioned {
        schema: u32,
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io("reading", path, error))?;
    let torn = |error| Error::internal(format!("{} is damaged", path.display())).because(error);
    let Versioned { schema } = serde_json::from_slice(&bytes).map_err(torn)?;
    if schema == 0 || schema > SCHEMA {
        return Err(Error::internal(format!(
            "{} has schema {schema}; this daemon knows up to {SCHEMA}",
            path.display()
        )));
    }
    serde_json::from_slice(&bytes).map_err(torn)
}

/// Writes a record whole.
///
/// # Errors
///
/// As [`crate::files::write_whole`].
pub(crate) fn write<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let bytes = serde_json::to_vec(record)
        .map_err(|error| Error::internal(format!("encoding {}", path.display())).because(error))?;
    crate::files::write_whole(path, &bytes, 0o600)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn records_read_back_and_foreign_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STATE_FILE);
        let state =
            StateRecord { schema: SCHEMA, status: "exited".into(), exit_code: 3, ..StateRecord::default() };
        write(&path, &state).unwrap();
        assert_eq!(read::<StateRecord>(&path).unwrap(), state);

        for (text, words) in
            [("{\"schema\":99}", "schema 99"), ("{", "damaged"), ("", "damaged"), ("{}", "damaged")]
        {
            std::fs::write(&path, text).unwrap();
            let error = read::<StateRecord>(&path).expect_err(text).chain();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn unknown_fields_of_a_record_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STATE_FILE);
        std::fs::write(&path, "{\"schema\":1,\"status\":\"exited\",\"later\":true}").unwrap();
        assert_eq!(read::<StateRecord>(&path).unwrap().status, "exited");
    }
}
