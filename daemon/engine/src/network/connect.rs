// SPDX-License-Identifier: Apache-2.0
//! `NetworkConnect`, and what it shares with `NetworkDisconnect`.
//!
//! What a container is to be on is in its record; what it is on while it runs, in its sandbox. A running container is
//! connected first and recorded then: after a crash in between the sandbox is as it was recorded, for what a
//! new daemon finds beyond that it removes.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use berth_api::types::container_create::{EndpointSettings, NetworkingConfig};
use berth_domain::container::Request;
use berth_domain::{Error, Result};
use berth_network::{Driver, EndpointRequest, NetworkRecord, SandboxRecord};

use crate::Engine;
use crate::asked::{self, Asked, NetworkChoice};
use crate::handle::{Reply, Verb};
use crate::task::{Done, Task, answer};

/// What is asked.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) network: Arc<NetworkRecord>,
    pub(crate) settings: EndpointSettings,
}

/// A change of the networks that a container is on, once it was made.
pub(crate) struct Networked {
    pub(crate) action: &'static str,
    pub(crate) network: Arc<NetworkRecord>,
    pub(crate) networking: NetworkingConfig,
    pub(crate) asked: Asked,
    /// The sandbox as it is now; `None` for a container that does not run.
    pub(crate) result: Result<Option<SandboxRecord>>,
    pub(crate) reply: Reply<()>,
}

impl Engine {
    /// Puts a container on one more network: at once if it runs, else when it is started.
    ///
    /// # Errors
    ///
    /// No such network or container; it is on it already (forbidden); its network mode admits no further network.
    pub async fn network_connect(
        &self,
        network: &str,
        container: &str,
        settings: EndpointSettings,
    ) -> Result<()> {
        let network = self.backends.networks.network(network)?.record;
        let handle = self.index.resolve(container)?;
        let ask = Box::new(Connect { network, settings });
        handle.ask(container, |reply| Verb::Connect(ask, reply)).await
    }
}

impl Task {
    pub(crate) async fn connect(&mut self, asked: &str, ask: Connect, reply: Reply<()>) {
        let Connect { network, settings } = ask;
        let prepared = self.prepare_connect(asked, &network, settings);
        let (networking, derived, request) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return answer(reply, Err(error)),
        };
        let change =
            Networked { action: "connect", network, networking, asked: derived, result: Ok(None), reply };
        self.change_networks(change, move |engine, id, netns| {
            Box::pin(async move { engine.backends.networks.connect(&id, netns.as_fd(), request).await })
        })
        .await;
    }

    fn prepare_connect(
        &self,
        asked: &str,
        network: &NetworkRecord,
        settings: EndpointSettings,
    ) -> Result<(NetworkingConfig, Asked, EndpointRequest)> {
        self.admit_network_change(asked)?;
        match (network.driver, &self.asked.network) {
            (Driver::Host, _) | (_, NetworkChoice::Host) => {
                return Err(Error::invalid(
                    "cannot connect container to host network - container must be created in host network mode",
                ));
            }
            (_, NetworkChoice::Container(_)) => {
                return Err(Error::invalid(
                    "container sharing network namespace with another container or host cannot be connected to any \
                     other network",
                ));
            }
            (Driver::Null, _) | (_, NetworkChoice::None) => {
                return Err(Error::invalid(
                    "container cannot be connected to multiple networks with one of the networks in private (none) mode",
                ));
            }
            (Driver::Bridge | Driver::Macvlan | Driver::Ipvlan, NetworkChoice::Networks(_)) => {}
        }
        let request = asked::endpoint(&network.name, Some(&settings), "")?;
        let mut networking = self.joined();
        networking.endpoints_config.retain(|name, _| !names(network, name));
        networking.endpoints_config.insert(network.name.clone(), Some(settings));
        let derived = self.derive_with(&networking)?;
        Ok((networking, derived, request))
    }

    pub(crate) fn admit_network_change(&self, asked: &str) -> Result<()> {
        self.admit(Request::Change, asked)?;
        if self.stopping.is_some() || self.removal.is_some() {
            return Err(Error::conflict(format!(
                "container {} is being stopped or removed: its networks cannot be changed",
                self.now.id
            )));
        }
        Ok(())
    }

    /// The networks that the container is to be on, all of them by name.
    pub(crate) fn joined(&self) -> NetworkingConfig {
        let mut networking = (*self.now.networking).clone();
        let NetworkChoice::Networks(endpoints) = &self.asked.network else { return networking };
        if networking.endpoints_config.is_empty() {
            networking.endpoints_config = endpoints.iter().map(|e| (e.network.clone(), None)).collect();
        }
        if let Some(settings) = networking.endpoints_config.remove("default") {
            networking.endpoints_config.insert("bridge".to_owned(), settings);
        }
        networking
    }

    pub(crate) fn derive_with(&self, networking: &NetworkingConfig) -> Result<Asked> {
        asked::derive(&self.engine.config, &self.now.config, &self.now.host_config, networking)
    }

    /// Makes a change in the namespace of a running container, and records it.
    pub(crate) async fn change_networks(
        &mut self,
        mut change: Networked,
        work: impl FnOnce(
            Arc<Engine>,
            berth_domain::ContainerId,
            OwnedFd,
        ) -> crate::seam::Fut<'static, Result<SandboxRecord>>
        + Send
        + 'static,
    ) {
        if self.up.is_none() {
            return self.networked(change).await;
        }
        let path = PathBuf::from(format!("/proc/{}/ns/net", self.now.state.pid));
        let netns = match File::open(&path) {
            Ok(netns) => OwnedFd::from(netns),
            Err(error) => return answer(change.reply, Err(Error::io("opening", &path, error))),
        };
        let (engine, id) = (Arc::clone(&self.engine), self.now.id.clone());
        self.op = Some(Box::pin(async move {
            change.result = work(engine, id, netns).await.map(Some);
            Done::Networked(Box::new(change))
        }));
    }

    /// The change was made, or not.
    pub(crate) async fn networked(&mut self, change: Networked) {
        let Networked { action, network, networking, asked, result, reply } = change;
        let sandbox = match result {
            Ok(sandbox) => sandbox,
            Err(error) => return answer(reply, Err(error)),
        };
        self.now.networking = Arc::new(networking);
        self.asked = Arc::new(asked);
        // It may have ended meanwhile, and its sandbox with it.
        if let (Some(sandbox), true) = (sandbox, self.up.is_some()) {
            let before = self.now.sandbox.replace(Arc::new(sandbox));
            if let Err(error) = self.refresh_etc(before.as_deref()).await {
                tracing::warn!(container = %self.now.id, error = error.chain(), "bringing hosts and resolv.conf up to date");
            }
            self.record_state().await;
            self.engine.network_event(action, &network, Some(self.now.id.as_str()));
        }
        let recorded = self.record_config().await;
        self.publish();
        answer(reply, recorded);
    }
}

/// Whether a key of the container's record means this network.
pub(crate) fn names(network: &NetworkRecord, key: &str) -> bool {
    key == network.name || key == network.id || (key.len() >= 12 && network.id.starts_with(key))
}
