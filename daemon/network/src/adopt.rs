// SPDX-License-Identifier: Apache-2.0
//! After a restart of the daemon: taking back what runs, removing what belongs to nobody (runs on the worker's thread).

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use berth_domain::{ContainerId, Error, Result};
use rustix::io::Errno;

use crate::books::Held;
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
        if let Some(netns) = &netns {
            if let Err(error) = self.restore(&record, netns) {
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

    /// Brings a running container's links and routes in line with its record: a daemon that died while it connected or
    /// disconnected the container may have left them between what was and what was to be.
    fn restore(&mut self, record: &SandboxRecord, netns: &OwnedFd) -> Result<()> {
        let mut namespace = connect::enter(netns)?;
        let present = namespace
            .routes
            .links()
            .map_err(|e| Error::internal("listing a container's links").because(e))?;
        let known = |link: &Link| record.endpoints.iter().any(|e| e.interface.as_deref() == Some(&link.name));
        // Those on bridges have an end out here too, by which the sweep finds them.
        for link in present.iter().filter(|link| link.kind == "macvlan" && !known(link)) {
            tracing::info!(link = %link.name, "removing a link that the container's record does not know");
            let removed = namespace.routes.delete(link.index);
            removed.map_err(|e| Error::internal(format!("removing link {}", link.name)).because(e))?;
        }
        let mut missing = false;
        for endpoint in &record.endpoints {
            let Some(interface) = &endpoint.interface else { continue };
            if !present.iter().any(|link| link.name == *interface) {
                tracing::info!(%interface, network = %endpoint.network_name, "a container lacks a link that its record knows; making it again");
                let bare = EndpointRecord { gateway: None, ipv6_gateway: None, ..endpoint.clone() };
                self.plug(&bare, &mut namespace, 0)?;
                missing = true;
            }
        }
        let Some(first) = record.endpoints.iter().find(|e| e.gateways().next().is_some()) else {
            return Ok(());
        };
        let out = namespace
            .routes
            .way_out()
            .map_err(|e| Error::internal("listing a container's routes").because(e))?;
        let right = present
            .iter()
            .any(|link| Some(link.index) == out && Some(&link.name) == first.interface.as_ref());
        if missing || !right {
            connect::move_routes(&mut namespace.routes, &[], &record.endpoints)?;
        }
        Ok(())
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
