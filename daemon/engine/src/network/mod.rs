// SPDX-License-Identifier: Apache-2.0
//! Networks: one file a verb.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_domain::{Error, EventKind, Result};
use berth_network::NetworkRecord;

use crate::Engine;

pub(crate) mod connect;
mod create;
mod disconnect;
pub(crate) mod etc;
mod inspect;
mod list;
mod prune;
mod remove;

pub use prune::NetworksPruned;

/// Names of networks that are always there.
pub(crate) const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

impl Engine {
    fn network_event(&self, action: &str, network: &NetworkRecord, container: Option<&str>) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), network.driver.as_str().to_owned()),
        ]);
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_owned())));
        self.bus.publish(EventKind::Network, action, &network.id, attributes);
    }

    /// Work on networks is a task of its own: a client that hangs up does not leave it half done.
    async fn beside<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if self.closing.is_raised() {
            return Err(Error::unavailable("the engine is shutting down"));
        }
        tokio::spawn(work)
            .await
            .map_err(|error| Error::internal(format!("{doing} ended early")).because(error))?
    }
}
