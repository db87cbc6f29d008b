// SPDX-License-Identifier: Apache-2.0
//! Making and releasing sandboxes (runs on the worker's thread).

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use berth_domain::step::reached;
use berth_domain::{ContainerId, Error, Result};
use rustix::io::Errno;

use crate::books::{self, Held};
use crate::bridge::frames_are_filtered;
use crate::dns;
use crate::endpoint::{self, check_request, no_pair, random_id};
use crate::ipam::Family;
use crate::netns::Namespace;
use crate::networks::Sandbox;
use crate::nft::Forward;
use crate::pool::Dressed;
use crate::ports::{PortTaken, Way, Ways, held_name};
use crate::worker::Worker;
use crate::{
    Driver, EndpointRecord, EndpointRequest, GatewayMode, Mode, NetworkRecord, PortRequest, SandboxRecord,
    SandboxRequest, UserNamespace,
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
        let SandboxRequest { name, mode, ports, hostname, dns_servers, user } = request;
        let (endpoints, ports) = match mode {
            Mode::Container(netns) => {
                let record = SandboxRecord { name, ..SandboxRecord::default() };
                return Ok(Sandbox { netns: Some(netns), userns: None, record, held: Vec::new() });
            }
            Mode::Host => (vec![EndpointRequest::on("host")], Vec::new()),
            Mode::None => (vec![EndpointRequest::on("none")], Vec::new()),
            Mode::Networks(endpoints) => (endpoints, ports),
        };
        let plan = self.plan(&endpoints)?;
        let alone = |driver| matches!(driver, Driver::Host | Driver::Null);
        let on_host = plan.iter().any(|(network, _)| network.driver == Driver::Host);
        if plan.len() > 1 && plan.iter().any(|(network, _)| alone(network.driver)) {
            return Err(Error::invalid("a container on the network host or none can be on no other network"));
        }
        let sandbox_id = random_id()?;
        let record = SandboxRecord { sandbox_id, name, hostname, dns_servers, ..SandboxRecord::default() };
        self.books().put(container.clone(), Held { record, ..Held::default() });
        let made = if on_host {
            self.lease_all(container, &plan).map(|()| None)
        } else {
            self.build(container, &plan, &ports, &user).map(Some)
        };
        let whole = made.and_then(|namespace| {
            let (netns, userns) = namespace.map_or((None, None), |made| (Some(made.fd), made.user));
            let record = self.books().sandbox(container).cloned().unwrap_or_default();
            Ok(Sandbox { netns, userns, record, held: self.copies(container)? })
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
            check_request(&network, endpoint)?;
            plan.push((network, endpoint.clone()));
        }
        plan.sort_by(|(a, ra), (b, rb)| {
            let key =
                |n: &NetworkRecord, r: &EndpointRequest| (n.internal, std::cmp::Reverse(r.gateway_priority));
            key(a, ra).cmp(&key(b, rb)).then_with(|| a.name.cmp(&b.name))
        });
        Ok(plan)
    }

    fn build(
        &mut self,
        container: &ContainerId,
        plan: &Plan,
        ports: &[PortRequest],
        user: &UserNamespace,
    ) -> Result<Namespace> {
        let ready = if self.pool.suits(user) { self.take_ready(container, plan) } else { None };
        if ready.is_none() {
            self.lease_all(container, plan)?;
        }
        reached("sandbox.leased");
        self.reserve_ports(container, ports)?;
        let namespace = match ready {
            Some(namespace) => namespace,
            None => self.build_links(container, user)?,
        };
        reached("sandbox.plugged");
        if plan.iter().any(|(network, _)| dns::is_served(network)) {
            self.serve_names(container, namespace.fd.as_fd())?;
        }
        self.publish(container)?;
        Ok(namespace)
    }

    /// A namespace that is on the default network already, where that is all that is asked for.
    fn take_ready(&mut self, container: &ContainerId, plan: &Plan) -> Option<Namespace> {
        let [(network, request)] = plan else { return None };
        let plain = request.mac.is_none() && request.ipv4.is_none() && request.options.is_empty();
        if network.name != books::DEFAULT || !plain {
            return None;
        }
        if !self.default_bridge_is_there(network) {
            self.strip();
            return None;
        }
        let Dressed { namespace, mut endpoint } = self.pool.take_dressed()?;
        endpoint.aliases.clone_from(&request.aliases);
        endpoint.links.clone_from(&request.links);
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
        let mut books = self.books();
        let mut endpoints = books.sandbox(container).map(|s| s.endpoints.clone()).unwrap_or_default();
        // In the order of their links, but for who has the gateways.
        endpoint::assign_gateways(&books, &mut endpoints);
        if let Some(record) = books.sandbox_mut(container) {
            record.endpoints = endpoints;
        }
        Ok(())
    }

    pub(crate) fn lease(
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

    fn build_links(&mut self, container: &ContainerId, user: &UserNamespace) -> Result<Namespace> {
        let mut namespace =
            if self.pool.suits(user) { self.pool.take()? } else { self.pool.make_apart(user)? };
        let endpoints = self.books().sandbox(container).map(|s| s.endpoints.clone()).unwrap_or_default();
        for (n, endpoint) in (0..).zip(&endpoints) {
            self.plug(endpoint, &mut namespace, n)?;
        }
        Ok(namespace)
    }

    pub(crate) fn plug(
        &mut self,
        endpoint: &EndpointRecord,
        namespace: &mut Namespace,
        nth: u32,
    ) -> Result<()> {
        if endpoint.interface.is_none() {
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

    /// How ports lead into a sandbox; `None` if they do not at all.
    fn ways(&self, container: &ContainerId) -> Option<Ways> {
        let books = self.books();
        let record = books.sandbox(container)?;
        let bridge_of = |family| {
            let (endpoint, _) = books::published_endpoint(record, family)?;
            books.network(&endpoint.network_id).filter(|n| n.driver == Driver::Bridge)
        };
        let way = |family| match bridge_of(family).map(|n| books::gateway_mode(n, family)) {
            None => Way::None,
            Some(GatewayMode::Routed) => Way::Routed,
            Some(_) => Way::Translated,
        };
        let (v4, v6) = (way(Family::V4), way(Family::V6));
        let network = bridge_of(Family::V4).or_else(|| bridge_of(Family::V6))?;
        let default_ip = network.bridge.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |b| b.host_binding_ipv4);
        Some(Ways { v4, v6, default_ip })
    }

    fn reserve_ports(&mut self, container: &ContainerId, requests: &[PortRequest]) -> Result<()> {
        if requests.iter().any(|request| request.container_port == 0) {
            return Err(Error::invalid("invalid container port 0"));
        }
        // Without a way out there is none in either.
        let Some(ways) = self.ways(container) else { return Ok(()) };
        let reserved = {
            let books = self.books();
            self.ports.reserve(requests, &ways, |protocol, ip, port| books.is_published(protocol, ip, port))
        };
        let mut books = self.books();
        let Some(held) = books.held_mut(container) else { return Ok(()) };
        let reserved = reserved.map_err(|e| {
            let name = &held.record.name;
            let id = held.record.endpoints.first().map_or("", |e| &e.endpoint_id);
            let doing = format!("driver failed programming external connectivity on endpoint {name} ({id})");
            match e {
                PortTaken::NoWay { .. } => Error::invalid(doing).because(e),
                e => Error::internal(doing).because(e),
            }
        })?;
        books.publish(container, reserved);
        reached("sandbox.ports-reserved");
        Ok(())
    }

    fn publish(&mut self, container: &ContainerId) -> Result<()> {
        let forwards = self.forwards(container);
        if forwards.is_empty() {
            return Ok(());
        }
        // Whether ::1 can be translated is told by a setting that others change (a module that Docker loads, for one).
        let ipv6 = forwards.iter().any(|f| f.to.is_ipv6());
        if ipv6 && self.loopback6_is_lost != frames_are_filtered(Family::V6) {
            self.rebuild_firewall()?;
        } else {
            self.change_firewall(|firewall| firewall.publish(&forwards))?;
        }
        reached("sandbox.published");
        self.forget_flows(&forwards);
        Ok(())
    }

    /// A sandbox's published ports as the firewall sees them.
    pub(crate) fn forwards(&self, container: &ContainerId) -> Vec<Forward> {
        let books = self.books();
        books.sandbox(container).map(|record| books.forwards(container, record)).unwrap_or_default()
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

    /// Gives all back. Nothing here waits for the kernel to take links or namespaces apart.
    pub(crate) fn release(&mut self, container: &ContainerId) {
        let forwards = self.forwards(container);
        let Some(held) = self.books().take(container) else { return };
        self.changes.end(container);
        if !forwards.is_empty() {
            if let Err(error) = self.change_firewall(|firewall| firewall.unpublish(&forwards)) {
                // The next change or sweep replaces the table.
                tracing::error!(container = %container, error = %error.chain(), "unpublishing ports");
            }
            reached("release.unpublished");
            self.forget_flows(&forwards);
        }
        for (port, sockets) in held.sockets {
            self.ports.give_back(&port, sockets);
        }
        reached("release.given-back");
    }
}
