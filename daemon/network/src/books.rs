// SPDX-License-Identifier: Apache-2.0
//! Who has what, in memory. Leases and ports are those of the sandboxes in here; nothing else keeps them.
//!
//! The worker alone writes. Everybody reads, under a lock that is never held over a call to the kernel.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_domain::{ContainerId, Error, Result};

use crate::dns::{NameTable, Serving};
use crate::ipam::{Family, Leases, NoAddress};
use crate::networks::NetworkView;
use crate::nft::{Bridge, Forward, Known};
use crate::ports::Reservation;
use crate::{
    Driver, EndpointRecord, GatewayMode, NetworkRecord, Protocol, PublishedPort, SandboxRecord, bridge, ports,
};

/// Name of the default bridge network.
pub(crate) const DEFAULT: &str = "bridge";

#[derive(Debug, Default)]
pub(crate) struct Books {
    networks: BTreeMap<String, Network>,
    sandboxes: HashMap<ContainerId, Held>,
    /// Links of namespaces made ahead.
    ahead: BTreeSet<String>,
    /// Differs whenever who is called how may.
    generation: u64,
    /// Who is called how, by network, and as of which generation.
    names: HashMap<String, (u64, Arc<NameTable>)>,
    /// Published ports are reached from elsewhere at the container's own address too.
    direct_routing: bool,
    /// The host addresses that each host port is published on, by whomever.
    published: HashMap<(Protocol, u16), Vec<IpAddr>>,
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
    pub(crate) fn new(direct_routing: bool) -> Self {
        Self { direct_routing, ..Self::default() }
    }

    pub(crate) fn add_network(&mut self, record: NetworkRecord) {
        self.generation += 1;
        let leases = record.ranges.iter().map(Leases::of).collect();
        let network = Network { record: Arc::new(record), leases, link: None };
        self.networks.insert(network.record.id.clone(), network);
    }

