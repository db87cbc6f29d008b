// SPDX-License-Identifier: Apache-2.0
//! Making and removing networks of the user's (runs on the worker's thread).

use std::sync::Arc;

use berth_domain::step::reached;
use berth_domain::{Error, Result};

use crate::bridge_options::interface_prefix;
use crate::predefined::{blank, option};
use crate::worker::Worker;
use crate::{
    BridgeRecord, Driver, GatewayMode, NetworkRecord, NetworkRequest, books, bridge, bridge_options, macvlan,
};

/// Names that users cannot give or take away.
const PREDEFINED: [&str; 4] = ["bridge", "host", "none", "default"];

impl Worker {
    pub(crate) fn network_create(&mut self, request: NetworkRequest) -> Result<Arc<NetworkRecord>> {
        check_network_name(&request.name)?;
        if PREDEFINED.contains(&request.name.as_str()) {
            let text = format!("operation is not permitted on predefined {} network", request.name);
            return Err(Error::forbidden(text));
        }
        if self.books().by_name(&request.name).is_some() {
            return Err(Error::conflict(format!("network with name {} already exists", request.name)));
        }
        let mut request = self.with_settings(request)?;
        if !request.config_only && request.config_from.is_none() {
            let defaults = self.config.default_network_options.get(request.driver.as_str());
            for (key, value) in defaults.into_iter().flatten() {
                request.options.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        let mut network = blank(&request.name, request.driver)?;
        network.ipv4 = request.ipv4;
        network.ipv6 = request.ipv6;
        network.internal = request.internal;
        network.attachable = request.attachable;
        network.config_only = request.config_only;
        network.config_from = request.config_from.clone().unwrap_or_default();
        if request.config_only {
            network.driver = Driver::Null;
            network.ranges.clone_from(&request.ranges);
        } else {
            self.settle(&mut network, &request)?;
        }
        network.options = request.options;
        network.ipam_options = request.ipam_options;
        network.labels = request.labels;
        // The record first: a bridge without a record would be nobody's.
        self.records.save(&network)?;
        reached("network-create.recorded");
        let id = network.id.clone();
        self.books().add_network(network.clone());
        if let Err(error) = self.put_up(&network) {
            self.take_down(&network);
            self.books().remove_network(&id);
            self.records.remove(&id)?;
            return Err(error);
        }
        reached("network-create.up");
        self.resolve(&id)
    }

    /// What a network that takes its settings from another asks for.
    fn with_settings(&mut self, mut request: NetworkRequest) -> Result<NetworkRequest> {
        let Some(name) = request.config_from.clone() else { return Ok(request) };
        let config = self.resolve(&name).ok().filter(|network| network.config_only);
        let missing = || Error::not_found(format!("configuration network \"{name}\" does not exist"));
        let config = config.ok_or_else(missing)?;
        if request.config_only {
            return Err(Error::forbidden(
                "a configuration network cannot depend on another configuration network",
            ));
        }
        if !request.ranges.is_empty() || !request.options.is_empty() || request.ipv6 || request.internal {
            return Err(Error::forbidden(
                "user-specified configurations are not supported if the network depends on a configuration network",
            ));
        }
        request.config_from = Some(config.name.clone());
        request.ranges.clone_from(&config.ranges);
        request.options.clone_from(&config.options);
        request.ipam_options.clone_from(&config.ipam_options);
        for (key, value) in &config.labels {
            request.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        request.ipv4 = config.ipv4;
        request.ipv6 = config.ipv6;
        request.internal = config.internal;
        Ok(request)
    }

    /// Fills in what the driver makes of the request.
    fn settle(&mut self, network: &mut NetworkRecord, request: &NetworkRequest) -> Result<()> {
        if !request.ipv4 && !request.ipv6 {
            return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
        }
        network.interface_prefix = interface_prefix(&request.options)?;
        let mut gateways = [true; 2];
        match request.driver {
            Driver::Bridge => {
                let bridge = self.bridge_settings(request, &network.id)?;
                let modes = [bridge.gateway_mode_ipv4, bridge.gateway_mode_ipv6];
                gateways = modes.map(|mode| mode != GatewayMode::Isolated);
                network.bridge = Some(bridge);
            }
            Driver::Macvlan | Driver::Ipvlan => {
                let mut settings = {
                    let others: Vec<_> = self.books().networks().cloned().collect();
                    macvlan::settings(request, &network.id, &others)?
                };
                macvlan::note_making(&mut self.routes, &mut settings)?;
                network.macvlan = Some(settings);
            }
            Driver::Host | Driver::Null => {
                let driver = request.driver.as_str();
                return Err(Error::forbidden(format!(
                    "only one instance of \"{driver}\" network is allowed"
                )));
            }
        }
        network.ranges = self.ranges(request, gateways)?;
        if network.bridge.is_some() {
            self.prepare_host()?;
        }
        Ok(())
    }

    fn put_up(&mut self, network: &NetworkRecord) -> Result<()> {
        if network.config_only {
            return Ok(());
        }
        self.raise(network)?;
        reached("network-create.raised");
        let Some(bridge) = books::bridge_of(network) else { return Ok(()) };
        self.change_firewall(|firewall| firewall.add_bridge(&bridge))
    }

    /// What cannot be removed is logged: the network is gone for its user.
    fn take_down(&mut self, network: &NetworkRecord) {
        let index = self.books().link(&network.id);
        let made = match (&network.bridge, &network.macvlan) {
            (Some(bridge), _) if bridge.adopted => {
                if let Err(error) = bridge::leave(&mut self.routes, network) {
                    tracing::warn!(network = %network.name, error = %error.chain(), "leaving a bridge as it was found");
                }
                return;
            }
            (Some(bridge), _) => Some((bridge.link.as_str(), "bridge")),
            (_, Some(macvlan)) => {
                let books = self.books();
                let mut others =
                    books.networks().filter(|n| n.id != network.id).filter_map(|n| n.macvlan.as_ref());
                let kind = macvlan::made_kind(network);
                kind.filter(|_| !others.any(|other| other.parent == macvlan.parent))
                    .map(|kind| (macvlan.parent.as_str(), kind))
            }
            _ => None,
        };
        let (Some(index), Some((name, kind))) = (index, made) else { return };
        // Whatever else may be called so by now is not ours.
        let removed = self.routes.link(name).and_then(|link| match link {
            Some(link) if link.index == index && link.kind == kind => self.routes.delete(index),
            _ => Ok(()),
        });
        match removed {
            Ok(()) => {}
            Err(e) if e.is(rustix::io::Errno::NODEV) => {}
            Err(error) => tracing::warn!(network = %network.name, %error, "removing a network's link"),
        }
    }

    pub(crate) fn network_remove(&mut self, name: &str) -> Result<Arc<NetworkRecord>> {
        let network = self.resolve(name)?;
        if PREDEFINED.contains(&network.name.as_str()) {
            return Err(Error::forbidden(format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            )));
        }
        let view = self.books().view(&network);
        if !view.endpoints.is_empty() {
            let list: Vec<String> = view
                .endpoints
                .iter()
                .map(|(_, name, e)| format!("name:{name:?} id:{:?}", &e.endpoint_id[..12]))
                .collect();
            let text = format!(
                "error while removing network: network {} has active endpoints ({})",
                network.name,
                list.join(", ")
            );
            return Err(Error::forbidden(text));
        }
        if network.config_only {
            let books = self.books();
            if books.networks().any(|n| n.config_from == network.name) {
                let name = &network.name;
                let text =
                    format!("error while removing network: configuration network \"{name}\" is in use");
                return Err(Error::forbidden(text));
            }
        }
        // The record last: a bridge without a record would be nobody's, a network without a bridge gets one again.
        self.take_down(&network);
        self.books().remove_network(&network.id);
        if let Some(bridge) = books::bridge_of(&network) {
            if let Err(error) = self.change_firewall(|firewall| firewall.remove_bridge(&bridge)) {
                tracing::error!(network = %network.name, error = %error.chain(), "taking a bridge out of the firewall");
            }
        }
        reached("network-remove.down");
        if let Err(error) = self.records.remove(&network.id) {
            self.books().add_network(NetworkRecord::clone(&network));
            if let Err(error) = self.put_up(&network) {
                tracing::error!(network = %network.name, error = %error.chain(), "putting back a network whose record stays");
            }
            return Err(error);
        }
        reached("network-remove.record-gone");
        Ok(network)
    }

    fn bridge_settings(&mut self, request: &NetworkRequest, id: &str) -> Result<BridgeRecord> {
        let settings = bridge_options::settings(request, &self.config)?;
        let Some(name) = request.options.get(option::NAME).filter(|n| !n.is_empty()) else {
            return Ok(BridgeRecord { link: format!("br-{}", &id[..12]), ..settings });
        };
        bridge::check_name(name)?;
        let another = {
            let books = self.books();
            books.networks().any(|n| n.bridge.as_ref().is_some_and(|b| b.link == *name))
        };
        if another {
            return Err(Error::forbidden(format!("bridge {name} belongs to another network")));
        }
        let there = self.routes.link(name).map_err(|e| Error::internal("looking for a link").because(e))?;
        let found = match &there {
            Some(link) => Some(bridge::found(&mut self.routes, link)?),
            None => None,
        };
        Ok(BridgeRecord { link: name.clone(), adopted: there.is_some(), found, ..settings })
    }
}

fn check_network_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("invalid name: name is empty"));
    }
    let mut bytes = name.bytes();
    let ok = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if ok {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "invalid network name: {name:?}, only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed"
        )))
    }
}
