// SPDX-License-Identifier: Apache-2.0
//! `ContainerRestart`.

use berth_domain::Result;
use berth_domain::container::Request;

use crate::Engine;
use crate::container::stop::StopAsk;
use crate::handle::{Reply, Verb};
use crate::task::{Starter, Task, answer};

impl Engine {
    /// Stops a container, if it runs, and starts it.
    ///
    /// # Errors
    ///
    /// As those of stop and start, except that one that does not run is just started.
    pub async fn container_restart(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let ask = StopAsk::parse(signal, timeout)?;
        let handle = self.index.resolve(name)?;
        handle.ask(name, |reply| Verb::Restart(ask, reply)).await
    }
}

impl Task {
    pub(crate) fn restart(&mut self, asked: &str, ask: StopAsk, reply: Reply<()>) {
        if let Err(error) = self.admit(Request::Restart, asked) {
            return answer(reply, Err(error));
        }
        if self.up.is_none() {
            return self.begin_start(Starter::Person, Some(reply), true);
        }
        self.begin_stop(ask);
        if let Some(stopping) = &mut self.stopping {
            stopping.restarts.push(reply);
        }
    }
}
