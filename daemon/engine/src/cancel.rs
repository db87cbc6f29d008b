// SPDX-License-Identifier: Apache-2.0
//! A flag that is raised once and can be waited for.

use std::future::Future;

use tokio::sync::watch;

/// A flag that is raised once. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Cancel {
    flag: watch::Sender<bool>,
}

impl Default for Cancel {
    fn default() -> Self {
        Self { flag: watch::Sender::new(false) }
    }
}

impl Cancel {
    /// Raises it.
    pub(crate) fn raise(&self) {
        self.flag.send_replace(true);
    }

    pub(crate) fn is_raised(&self) -> bool {
        *self.flag.borrow()
    }

    /// Waits until it is raised.
    pub(crate) async fn raised(&self) {
        // The sender lives in self: waiting cannot fail.
        let _seen = self.flag.subscribe().wait_for(|raised| *raised).await.is_ok();
    }

    /// Runs a future until the flag is raised; `None` if that comes first. The future is dropped then.
    pub(crate) async fn race<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.raised() => None,
            result = future => Some(result),
        }
    }
}
