// SPDX-License-Identifier: Apache-2.0
//! `ContainerPause` and `ContainerUnpause`.

use std::sync::Arc;

use berth_domain::container::Request;
use berth_domain::{Error, Result, Status};
use berth_runtime::ShimError;

use crate::Engine;
use crate::handle::{Reply, Verb};
use crate::task::{Done, Task, answer};

impl Engine {
    /// Freezes a container's processes.
    ///
    /// # Errors
    ///
    /// No such container; it does not run or is paused.
    pub async fn container_pause(&self, name: &str) -> Result<()> {
        self.index.resolve(name)?.ask(name, Verb::Pause).await
    }

    /// Thaws them.
    ///
    /// # Errors
    ///
    /// No such container; it is not paused.
    pub async fn container_unpause(&self, name: &str) -> Result<()> {
        self.index.resolve(name)?.ask(name, Verb::Unpause).await
    }
}

impl Task {
    pub(crate) fn freeze(&mut self, asked: &str, frozen: bool, reply: Reply<()>) {
        let request = if frozen { Request::Pause } else { Request::Unpause };
        if let Err(error) = self.admit(request, asked) {
            return answer(reply, Err(error));
        }
        let Some(up) = &self.up else {
            return answer(reply, Err(Error::conflict(format!("container {} is not running", self.now.id))));
        };
        let shim = Arc::clone(&up.shim);
        self.op = Some(Box::pin(async move {
            let result = shim.freeze(frozen).await;
            Done::Freeze { frozen, result, reply }
        }));
    }

    pub(crate) fn frozen(&mut self, frozen: bool, result: Result<(), ShimError>, reply: Reply<()>) {
        let verb = if frozen { "pause" } else { "unpause" };
        if let Err(error) = result {
            let error = Error::internal(format!("cannot {verb} container {}", self.now.id)).because(error);
            return answer(reply, Err(error));
        }
        // It may have ended meanwhile.
        if self.up.is_some() {
            self.now.state.status = if frozen { Status::Paused } else { Status::Running };
            self.publish();
            self.event(verb, &[]);
        }
        answer(reply, Ok(()));
    }
}
