// SPDX-License-Identifier: Apache-2.0
//! `ContainerStop`.

use std::time::{Duration, Instant};

use berth_domain::container::Request;
use berth_domain::{Error, Result, Signal, Status};

use crate::Engine;
use crate::handle::{Reply, Verb};
use crate::task::{Task, answer};

/// How to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StopAsk {
    /// `None` for the container's own.
    pub(crate) signal: Option<Signal>,
    /// Seconds; `None` for the container's own, below 0 without end.
    pub(crate) timeout: Option<i64>,
}

impl StopAsk {
    /// Checks what a client asked.
    ///
    /// # Errors
    ///
    /// An unknown signal.
    pub(crate) fn parse(signal: Option<&str>, timeout: Option<i64>) -> Result<Self> {
        let signal = match signal {
            None | Some("") => None,
            Some(signal) => Some(signal.parse()?),
        };
        Ok(Self { signal, timeout })
    }
}

/// A stop under way.
#[derive(Debug)]
pub(crate) struct Stopping {
    /// When patience ends.
    pub(crate) deadline: Option<Instant>,
    /// SIGKILL was sent.
    killed: bool,
    /// Somebody asked for a stop, rather than a removal.
    pub(crate) asked_to_stop: bool,
    pub(crate) waiters: Vec<Reply<()>>,
    /// Who waits for it to run again.
    pub(crate) restarts: Vec<Reply<()>>,
}

/// How long a SIGKILL may take before the shim is killed from outside.
const AFTER_KILL: Duration = Duration::from_secs(10);

impl Engine {
    /// Stops a container: its stop signal (or `signal`), then SIGKILL after `timeout` seconds (the
    /// container's own, or 10; below 0 waits for ever).
    ///
    /// # Errors
    ///
    /// No such container; it does not run (not modified); an unknown signal.
    pub async fn container_stop(&self, name: &str, signal: Option<&str>, timeout: Option<i64>) -> Result<()> {
        let handle = self.index.resolve(name)?;
        let ask = StopAsk::parse(signal, timeout)
            .map_err(|error| Error::invalid(format!("cannot stop container: {name}: {error}")))?;
        handle.ask(name, |reply| Verb::Stop(ask, reply)).await
    }
}

impl Task {
    pub(crate) async fn stop(&mut self, asked: &str, ask: StopAsk, reply: Reply<()>) {
        match self.admit(Request::Stop, asked) {
            Err(error) => return answer(reply, Err(error)),
            Ok(false) => {
                return answer(reply, Err(Error::not_modified(format!("container {asked} is not running"))));
            }
            Ok(true) => {}
        }
        if self.up.is_none() {
            self.by_hand = true;
            // Between two runs of its restart policy.
            self.restart_at = None;
            self.settle(Status::Exited);
            self.publish();
            self.event("stop", &[]);
            self.record_state().await;
            return answer(reply, Ok(()));
        }
        self.record_by_hand().await;
        self.begin_stop(ask);
        if let Some(stopping) = &mut self.stopping {
            stopping.waiters.push(reply);
        }
    }

    /// Sends the first signal, or shortens the patience of a stop that is under way. That it is by hand is not recorded
    /// here: a restart that a daemon's death cuts short is to end with a container that runs.
    pub(crate) fn begin_stop(&mut self, ask: StopAsk) {
        self.by_hand = true;
        let signal = ask.signal.unwrap_or(self.asked.stop_signal);
        let patience = match ask.timeout {
            None => self.asked.stop_timeout,
            some => crate::asked::stop_timeout(some),
        };
        let deadline = patience.map(|patience| Instant::now() + patience);
        match &mut self.stopping {
            Some(stopping) => {
                if !stopping.killed {
                    stopping.deadline = match (stopping.deadline, deadline) {
                        (Some(before), Some(now)) => Some(before.min(now)),
                        (before, now) => before.or(now),
                    };
                }
            }
            None => {
                self.stopping = Some(Stopping {
                    deadline,
                    killed: false,
                    asked_to_stop: true,
                    waiters: Vec::new(),
                    restarts: Vec::new(),
                });
                self.event("kill", &[("signal", signal.to_string())]);
                self.send(signal);
            }
        }
    }

    /// Patience has ended.
    pub(crate) fn stop_is_late(&mut self) {
        let Some(stopping) = &mut self.stopping else { return };
        if stopping.killed {
            tracing::error!(container = %self.now.id, "SIGKILL has no effect; killing the shim");
            stopping.deadline = None;
            if let Some(up) = &self.up {
                up.shim.kill();
            }
            return;
        }
        stopping.killed = true;
        stopping.deadline = Some(Instant::now() + AFTER_KILL);
        self.event("kill", &[("signal", Signal::KILL.to_string())]);
        self.send(Signal::KILL);
    }
}
