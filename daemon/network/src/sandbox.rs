// SPDX-License-Identifier: Apache-2.0
//! Making, adopting and releasing sandboxes (runs on the worker's thread).

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use berth_domain::{ContainerId, Error, Result};
use rustix::io::Errno;

use crate::books::{self, Held};
use crate::dns;
use crate::endpoint::{self, check_static, is_link_of_ours, no_pair, random_id};
use crate::ipam::NoAddress;
use crate::netns::{self, Namespace};
use crate::networks::Sandbox;
use crate::pool::Dressed;
use crate::ports::held_name;
use crate::worker::Worker;
use crate::{
    Driver, EndpointRecord, EndpointRequest, HostPorts, Mode, NetworkRecord, PortRequest, PublishedPort,
    SandboxRecord, SandboxRequest,
};

/// The networks meant, the one that gives the default gateway first.
type Plan = [(Arc<NetworkRecord>, EndpointRequest)];

/// Leaves room in a message for other descriptors.
const HELD_MAX: usize = 200;

impl Worker {
    pub(crate) fn create(&mut self, container: &ContainerId, request: SandboxRequest) -> Result<Sandbox> {
        if self.books().sandbox(container).is_some() {
            return Err(Error::conflict(format!("container {} has a sandbox already", container.short())));
        }
        let SandboxRequest { name, mode, ports, hostname, dns_servers } = request;
        let (endpoints, ports) = match mode {
            Mode::Container(netns) => {
                let record = SandboxRecord { name, ..SandboxRecord::default() };
                return Ok(Sandbox { netns: Some(netns), record, held: Vec::new() });
            }
            Mode::Host => (vec![EndpointRequest::on("host")], Vec::new()),
            Mode::None => (vec![EndpointRequest::on("none")], Vec::new()),
            Mode::Networks(endpoints) => (endpoints, ports),
        };
        let plan = self.plan(&endpoints)?;
        let on_host = plan.iter().any(|(network, _)| network.driver == Driver::Host);
        if plan.len() > 1 && plan.iter().any(|(network, _)| network.driver != Driver::Bridge) {
            return Err(Error::invalid("a container on the network host or none can be on no other network"));
        }
        let sandbox_id = random_id()?;
        let record = SandboxRecord { sandbox_id, name, hostname, dns_servers, ..SandboxRecord::default() };
        self.books().put(container.clone(), Held { record, ..Held::default() });
        let made = if on_host {
            self.lease_all(container, &plan).map(|()| None)
        } else {
            self.build(container, &plan, &ports).map(Some)
        };
        let whole = made.and_then(|netns| {
            let record = self.books().sandbox(container).cloned().unwrap_or_default();
            Ok(Sandbox { netns, record, held: self.copies(container)? })
        });
        if whole.is_err() {
            self.release(container);
        }
        whole
    }

