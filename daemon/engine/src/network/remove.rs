// SPDX-License-Identifier: Apache-2.0
//! `NetworkDelete`.

use std::sync::Arc;

use berth_domain::Result;

use crate::Engine;

impl Engine {
    /// Removes a network nobody is on.
    ///
    /// # Errors
    ///
    /// Not found; forbidden for the predefined ones and while containers are on it.
    pub async fn network_remove(self: &Arc<Self>, name: &str) -> Result<()> {
        let (engine, name) = (Arc::clone(self), name.to_owned());
        self.beside("removing a network", async move {
            let network = engine.backends.networks.network_remove(&name).await?;
            engine.network_event("destroy", &network, None);
            Ok(())
        })
        .await
    }
}
