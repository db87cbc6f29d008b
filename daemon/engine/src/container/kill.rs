// SPDX-License-Identifier: Apache-2.0
//! `ContainerKill`.

use std::sync::Arc;

use berth_domain::container::Request;
use berth_domain::{Error, Result, Signal, Status};

use crate::Engine;
use crate::handle::{Reply, Verb};
use crate::task::{Task, answer};

impl Engine {
    /// Sends a signal, by name or number, to a container's init process. Empty means SIGKILL.
    ///
    /// # Errors
    ///
    /// No such container; it does not run; an unknown signal.
    pub async fn container_kill(&self, name: &str, signal: &str) -> Result<()> {
        let handle = self
            .index
            .resolve(name)
            .map_err(|error| error.context(format!("cannot kill container: {name}")))?;
        let signal = match signal {
            "" => Signal::KILL,
            signal => signal
                .parse()
                .map_err(|error| Error::invalid(format!("cannot kill container: {name}: {error}")))?,
        };
        handle.ask(name, |reply| Verb::Kill(signal, reply)).await
    }
}

impl Task {
    pub(crate) async fn kill(&mut self, asked: &str, signal: Signal, reply: Reply<()>) {
        if let Some(starting) = &mut self.starting {
            // Not running yet: nothing to signal, but a start to give up.
            starting.cancel.raise();
            starting.kills.push((asked.to_owned(), signal, reply));
            return;
        }
        if let Err(error) = self.admit(Request::Kill, asked) {
            return answer(reply, Err(error));
        }
        let Some(shim) = self.up.as_ref().map(|up| Arc::clone(&up.shim)) else {
            // Between two runs of its restart policy.
            self.by_hand = true;
            self.restart_at = None;
            self.settle(Status::Exited);
            self.publish();
            self.record_state().await;
            return answer(reply, Ok(()));
        };
        if signal == Signal::KILL || signal == self.asked.stop_signal {
            self.record_by_hand().await;
        }
        let delivery = self.delivery(shim, signal);
        self.event("kill", &[("signal", signal.to_string())]);
        let asked = asked.to_owned();
        tokio::spawn(async move {
            let result =
                delivery.await.map_err(|error| error.context(format!("cannot kill container: {asked}")));
            answer(reply, result);
        });
    }
}
