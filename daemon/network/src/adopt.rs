// SPDX-License-Identifier: Apache-2.0
//! After a restart of the daemon: taking back what runs, removing what belongs to nobody (runs on the worker's thread).

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use berth_domain::{ContainerId, Error, Result};
use rustix::io::Errno;

use crate::books::Held;
use crate::changing::Change;
use crate::connect;
use crate::endpoint::is_link_of_ours;
use crate::ipam::{Family, NoAddress};
use crate::ports::{Way, Ways, held_name};
use crate::route::Link;
use crate::worker::Worker;
use crate::{EndpointRecord, HostPorts, PortRequest, PublishedPort, SandboxRecord};

impl Worker {
    pub(crate) fn adopt(
        &mut self,
        container: &ContainerId,
        record: SandboxRecord,
        netns: Option<OwnedFd>,
        held: Vec<(String, OwnedFd)>,
    ) -> Result<()> {
        self.check_adoptable(container, &record)?;
        let mut by_name: Vec<(String, OwnedFd)> = held;
        let mut sockets: Vec<(PublishedPort, Vec<OwnedFd>)> = Vec::new();
        for port in record.ports.iter().filter(|port| port.host_port != 0) {
            let name = held_name(port);
            let (mine, rest): (Vec<_>, Vec<_>) = by_name.into_iter().partition(|(n, _)| *n == name);
            by_name = rest;
            let mut mine: Vec<OwnedFd> = mine.into_iter().map(|(_, socket)| socket).collect();
            if mine.is_empty() && shares_a_socket(&record, port) {
                continue;
            }
            if mine.is_empty() {
                mine = self.reserve_again(port);
            }
            sockets.push((port.clone(), mine));
        }
        let change = self.changes.under_way(container, &record);
        let restored = match (&change, &netns) {
            (Some(change), Some(netns)) => self.restore(&record, change, netns),
            _ => Ok(()),
        };
        match restored {
            Ok(()) => self.changes.end(container),
            Err(error) => {
                tracing::error!(container = %container, error = %error.chain(), "bringing a container's links in line with its record");
            }
        }
        let resolver = if record.resolver { self.serve_again(container, by_name, netns) } else { None };
        let mut books = self.books();
        for endpoint in &record.endpoints {
            for ip in endpoint.addresses().map(|net| net.addr()) {
                // Checked above; outside the subnet (it was configured anew) there is nothing to lease.
                if let Err(error) = books.lease(&endpoint.network_id, Family::of(ip), Some(ip)) {
                    tracing::warn!(container = %container, %ip, %error, "an adopted address is not of its network's subnet");
                }
            }
        }
        books.put(container.clone(), Held { record, sockets, resolver });
        Ok(())
    }

    /// Undoes what a daemon that died while it connected or disconnected the container may have done of it. All else in there is
    /// the container's: its own links, and routes that it changed.
    fn restore(&mut self, record: &SandboxRecord, change: &Change, netns: &OwnedFd) -> Result<()> {
        let mut namespace = connect::enter(netns)?;
        let present = namespace
            .routes
            .links()
            .map_err(|e| Error::internal("listing a container's links").because(e))?;
        let none_of = |list: &[EndpointRecord], e: &EndpointRecord| {
            !list.iter().any(|other| other.endpoint_id == e.endpoint_id)
        };
        for endpoint in change.after.iter().filter(|e| none_of(&record.endpoints, e)) {
            // Those on bridges have an end out here too, by which the sweep finds them.
            let made = |link: &&Link| {
                endpoint.link.is_none()
                    && matches!(link.kind.as_str(), "macvlan" | "ipvlan")
                    && Some(&link.name) == endpoint.interface.as_ref()
            };
            for link in present.iter().filter(made) {
                tracing::info!(link = %link.name, "removing a link that the container's record does not know");
                let removed = namespace.routes.delete(link.index);
                removed.map_err(|e| Error::internal(format!("removing link {}", link.name)).because(e))?;
            }
        }
        for endpoint in record.endpoints.iter().filter(|e| none_of(&change.after, e)) {
            let Some(interface) = &endpoint.interface else { continue };
            if !present.iter().any(|link| link.name == *interface) {
                tracing::info!(%interface, network = %endpoint.network_name, "a container lacks a link that its record knows; making it again");
                let bare = EndpointRecord { gateway: None, ipv6_gateway: None, ..endpoint.clone() };
                self.plug(&bare, &mut namespace, 0)?;
            }
        }
        connect::move_routes(&mut namespace.routes, &change.after, &record.endpoints)
    }

