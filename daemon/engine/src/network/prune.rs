// SPDX-License-Identifier: Apache-2.0
//! `NetworkPrune`.

use std::sync::Arc;

use berth_domain::{EventKind, Meaning, Result};
use berth_network::NetworkRecord;

use crate::Engine;
use crate::network::PREDEFINED;

/// The names of the networks that were removed.
pub type NetworksPruned = Vec<String>;

impl Engine {
    /// Removes the networks that nobody is on and that `wanted` picks.
    ///
    /// # Errors
    ///
    /// A network cannot be removed though nobody is on it.
    pub async fn network_prune(
        self: &Arc<Self>,
        wanted: impl Fn(&NetworkRecord) -> bool + Send + Sync + 'static,
    ) -> Result<NetworksPruned> {
        let engine = Arc::clone(self);
        self.beside("pruning networks", async move {
            let mut removed = Vec::new();
            for view in engine.backends.networks.networks() {
                let record = &view.record;
                let custom = !PREDEFINED.contains(&record.name.as_str());
                if !(custom && view.endpoints.is_empty() && wanted(record)) {
                    continue;
                }
                match engine.backends.networks.network_remove(&record.id).await {
                    Ok(network) => {
                        engine.network_event("destroy", &network, None);
                        removed.push(network.name.clone());
                    }
                    // Somebody joined it, or was faster.
                    Err(error) if matches!(error.meaning(), Meaning::Forbidden | Meaning::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
            let reclaimed = [("reclaimed".to_owned(), "0".to_owned())];
            engine.bus.publish(EventKind::Network, "prune", "", reclaimed.into());
            Ok(removed)
        })
        .await
    }
}
