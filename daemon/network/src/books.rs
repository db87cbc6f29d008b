// SPDX-License-Identifier: Apache-2.0
//! Who has what, in memory. Leases and ports are those of the sandboxes in here; nothing else keeps them.
//!
//! The worker alone writes. Everybody reads, under a lock that is never held over a call to the kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_domain::{ContainerId, Error, Result};

use crate::dns::Serving;
use crate::ipam::{Leases, NoAddress};
use crate::networks::NetworkView;
use crate::nft::{Bridge, Forward, Known};
use crate::{Driver, EndpointRecord, NetworkRecord, Protocol, PublishedPort, SandboxRecord, ports};

/// Name of the default bridge network.
pub(crate) const DEFAULT: &str = "bridge";

#[derive(Debug, Default)]
pub(crate) struct Books {
    networks: BTreeMap<String, Network>,
    sandboxes: HashMap<ContainerId, Held>,
    /// Links of namespaces made ahead.
    ahead: BTreeSet<String>,
}

#[derive(Debug)]
struct Network {
    record: Arc<NetworkRecord>,
    leases: Vec<Leases>,
    /// Index of its bridge.
    link: Option<u32>,
}

/// A sandbox and what it holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) record: SandboxRecord,
    pub(crate) sockets: Vec<(PublishedPort, Vec<OwnedFd>)>,
    /// Its resolver, where it has one.
    pub(crate) resolver: Option<Serving>,
}

impl Books {
    pub(crate) fn add_network(&mut self, record: NetworkRecord) {
        let leases = record.ranges.iter().filter_map(Leases::of).collect();
        let network = Network { record: Arc::new(record), leases, link: None };
        self.networks.insert(network.record.id.clone(), network);
    }

    pub(crate) fn remove_network(&mut self, id: &str) {
        self.networks.remove(id);
    }

    pub(crate) fn networks(&self) -> impl Iterator<Item = &Arc<NetworkRecord>> {
        self.networks.values().map(|n| &n.record)
    }

