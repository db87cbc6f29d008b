// SPDX-License-Identifier: Apache-2.0
//! Further processes in a running container.
//!
//! An exec is made ([`create`]), started once ([`start`]) and remembered for a while after its end, so that its exit
//! code can be asked for. Those that run when the daemon dies go on running; a new daemon finds what was asked in the run
//! directory ([`record`]) and learns from the shim how they are.

pub(crate) mod create;
pub(crate) mod inspect;
mod record;
pub(crate) mod resize;
pub(crate) mod start;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_domain::{ContainerId, Error, ExecId, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{Engine, Snapshot};

pub use inspect::ExecInspect;
pub use start::{ExecStart, ExecTicket};

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecConfig {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// `KEY=value` added to the container's environment.
    pub env: Vec<String>,
    /// Working directory; empty for the container's.
    pub working_dir: String,
    /// User; empty for the container's.
    pub user: String,
    /// All capabilities and no seccomp filter.
    pub privileged: bool,
    /// Give it a pseudo-terminal.
    pub tty: bool,
    /// Its terminal's size at first: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// Feed it from the client.
    pub attach_stdin: bool,
    /// Send its output to the client.
    pub attach_stdout: bool,
    /// Send its errors to the client.
    pub attach_stderr: bool,
    /// Keys that detach the client (`ctrl-p,ctrl-q`); `None` for the default.
    pub detach_keys: Option<String>,
}

/// How far an exec is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Created,
    /// Reserved by a start, or on its way.
    Starting,
    Running,
    Ended(i32),
}

/// One exec.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: ExecId,
    pub(crate) container: ContainerId,
    pub(crate) config: Arc<ExecConfig>,
    pub(crate) pid: i32,
    pub(crate) phase: watch::Sender<Phase>,
    /// Its start has been announced.
    announced: bool,
    /// In the order in which they were made.
    serial: u64,
}

/// All execs.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<String, Entry>,
    serial: u64,
}

/// Execs of one container that do not run and are remembered all the same.
const REMEMBERED: usize = 128;

impl Execs {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one; returns those of its container that are not remembered any more.
    fn add(&self, id: &ExecId, container: ContainerId, config: ExecConfig, phase: Phase) -> Vec<String> {
        let mut inner = self.lock();
        inner.serial += 1;
        let mut idle: Vec<(u64, String)> = inner
            .entries
            .iter()
            .filter(|(_, e)| e.container == container)
            .filter(|(_, e)| matches!(*e.phase.borrow(), Phase::Created | Phase::Ended(_)))
            .map(|(id, e)| (e.serial, id.clone()))
            .collect();
        idle.sort_unstable();
        idle.truncate((idle.len() + 1).saturating_sub(REMEMBERED));
        let forgotten: Vec<String> = idle.into_iter().map(|(_, oldest)| oldest).collect();
        for oldest in &forgotten {
            inner.entries.remove(oldest);
        }
        let serial = inner.serial;
        let entry = Entry {
            id: id.clone(),
            container,
            config: Arc::new(config),
            pid: 0,
            announced: !matches!(phase, Phase::Created | Phase::Starting),
            phase: watch::Sender::new(phase),
            serial,
        };
        inner.entries.insert(id.to_string(), entry);
        forgotten
    }

    fn remove(&self, id: &ExecId) {
        self.lock().entries.remove(id.as_str());
    }

    /// Looks at one.
    ///
    /// # Errors
    ///
    /// There is none of this id.
    fn with<T>(&self, id: &str, look: impl FnOnce(&mut Entry) -> T) -> Result<T> {
        match self.lock().entries.get_mut(id) {
            Some(entry) => Ok(look(entry)),
            None => Err(Error::not_found(format!("No such exec instance: {id}"))),
        }
    }

    /// How far one is, from now on.
    ///
    /// # Errors
    ///
    /// There is none of this id.
    pub(crate) fn watch(&self, id: &str) -> Result<watch::Receiver<Phase>> {
        self.with(id, |entry| entry.phase.subscribe())
    }
}

/// The words of an exec in its events.
fn words(cmd: &[String]) -> String {
    match cmd {
        [program, arguments @ ..] => format!("{program} {}", arguments.join(" ")),
        [] => String::new(),
    }
}

impl Engine {
    /// An exec has ended.
    pub(crate) fn exec_ended(&self, now: &Snapshot, exec: &str, code: i32) {
        let first = self.execs.with(exec, |entry| {
            let ended = matches!(*entry.phase.borrow(), Phase::Ended(_));
            if !ended {
                // Its end may be told before its start was.
                self.exec_runs(now, entry);
            }
            entry.phase.send_replace(Phase::Ended(code));
            !ended
        });
        if let Ok(true) = first {
            self.container_event(
                now,
                "exec_die",
                &[("execID", exec.to_owned()), ("exitCode", code.to_string())],
            );
        }
    }

    /// Announces an exec's start, once. Under the entry's lock, so that its end is announced after it.
    fn exec_runs(&self, now: &Snapshot, entry: &mut Entry) {
        if !std::mem::replace(&mut entry.announced, true) {
            let action = format!("exec_start: {}", words(&entry.config.cmd));
            self.container_event(now, &action, &[("execID", entry.id.to_string())]);
        }
    }

    /// A container has ended: so have its execs, whatever their codes were.
    pub(crate) fn execs_end(&self, container: &ContainerId) {
        for entry in self.execs.lock().entries.values().filter(|e| e.container == *container) {
            entry.phase.send_if_modified(|phase| {
                let running = matches!(phase, Phase::Running | Phase::Starting);
                if running {
                    *phase = Phase::Ended(137);
                }
                running
            });
        }
    }

    /// A container is gone.
    pub(crate) fn execs_forget(&self, container: &ContainerId) {
        self.execs.lock().entries.retain(|_, entry| entry.container != *container);
    }

    /// The execs of a container that may still run, oldest first, for `ExecIDs`.
    #[must_use]
    pub fn exec_ids(&self, container: &ContainerId) -> Vec<ExecId> {
        let inner = self.execs.lock();
        let mut found: Vec<(u64, ExecId)> = inner
            .entries
            .values()
            .filter(|e| e.container == *container && !matches!(*e.phase.borrow(), Phase::Ended(_)))
            .map(|e| (e.serial, e.id.clone()))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }
}
