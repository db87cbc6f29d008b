// SPDX-License-Identifier: Apache-2.0
//! Execs as a later daemon finds them: a file each in the run directory of their container, so that they end with
//! the run.
//!
//! ```text
//!  run dir/execs/<exec id>.json    what was asked; whether it runs and how it ended is known to the shim
//! ```

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use berth_domain::{ContainerId, Error, ExecId, Result};
use berth_shim_proto::State;
use serde::{Deserialize, Serialize};

use super::{ExecConfig, Phase};
use crate::Engine;
use crate::files::{blocking, write_whole};

const SCHEMA: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    schema: u32,
    config: ExecConfig,
}

fn folder(run_dir: &Path) -> PathBuf {
    run_dir.join("execs")
}

fn file(run_dir: &Path, exec: &str) -> PathBuf {
    folder(run_dir).join(format!("{exec}.json"))
}

/// Writes down what was asked, and forgets execs that are not remembered any more.
pub(super) async fn keep(
    run_dir: PathBuf,
    exec: ExecId,
    config: ExecConfig,
    forgotten: Vec<String>,
) -> Result<()> {
    blocking(move || {
        match std::fs::create_dir(folder(&run_dir)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("making", folder(&run_dir), error));
            }
            _ => {}
        }
        let record = serde_json::to_vec(&Record { schema: SCHEMA, config })
            .map_err(|error| Error::internal("encoding an exec").because(error))?;
        write_whole(&file(&run_dir, exec.as_str()), &record, 0o600)?;
        for old in forgotten {
            match std::fs::remove_file(file(&run_dir, &old)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("removing", file(&run_dir, &old), error));
                }
                _ => {}
            }
        }
        Ok(())
    })
    .await
}

/// What earlier daemons wrote down. One that cannot be read is left out: it can still run to its end.
fn read(run_dir: &Path) -> HashMap<String, ExecConfig> {
    let mut found = HashMap::new();
    let Ok(entries) = std::fs::read_dir(folder(run_dir)) else { return found };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Some(exec) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) else {
            continue;
        };
        let record = std::fs::read(&path).map_err(|error| error.to_string());
        let record = record.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
        match record {
            Ok(Record { config, .. }) => {
                found.insert(exec.to_owned(), config);
            }
            Err(error) => tracing::warn!(path = %path.display(), error, "an exec's record cannot be read"),
        }
    }
    found
}

impl Engine {
    /// Takes back the execs of a container that an earlier daemon started.
    pub(crate) async fn execs_found(&self, container: &ContainerId, run_dir: PathBuf, running: &State) {
        let mut asked = blocking(move || Ok(read(&run_dir))).await.unwrap_or_default();
        for (exec, code) in &running.execs {
            let phase = code.map_or(Phase::Running, Phase::Ended);
            let pid = running.exec_pids.iter().find(|(id, _)| id == exec).map_or(0, |(_, pid)| *pid);
            self.exec_found(container, exec, asked.remove(exec).unwrap_or_default(), phase, pid);
        }
        // The shim remembers more ends than are remembered here: what it does not know was not started.
        for (exec, config) in asked {
            self.exec_found(container, &exec, config, Phase::Created, 0);
        }
    }

    fn exec_found(&self, container: &ContainerId, exec: &str, config: ExecConfig, phase: Phase, pid: i32) {
        let Ok(id) = exec.parse::<ExecId>() else { return };
        self.execs.add(&id, container.clone(), config, phase);
        let _forgotten = self.execs.with(exec, |entry| entry.pid = pid);
    }
}