    pub(crate) fn network(&self, id: &str) -> Option<&Arc<NetworkRecord>> {
        self.networks.get(id).map(|n| &n.record)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<NetworkRecord>> {
        self.networks().find(|n| n.name == name)
    }

    /// By name, id, or the beginning of one id.
    pub(crate) fn resolve(&self, name: &str) -> Result<&Arc<NetworkRecord>> {
        let not_found = || Error::not_found(format!("network {name} not found"));
        let name = if name == "default" { DEFAULT } else { name };
        if let Some(network) = self.network(name).or_else(|| self.by_name(name)) {
            return Ok(network);
        }
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        let mut found = self.networks().filter(|n| n.id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(network), None) => Ok(network),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("network {name} is ambiguous: several ids begin so")))
            }
            _ => Err(not_found()),
        }
    }

    pub(crate) fn set_link(&mut self, id: &str, index: u32) {
        if let Some(network) = self.networks.get_mut(id) {
            network.link = Some(index);
        }
    }

    pub(crate) fn link(&self, id: &str) -> Option<u32> {
        self.networks.get(id).and_then(|n| n.link)
    }

    /// Leases an address on a network: this one, or any. With the prefix length of its subnet.
    pub(crate) fn lease(
        &mut self,
        network: &str,
        wanted: Option<Ipv4Addr>,
    ) -> Result<(Ipv4Addr, u8), NoAddress> {
        let Some(network) = self.networks.get_mut(network) else { return Err(NoAddress::Exhausted) };
        let mut last = wanted.map_or(NoAddress::Exhausted, NoAddress::Outside);
        for leases in &mut network.leases {
            let prefix = leases.subnet().prefix_len();
            let leased = match wanted {
                Some(ip) => leases.take(ip).map(|()| ip),
                None => leases.take_any(),
            };
            match leased {
                Ok(ip) => return Ok((ip, prefix)),
                Err(NoAddress::Outside(_)) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// How many addresses a network has left.
    pub(crate) fn free_addresses(&self, network: &str) -> usize {
        self.networks.get(network).map_or(0, |n| n.leases.iter().map(Leases::free).sum())
    }

    pub(crate) fn give_back(&mut self, network: &str, ip: Ipv4Addr) {
        if let Some(network) = self.networks.get_mut(network) {
            for leases in network.leases.iter_mut().filter(|l| l.subnet().contains(&ip)) {
                leases.give_back(ip);
            }
        }
    }

    pub(crate) fn sandbox(&self, container: &ContainerId) -> Option<&SandboxRecord> {
        self.sandboxes.get(container).map(|h| &h.record)
    }

    pub(crate) fn sandbox_mut(&mut self, container: &ContainerId) -> Option<&mut SandboxRecord> {
        self.sandboxes.get_mut(container).map(|h| &mut h.record)
    }

    pub(crate) fn sandboxes(&self) -> impl Iterator<Item = (&ContainerId, &SandboxRecord)> {
        self.sandboxes.iter().map(|(id, held)| (id, &held.record))
    }

    /// A sandbox's resolver.
    pub(crate) fn resolver(&self, container: &ContainerId) -> Option<&Serving> {
        self.sandboxes.get(container)?.resolver.as_ref()
    }

    pub(crate) fn containers(&self) -> impl Iterator<Item = &ContainerId> {
        self.sandboxes.keys()
    }

    /// The sandbox is known from now on. Its leases have been taken.
    pub(crate) fn put(&mut self, container: ContainerId, held: Held) {
        self.sandboxes.insert(container, held);
    }

    /// Changes what a sandbox holds; its leases stay.
    pub(crate) fn held_mut(&mut self, container: &ContainerId) -> Option<&mut Held> {
        self.sandboxes.get_mut(container)
    }

    /// The sockets that keep a sandbox's ports.
    pub(crate) fn sockets(&self, container: &ContainerId) -> &[(PublishedPort, Vec<OwnedFd>)] {
        self.sandboxes.get(container).map_or(&[], |h| &h.sockets)
    }

    /// The sandbox is no more, and its addresses are free.
    pub(crate) fn take(&mut self, container: &ContainerId) -> Option<Held> {
        let held = self.sandboxes.remove(container)?;
        for endpoint in &held.record.endpoints {
            if let Some(ip) = endpoint.ipv4 {
                self.give_back(&endpoint.network_id, ip);
            }
        }
        Some(held)
    }

    /// An endpoint is being made ahead; its lease has been taken.
    pub(crate) fn dress(&mut self, endpoint: &EndpointRecord) {
        self.ahead.extend(endpoint.link.clone());
    }

    /// An endpoint made ahead is nobody's: its address is free.
    pub(crate) fn undress(&mut self, endpoint: &EndpointRecord) {
        if let Some(ip) = endpoint.ipv4 {
            self.give_back(&endpoint.network_id, ip);
        }
        if let Some(link) = &endpoint.link {
            self.ahead.remove(link);
        }
    }

    /// An endpoint made ahead is this container's from now on.
    pub(crate) fn hand_over(&mut self, container: &ContainerId, endpoint: EndpointRecord) {
        if let Some(link) = &endpoint.link {
            self.ahead.remove(link);
        }
        if let Some(record) = self.sandbox_mut(container) {
            record.endpoints.push(endpoint);
        }
    }

    /// Whether a container publishes this.
    pub(crate) fn is_published(&self, protocol: Protocol, ip: IpAddr, port: u16) -> bool {
        self.sandboxes
            .values()
            .flat_map(|h| &h.record.ports)
            .any(|p| p.protocol == protocol && p.host_port == port && ports::overlaps(p.host_ip, ip))
    }

    /// Whether one of our links has this name.
    pub(crate) fn knows_link(&self, name: &str) -> bool {
        let mut links =
            self.sandboxes.values().flat_map(|h| &h.record.endpoints).filter_map(|e| e.link.as_deref());
        self.ahead.contains(name) || links.any(|link| link == name)
    }

    pub(crate) fn views(&self) -> Vec<NetworkView> {
        let mut views: Vec<_> = self.networks().map(|n| self.view(n)).collect();
        views.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        views
    }

    pub(crate) fn view(&self, network: &Arc<NetworkRecord>) -> NetworkView {
        let mut endpoints: Vec<_> = self
            .sandboxes
            .iter()
            .filter_map(|(id, held)| {
                let endpoint = held.record.endpoints.iter().find(|e| e.network_id == network.id)?;
                Some((id.clone(), held.record.name.clone(), endpoint.clone()))
            })
            .collect();
        endpoints.sort_by(|a, b| a.0.cmp(&b.0));
        NetworkView { record: Arc::clone(network), endpoints }
    }

    /// What the firewall must hold.
    pub(crate) fn firewall(&self) -> Known {
        Known {
            bridges: self.networks().filter_map(|n| bridge(n)).collect(),
            forwards: self.sandboxes.iter().flat_map(|(id, held)| forwards(id, &held.record)).collect(),
        }
    }
}

/// A network as the firewall sees it.
pub(crate) fn bridge(network: &NetworkRecord) -> Option<Bridge> {
    let bridge = network.bridge.as_ref().filter(|_| network.driver == Driver::Bridge)?;
    let subnets = network.ranges.iter().filter_map(|r| match r.subnet {
        ipnet::IpNet::V4(net) => Some(net.trunc()),
        ipnet::IpNet::V6(_) => None,
    });
    Some(Bridge {
        link: bridge.link.clone(),
        subnets: subnets.collect(),
        icc: bridge.icc,
        masquerade: bridge.masquerade,
        internal: network.internal,
    })
}

/// The endpoint that published ports lead to: the one with the default gateway.
pub(crate) fn published_endpoint(record: &SandboxRecord) -> Option<&EndpointRecord> {
    record.endpoints.iter().find(|e| e.gateway.is_some() && e.ipv4.is_some())
}

/// A sandbox's published ports as the firewall sees them.
pub(crate) fn forwards(container: &ContainerId, record: &SandboxRecord) -> Vec<Forward> {
    let Some(to) = published_endpoint(record).and_then(|e| e.ipv4) else { return Vec::new() };
    let forward = |port: &PublishedPort| match port.host_ip {
        IpAddr::V4(host_ip) => Some(Forward {
            protocol: port.protocol,
            host_ip,
            host_port: port.host_port,
            to,
            to_port: port.container_port,
            comment: container.short().to_owned(),
        }),
        IpAddr::V6(_) => None,
    };
    record.ports.iter().filter_map(forward).collect()
}
