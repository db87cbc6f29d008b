// SPDX-License-Identifier: Apache-2.0
//! `NetworkDisconnect`.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use berth_api::types::container_create::NetworkingConfig;
use berth_domain::{Error, Meaning, Result};
use berth_network::{Driver, NetworkRecord};

use crate::Engine;
use crate::asked::{Asked, NetworkChoice};
use crate::handle::{Reply, Verb};
use crate::network::connect::{Networked, names};
use crate::task::{Task, answer};

impl Engine {
    /// Takes a container off a network: at once if it runs, and when it is started again.
    ///
    /// # Errors
    ///
    /// No such network or container; it is not on that network.
    pub async fn network_disconnect(&self, network: &str, container: &str) -> Result<()> {
        let found = self.backends.networks.network(network);
        let handle = self.index.resolve(container)?;
        match found {
            Ok(view) => handle.ask(container, |reply| Verb::Disconnect(view.record, reply)).await,
            // It was removed while the container did not run, which still wants to be on it.
            Err(error) if error.meaning() == Meaning::NotFound => {
                handle.ask(container, |reply| Verb::Forget(network.to_owned(), reply)).await
            }
            Err(error) => Err(error),
        }
    }
}

impl Task {
    pub(crate) async fn disconnect(&mut self, asked: &str, network: Arc<NetworkRecord>, reply: Reply<()>) {
        let (networking, derived) = match self.prepare_disconnect(asked, &network) {
            Ok(prepared) => prepared,
            Err(error) => return answer(reply, Err(error)),
        };
        let name = network.id.clone();
        let change =
            Networked { action: "disconnect", network, networking, asked: derived, result: Ok(None), reply };
        self.change_networks(change, move |engine, id, netns| {
            Box::pin(async move { engine.backends.networks.disconnect(&id, netns.as_fd(), &name).await })
        })
        .await;
    }

    /// Has the container no longer want to be on a network that is no more.
    pub(crate) async fn forget_network(&mut self, asked: &str, network: &str) -> Result<()> {
        self.admit_network_change(asked)?;
        let mut networking = self.joined();
        if self.up.is_some() || networking.endpoints_config.remove(network).is_none() {
            return Err(Error::not_found(format!("network {network} not found")));
        }
        self.asked = Arc::new(self.derive_with(&networking)?);
        self.now.networking = Arc::new(networking);
        let recorded = self.record_config().await;
        self.publish();
        recorded
    }

    fn prepare_disconnect(&self, asked: &str, network: &NetworkRecord) -> Result<(NetworkingConfig, Asked)> {
        self.admit_network_change(asked)?;
        if network.driver == Driver::Host && self.asked.network == NetworkChoice::Host {
            return Err(Error::invalid(
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        let mut networking = self.joined();
        let before = networking.endpoints_config.len();
        networking.endpoints_config.retain(|name, _| !names(network, name));
        if networking.endpoints_config.len() == before {
            // The reference has an article more for containers that do not run.
            let the = if self.up.is_some() { "" } else { "the " };
            return Err(Error::internal(format!(
                "container {} is not connected to {the}network {}",
                self.now.id, network.name
            )));
        }
        let derived = self.derive_with(&networking)?;
        Ok((networking, derived))
    }
}