    pub(crate) fn remove_network(&mut self, id: &str) {
        self.names.remove(id);
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

    /// Leases an address of a family on a network: this one, or any. With the prefix length of its subnet.
    pub(crate) fn lease(
        &mut self,
        network: &str,
        family: Family,
        wanted: Option<IpAddr>,
    ) -> Result<(IpAddr, u8), NoAddress> {
        let Some(network) = self.networks.get_mut(network) else { return Err(NoAddress::Exhausted) };
        let mut last = wanted.map_or(NoAddress::Exhausted, NoAddress::Outside);
        for leases in network.leases.iter_mut().filter(|l| l.family() == family) {
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

    /// How many addresses a network has left, in the family that has fewer.
    pub(crate) fn free_addresses(&self, network: &str) -> usize {
        let Some(network) = self.networks.get(network) else { return 0 };
        let of = |family| {
            let leases = network.leases.iter().filter(move |l| l.family() == family);
            leases.map(Leases::free).reduce(usize::saturating_add)
        };
        [of(Family::V4), of(Family::V6)].into_iter().flatten().min().unwrap_or(0)
    }

    /// An endpoint's addresses are nobody's any more.
    pub(crate) fn give_back_all(&mut self, endpoint: &EndpointRecord) {
        for net in endpoint.addresses() {
            self.give_back(&endpoint.network_id, net.addr());
        }
    }

    pub(crate) fn give_back(&mut self, network: &str, ip: IpAddr) {
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
        self.generation += 1;
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
        self.generation += 1;
        for port in &held.record.ports {
            self.published.entry((port.protocol, port.host_port)).or_default().push(port.host_ip);
        }
        self.sandboxes.insert(container, held);
    }

    /// Changes what a sandbox holds; its leases stay.
    pub(crate) fn held_mut(&mut self, container: &ContainerId) -> Option<&mut Held> {
        self.generation += 1;
        self.sandboxes.get_mut(container)
    }

    /// The sandbox has these ports from now on.
    pub(crate) fn publish(&mut self, container: &ContainerId, reserved: Vec<Reservation>) {
        let Some(held) = self.sandboxes.get_mut(container) else { return };
        for Reservation { ports, sockets } in reserved {
            // Where one family is reached at the container's own address, the other's port is what they keep.
            let kept = ports.iter().find(|port| port.host_port != 0);
            held.sockets.extend(kept.map(|port| (port.clone(), sockets)));
            for port in &ports {
                self.published.entry((port.protocol, port.host_port)).or_default().push(port.host_ip);
            }
            held.record.ports.extend(ports);
        }
    }

    /// The sockets that keep a sandbox's ports.
    pub(crate) fn sockets(&self, container: &ContainerId) -> &[(PublishedPort, Vec<OwnedFd>)] {
        self.sandboxes.get(container).map_or(&[], |h| &h.sockets)
    }

    /// The sandbox is no more, and its addresses are free.
    pub(crate) fn take(&mut self, container: &ContainerId) -> Option<Held> {
        self.generation += 1;
        let held = self.sandboxes.remove(container)?;
        for endpoint in &held.record.endpoints {
            self.give_back_all(endpoint);
        }
        for port in &held.record.ports {
            let Entry::Occupied(mut on) = self.published.entry((port.protocol, port.host_port)) else {
                continue;
            };
            if let Some(at) = on.get().iter().position(|ip| *ip == port.host_ip) {
                on.get_mut().swap_remove(at);
            }
            if on.get().is_empty() {
                on.remove();
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
        self.give_back_all(endpoint);
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
        let on = self.published.get(&(protocol, port));
        on.is_some_and(|on| on.iter().any(|there| ports::overlaps(*there, ip)))
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
            bridges: self.networks().filter_map(|n| bridge_of(n)).collect(),
            forwards: self.sandboxes.iter().flat_map(|(id, held)| self.forwards(id, &held.record)).collect(),
            loopback6_is_lost: bridge::frames_are_filtered(Family::V6),
        }
    }

    /// Who is called how on a network.
    pub(crate) fn names(&mut self, network: &str) -> Arc<NameTable> {
        if let Some((generation, table)) = self.names.get(network) {
            if *generation == self.generation {
                return Arc::clone(table);
            }
        }
        let table = Arc::new(NameTable::of(self, network));
        self.names.insert(network.to_owned(), (self.generation, Arc::clone(&table)));
        table
    }

    /// A sandbox's published ports as the firewall sees them.
    pub(crate) fn forwards(&self, container: &ContainerId, record: &SandboxRecord) -> Vec<Forward> {
        let mut forwards: Vec<Forward> = Vec::with_capacity(record.ports.len());
        for port in &record.ports {
            let family = Family::of(port.host_ip);
            let Some((endpoint, to)) = published_endpoint(record, family) else { continue };
            let mode =
                self.network(&endpoint.network_id).map(|n| gateway_mode(n, family)).unwrap_or_default();
            let forward = Forward {
                protocol: port.protocol,
                host_ip: port.host_ip,
                host_port: port.host_port,
                to,
                to_port: port.container_port,
                comment: container.short().to_owned(),
                routed: mode == GatewayMode::Routed,
            };
            let direct = self.direct_routing && !forward.routed && forward.host_ip.is_unspecified();
            let direct = direct.then(|| Forward { routed: true, host_port: 0, ..forward.clone() });
            for forward in std::iter::once(forward).chain(direct) {
                // Reached at its own address a port is one, however often it is published.
                if !(forward.routed && forwards.iter().any(|f| f.routed && same_target(f, &forward))) {
                    forwards.push(forward);
                }
            }
        }
        forwards
    }
}

fn same_target(a: &Forward, b: &Forward) -> bool {
    (a.protocol, a.to, a.to_port) == (b.protocol, b.to, b.to_port)
}

/// How a family leads into and out of a network.
pub(crate) fn gateway_mode(network: &NetworkRecord, family: Family) -> GatewayMode {
    let bridge = network.bridge.as_ref();
    let mode = match family {
        Family::V4 => bridge.map(|b| b.gateway_mode_ipv4),
        Family::V6 => bridge.map(|b| b.gateway_mode_ipv6),
    };
    mode.unwrap_or_default()
}

/// A network as the firewall sees it.
pub(crate) fn bridge_of(network: &NetworkRecord) -> Option<Bridge> {
    let bridge = network.bridge.as_ref().filter(|_| network.driver == Driver::Bridge)?;
    Some(Bridge {
        link: bridge.link.clone(),
        subnets: network.ranges.iter().map(|r| r.subnet.trunc()).collect(),
        icc: bridge.icc,
        masquerade: bridge.masquerade,
        internal: network.internal,
        modes: [bridge.gateway_mode_ipv4, bridge.gateway_mode_ipv6],
    })
}

/// The endpoint that published ports of a family lead to, the one with the default gateway, and its address.
pub(crate) fn published_endpoint(
    record: &SandboxRecord,
    family: Family,
) -> Option<(&EndpointRecord, IpAddr)> {
    record.endpoints.iter().find_map(|e| {
        let to = match family {
            Family::V4 => e.gateway.and(e.ipv4).map(IpAddr::V4),
            Family::V6 => e.ipv6_gateway.and(e.ipv6).map(IpAddr::V6),
        };
        to.map(|to| (e, to))
    })
}