    /// The networks meant, the one that gives the default gateway first.
    fn plan(&self, endpoints: &[EndpointRequest]) -> Result<Vec<(Arc<NetworkRecord>, EndpointRequest)>> {
        let mut plan: Vec<(Arc<NetworkRecord>, EndpointRequest)> = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let network = self.resolve(&endpoint.network)?;
            if plan.iter().any(|(other, _)| other.id == network.id) {
                return Err(Error::invalid(format!("network {} is named twice", network.name)));
            }
            check_static(&network, endpoint)?;
            plan.push((network, endpoint.clone()));
        }
        plan.sort_by(|(a, ra), (b, rb)| {
            let key =
                |n: &NetworkRecord, r: &EndpointRequest| (n.internal, std::cmp::Reverse(r.gateway_priority));
            key(a, ra).cmp(&key(b, rb)).then_with(|| a.name.cmp(&b.name))
        });
        Ok(plan)
    }

    fn build(&mut self, container: &ContainerId, plan: &Plan, ports: &[PortRequest]) -> Result<OwnedFd> {
        let ready = self.take_ready(container, plan);
        if ready.is_none() {
            self.lease_all(container, plan)?;
        }
        self.reserve_ports(container, plan, ports)?;
        let namespace = match ready {
            Some(namespace) => namespace,
            None => self.build_links(container)?,
        };
        if plan.iter().any(|(network, _)| dns::is_served(network)) {
            self.serve_names(container, namespace.fd.as_fd())?;
        }
        self.publish(container)?;
        Ok(namespace.fd)
    }

    /// A namespace that is on the default network already, where that is all that is asked for.
    fn take_ready(&mut self, container: &ContainerId, plan: &Plan) -> Option<Namespace> {
        let [(network, request)] = plan else { return None };
        if network.name != books::DEFAULT || request.mac.is_some() || request.ipv4.is_some() {
            return None;
        }
        if !self.default_bridge_is_there(network) {
            self.strip();
            return None;
        }
        let Dressed { namespace, mut endpoint } = self.pool.take_dressed()?;
        endpoint.aliases.clone_from(&request.aliases);
        endpoint.links.clone_from(&request.links);
        endpoint.options.clone_from(&request.options);
        endpoint.gateway_priority = request.gateway_priority;
        self.books().hand_over(container, endpoint);
        Some(namespace)
    }

    /// What is made ahead is on the bridge that was there then; somebody may have removed it since.
    fn default_bridge_is_there(&self, network: &NetworkRecord) -> bool {
        let link = network.bridge.as_ref().map_or("", |b| &b.link);
        nix::net::if_::if_nametoindex(link).ok() == self.books().link(&network.id)
    }

    /// Takes back what is made ahead on the default network, with its addresses.
    fn strip(&mut self) {
        for dressed in self.pool.strip() {
            self.books().undress(&dressed.endpoint);
        }
    }

    /// Leases addresses on all networks; the endpoints are in the books when it returns.
    fn lease_all(&mut self, container: &ContainerId, plan: &Plan) -> Result<()> {
        for (network, request) in plan {
            self.lease(container, network, request)?;
        }
        Ok(())
    }

    fn lease(
        &mut self,
        container: &ContainerId,
        network: &NetworkRecord,
        request: &EndpointRequest,
    ) -> Result<EndpointRecord> {
        let others = self.books().sandbox(container).map(|s| s.endpoints.clone()).unwrap_or_default();
        let mut leased = endpoint::lease(&mut self.books(), &others, network, request);
        if leased.is_err() && network.name == books::DEFAULT {
            // The last addresses may be with namespaces made ahead.
            self.strip();
            leased = endpoint::lease(&mut self.books(), &others, network, request);
        }
        let endpoint = leased?;
        if let Some(record) = self.books().sandbox_mut(container) {
            record.endpoints.push(endpoint.clone());
        }
        Ok(endpoint)
    }

    fn build_links(&mut self, container: &ContainerId) -> Result<Namespace> {
        let mut namespace = self.pool.take()?;
        let endpoints = self.books().sandbox(container).map(|s| s.endpoints.clone()).unwrap_or_default();
        for (n, endpoint) in (0..).zip(&endpoints) {
            self.plug(endpoint, &mut namespace, n)?;
        }
        Ok(namespace)
    }

    fn plug(&mut self, endpoint: &EndpointRecord, namespace: &mut Namespace, nth: u32) -> Result<()> {
        if endpoint.link.is_none() {
            return Ok(());
        }
        let network = self.resolve(&endpoint.network_id)?;
        let index = self.books().link(&network.id);
        let index = match index {
            Some(index) => index,
            // Its bridge could not be made when we opened: perhaps it can now.
            None => self.raise_again(&network)?,
        };
        let netns = namespace.fd.as_fd();
        let made = match endpoint::plug(&mut self.routes, &network, index, endpoint, netns) {
            // Somebody removed the bridge behind our back.
            Err(e) if e.is(Errno::NODEV) || e.is(Errno::INVAL) || e.is(Errno::OPNOTSUPP) => {
                let index = self.raise_again(&network)?;
                endpoint::plug(&mut self.routes, &network, index, endpoint, netns)
            }
            result => result,
        };
        made.map_err(|e| no_pair(&network, e))?;
        endpoint::configure(namespace, endpoint, nth)
    }

    fn raise_again(&mut self, network: &NetworkRecord) -> Result<u32> {
        self.raise(network)?;
        self.books()
            .link(&network.id)
            .ok_or_else(|| Error::internal(format!("network {} has no bridge", network.name)))
    }

    fn reserve_ports(
        &mut self,
        container: &ContainerId,
        plan: &Plan,
        requests: &[PortRequest],
    ) -> Result<()> {
        let (name, endpoint) = match self.books().sandbox(container) {
            Some(record) => (record.name.clone(), books::published_endpoint(record).cloned()),
            None => return Ok(()),
        };
        // Without a way out there is none in either.
        let Some(endpoint) = endpoint else { return Ok(()) };
        for request in requests {
            if request.container_port == 0 {
                return Err(Error::invalid("invalid container port 0"));
            }
            if let Some(IpAddr::V6(ip)) = request.host_ip {
                return Err(Error::not_implemented(format!("publishing a port on the IPv6 address {ip}")));
            }
        }
        let bridge =
            plan.iter().find(|(n, _)| n.id == endpoint.network_id).and_then(|(n, _)| n.bridge.as_ref());
        let default_ip = bridge.map_or(Ipv4Addr::UNSPECIFIED, |b| b.host_binding_ipv4);
        let reserved = {
            let books = self.books();
            self.ports
                .reserve(requests, default_ip, |protocol, ip, port| books.is_published(protocol, ip, port))
        };
        let reserved = reserved.map_err(|e| {
            let id = &endpoint.endpoint_id;
            Error::internal(format!(
                "driver failed programming external connectivity on endpoint {name} ({id})"
            ))
            .because(e)
        })?;
        if let Some(held) = self.books().held_mut(container) {
            for reservation in reserved {
                held.record.ports.push(reservation.port.clone());
                held.sockets.push((reservation.port, reservation.sockets));
            }
        }
        Ok(())
    }

    fn publish(&mut self, container: &ContainerId) -> Result<()> {
        let forwards =
            self.books().sandbox(container).map(|s| books::forwards(container, s)).unwrap_or_default();
        if forwards.is_empty() {
            return Ok(());
        }
        self.change_firewall(|firewall| firewall.publish(&forwards))?;
        self.forget_flows(&forwards);
        Ok(())
    }

    /// Copies of the descriptors that the shim is to hold. A message to it carries 250 at most, so that of more
    /// ports than that the rest is kept by the daemon alone, and reserved again by the next one.
    fn copies(&self, container: &ContainerId) -> Result<Vec<(String, OwnedFd)>> {
        let books = self.books();
        let mut copies = match books.resolver(container) {
            Some(serving) => serving.copies()?,
            None => Vec::new(),
        };
        for (port, sockets) in books.sockets(container) {
            for socket in sockets.iter().take(HELD_MAX - copies.len()) {
                let copy = socket.try_clone().map_err(|e| Error::internal("copying a socket").because(e))?;
                copies.push((held_name(port), copy));
            }
        }
        Ok(copies)
    }

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
        for port in &record.ports {
            let name = held_name(port);
            let (mine, rest): (Vec<_>, Vec<_>) = by_name.into_iter().partition(|(n, _)| *n == name);
            by_name = rest;
            let mut mine: Vec<OwnedFd> = mine.into_iter().map(|(_, socket)| socket).collect();
            if mine.is_empty() {
                mine = self.reserve_again(port);
            }
            sockets.push((port.clone(), mine));
        }
        let resolver = if record.resolver { self.serve_again(container, by_name, netns) } else { None };
        let mut books = self.books();
        for endpoint in &record.endpoints {
            if let Some(ip) = endpoint.ipv4 {
                // Checked above; outside the subnet (it was configured anew) there is nothing to lease.
                if let Err(error) = books.lease(&endpoint.network_id, Some(ip)) {
                    tracing::warn!(container = %container, %ip, %error, "an adopted address is not of its network's subnet");
                }
            }
        }
        books.put(container.clone(), Held { record, sockets, resolver });
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
        match self.ports.reserve(&[request], Ipv4Addr::UNSPECIFIED, |_, _, _| false) {
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
            let Some(ip) = endpoint.ipv4 else { continue };
            match books.lease(&endpoint.network_id, Some(ip)) {
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
        for port in &record.ports {
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

    /// Gives all back. Nothing here waits for the kernel to take links or namespaces apart.
    pub(crate) fn release(&mut self, container: &ContainerId) {
        let Some(held) = self.books().take(container) else { return };
        let forwards = books::forwards(container, &held.record);
        if !forwards.is_empty() {
            if let Err(error) = self.change_firewall(|firewall| firewall.unpublish(&forwards)) {
                // The next change or sweep replaces the table.
                tracing::error!(container = %container, error = %error.chain(), "unpublishing ports");
            }
            self.forget_flows(&forwards);
        }
        for (port, sockets) in held.sockets {
            self.ports.give_back(&port, sockets);
        }
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

    pub(crate) fn connect(
        &mut self,
        container: &ContainerId,
        netns: &OwnedFd,
        request: &EndpointRequest,
    ) -> Result<SandboxRecord> {
        let network = self.resolve(&request.network)?;
        let sandbox = self.books().sandbox(container).cloned();
        let Some(sandbox) = sandbox else {
            return Err(Error::conflict(format!("container {} is not running", container.short())));
        };
        if network.driver != Driver::Bridge {
            return Err(Error::invalid(format!(
                "a container cannot be connected to the network {}",
                network.name
            )));
        }
        if sandbox.endpoints.iter().any(|e| e.network_id == network.id) {
            let text =
                format!("endpoint with name {} already exists in network {}", sandbox.name, network.name);
            return Err(Error::forbidden(text));
        }
        if sandbox.endpoints.iter().any(|e| e.mac.is_none()) || sandbox.sandbox_id.is_empty() {
            return Err(Error::conflict(
                "a container on the network host or none, or on another container's network, cannot be connected to a network",
            ));
        }
        check_static(&network, request)?;
        let endpoint = self.lease(container, &network, request)?;
        let connected = self.connect_endpoint(&endpoint, netns).and_then(|()| {
            let serve = dns::is_served(&network) && !sandbox.resolver;
            if serve { self.serve_names(container, netns.as_fd()) } else { Ok(()) }
        });
        let mut books = self.books();
        let Some(record) = books.sandbox_mut(container) else {
            return Err(Error::internal("the sandbox went away"));
        };
        if connected.is_ok() {
            return Ok(record.clone());
        }
        record.endpoints.retain(|e| e.endpoint_id != endpoint.endpoint_id);
        if let Some(ip) = endpoint.ipv4 {
            books.give_back(&network.id, ip);
        }
        drop(books);
        self.unplug(&endpoint);
        connected.map(|()| SandboxRecord::default())
    }

    fn connect_endpoint(&mut self, endpoint: &EndpointRecord, netns: &OwnedFd) -> Result<()> {
        let routes = netns::routes_inside(netns.as_fd())?;
        let fd =
            netns.try_clone().map_err(|e| Error::internal("copying a namespace's descriptor").because(e))?;
        // The index cannot be guessed here; 0 is nobody's, so that the link is looked up by name.
        let mut namespace = Namespace { fd, routes, next_index: 0 };
        self.plug(endpoint, &mut namespace, 0)
    }

    pub(crate) fn disconnect(
        &mut self,
        container: &ContainerId,
        netns: &OwnedFd,
        network: &str,
    ) -> Result<SandboxRecord> {
        let network = self.resolve(network)?;
        let not_there =
            || Error::internal(format!("container {container} is not connected to network {}", network.name));
        let mut record = self.books().sandbox(container).cloned().ok_or_else(not_there)?;
        let before = books::forwards(container, &record);
        let at = record.endpoints.iter().position(|e| e.network_id == network.id).ok_or_else(not_there)?;
        let endpoint = record.endpoints.remove(at);
        let heir = endpoint.gateway.and_then(|_| self.heir(&record));
        if let Some((at, gateway)) = heir {
            record.endpoints[at].gateway = Some(gateway);
        }
        let after = books::forwards(container, &record);
        {
            let mut books = self.books();
            if let Some(ip) = endpoint.ipv4 {
                books.give_back(&network.id, ip);
            }
            if let Some(known) = books.sandbox_mut(container) {
                *known = record.clone();
            }
        }
        if let Some((at, gateway)) = heir {
            let interface = record.endpoints[at].interface.as_deref().unwrap_or_default();
            netns::routes_inside(netns.as_fd())?.route_outward(interface, gateway).map_err(|e| {
                Error::internal(format!("moving the default route to {interface}")).because(e)
            })?;
        }
        self.unplug(&endpoint);
        if before != after {
            self.change_firewall(|firewall| firewall.unpublish(&before))?;
            self.change_firewall(|firewall| firewall.publish(&after))?;
            self.forget_flows(&before);
        }
        Ok(record)
    }

    /// The endpoint that the default gateway passes to, and the gateway there.
    fn heir(&self, record: &SandboxRecord) -> Option<(usize, Ipv4Addr)> {
        let books = self.books();
        let able = record.endpoints.iter().enumerate().filter_map(|(at, endpoint)| {
            let network = books.network(&endpoint.network_id).filter(|n| !n.internal)?;
            let gateway = crate::bridge::gateway(network)?.addr();
            let key = (std::cmp::Reverse(endpoint.gateway_priority), network.name.clone());
            Some((key, (at, gateway)))
        });
        able.min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, heir)| heir)
    }

    /// Removes an endpoint's links, in the background: the kernel takes its time.
    fn unplug(&mut self, endpoint: &EndpointRecord) {
        let Some(name) = endpoint.link.clone() else { return };
        let routes = match crate::route::Routes::open() {
            Ok(routes) => routes,
            Err(error) => return tracing::warn!(link = %name, %error, "removing a link"),
        };
        let body = move || {
            let mut routes = routes;
            let removed = routes.link(&name).and_then(|link| link.map_or(Ok(()), |l| routes.delete(l.index)));
            if let Err(error) = removed {
                tracing::warn!(link = %name, %error, "removing a link");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("unplug".into()).spawn(body) {
            tracing::warn!(%error, "starting a thread that removes a link");
        }
    }
}