    /// For a port whose socket was not kept. It works without, too: only nothing keeps others from binding it.
    fn reserve_again(&self, port: &PublishedPort) -> Vec<OwnedFd> {
        let request = PortRequest {
            protocol: port.protocol,
            container_port: port.container_port,
            host_ip: Some(port.host_ip),
            host_ports: HostPorts::Range(port.host_port, port.host_port),
        };
        let ways = Ways { v4: Way::Translated, v6: Way::Translated, default_ip: Ipv4Addr::UNSPECIFIED };
        match self.ports.reserve(&[request], &ways, |_, _, _| false) {
            Ok(reserved) => reserved.into_iter().flat_map(|r| r.sockets).collect(),
            Err(error) => {
                tracing::warn!(%error, "an adopted port cannot be reserved again");
                Vec::new()
            }
        }
    }

    fn check_adoptable(&self, container: &ContainerId, record: &SandboxRecord) -> Result<()> {
        let mut books = self.books();
        if books.sandbox(container).is_some() {
            return Err(Error::conflict(format!("container {} has a sandbox already", container.short())));
        }
        for endpoint in &record.endpoints {
            for ip in endpoint.addresses().map(|net| net.addr()) {
                match books.lease(&endpoint.network_id, Family::of(ip), Some(ip)) {
                    Ok(_) => books.give_back(&endpoint.network_id, ip),
                    Err(NoAddress::Taken) => {
                        let name = &endpoint.network_name;
                        return Err(Error::conflict(format!(
                            "address {ip} on network {name} belongs to another container"
                        )));
                    }
                    Err(NoAddress::Outside(_) | NoAddress::Exhausted) => {}
                }
            }
        }
        for port in record.ports.iter().filter(|port| port.host_port != 0) {
            if books.is_published(port.protocol, port.host_ip, port.host_port) {
                let number = port.host_port;
                return Err(Error::conflict(format!(
                    "port {number}/{} belongs to another container",
                    port.protocol
                )));
            }
        }
        Ok(())
    }

    pub(crate) fn sweep(&mut self, live: &[ContainerId]) -> Result<()> {
        let dead: Vec<ContainerId> =
            self.books().containers().filter(|c| !live.contains(c)).cloned().collect();
        for container in dead {
            self.release(&container);
        }
        self.changes.retain(live)?;
        let first = !std::mem::replace(&mut self.swept, true);
        let bridges: Vec<u32> = {
            let books = self.books();
            books.networks().filter_map(|n| books.link(&n.id)).collect()
        };
        let links = self.routes.links().map_err(|e| Error::internal("listing links").because(e))?;
        for link in links {
            let of_ours = is_link_of_ours(&link.name) && link.master.is_some_and(|m| bridges.contains(&m));
            if of_ours && !self.books().knows_link(&link.name) {
                tracing::info!(link = %link.name, "removing a link that belongs to no container");
                match self.routes.delete(link.index) {
                    Ok(()) => {}
                    Err(e) if e.is(Errno::NODEV) => {}
                    Err(e) => return Err(Error::internal(format!("removing link {}", link.name)).because(e)),
                }
            }
        }
        self.rebuild_firewall()?;
        if first {
            if let Err(error) = self.remove_old_firewall() {
                tracing::error!(error = %error.chain(), "removing the firewall table of an earlier daemon");
            }
            self.make_ahead()?;
        }
        Ok(())
    }
}

/// Whether a port published on every address of IPv6 is kept by the socket of the same port of IPv4.
fn shares_a_socket(record: &SandboxRecord, port: &PublishedPort) -> bool {
    let twin = PublishedPort { host_ip: Ipv4Addr::UNSPECIFIED.into(), ..port.clone() };
    port.host_ip == IpAddr::from([0_u16; 8]) && record.ports.contains(&twin)
}
