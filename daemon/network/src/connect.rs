// SPDX-License-Identifier: Apache-2.0
//! Running containers that join and leave networks (runs on the worker's thread).

use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_domain::step::reached;
use berth_domain::{ContainerId, Error, Result};
use rustix::io::Errno;

use crate::changing::Change;
use crate::endpoint::{assign_gateways, check_request};
use crate::ipam::Family;
use crate::netns::{self, Namespace};
use crate::route::{Link, Routes};
use crate::worker::Worker;
use crate::{EndpointRecord, EndpointRequest, NetworkRecord, SandboxRecord, dns};

/// A namespace that is not of our pool's making. The index of the next link cannot be guessed in it; 0 is nobody's, so that links
/// are looked up by name.
pub(crate) fn enter(netns: &OwnedFd) -> Result<Namespace> {
    let routes = netns::routes_inside(netns.as_fd())?;
    let fd = netns.try_clone().map_err(|e| Error::internal("copying a namespace's descriptor").because(e))?;
    Ok(Namespace { fd, user: None, routes, next_index: 0 })
}

/// Interface and gateway of a family's default route.
fn way_out(endpoints: &[EndpointRecord], family: Family) -> Option<(&str, IpAddr)> {
    endpoints.iter().find_map(|e| {
        let gateway = e.gateways().find(|ip| Family::of(*ip) == family)?;
        Some((e.interface.as_deref()?, gateway))
    })
}

/// Has default routes lead where the endpoints say, which led elsewhere before. One that cannot be moved does not keep the other.
pub(crate) fn move_routes(
    routes: &mut Routes,
    before: &[EndpointRecord],
    after: &[EndpointRecord],
) -> Result<()> {
    let mut all = Ok(());
    for family in [Family::V4, Family::V6] {
        let (was, is) = (way_out(before, family), way_out(after, family));
        let moved = match (was, is) {
            (was, is) if was == is => Ok(()),
            (_, Some((interface, gateway))) => routes.route_outward(interface, gateway),
            (Some((interface, gateway)), None) => routes.no_longer_outward(interface, gateway),
            (None, None) => Ok(()),
        };
        all = all.and(moved.map_err(|e| {
            let interface = is.or(was).map_or("", |(interface, _)| interface);
            Error::internal(format!("moving the default route to {interface}")).because(e)
        }));
    }
    all
}

impl Worker {
    pub(crate) fn connect(
        &mut self,
        container: &ContainerId,
        netns: &OwnedFd,
        request: &EndpointRequest,
    ) -> Result<SandboxRecord> {
        let network = self.resolve(&request.network)?;
        let before = self.books().sandbox(container).cloned();
        let Some(before) = before else {
            return Err(Error::conflict(format!("container {} is not running", container.short())));
        };
        check_connect(&network, &before)?;
        check_request(&network, request)?;
        let endpoint = self.lease(container, &network, request)?;
        reached("connect.leased");
        if let Err(error) = self.join(container, &network, &before, &endpoint, netns) {
            let mut books = self.books();
            if let Some(record) = books.sandbox_mut(container) {
                record.endpoints.clone_from(&before.endpoints);
            }
            books.give_back_all(&endpoint);
            drop(books);
            self.changes.end(container);
            return Err(error);
        }
        let after = self.books().sandbox(container).cloned();
        after.ok_or_else(|| Error::internal("the sandbox went away"))
    }

    /// Joins wholly, or leaves all but the books as it was.
    fn join(
        &mut self,
        container: &ContainerId,
        network: &NetworkRecord,
        before: &SandboxRecord,
        endpoint: &EndpointRecord,
        netns: &OwnedFd,
    ) -> Result<()> {
        let mut namespace = enter(netns)?;
        let mut after = [&before.endpoints[..], std::slice::from_ref(endpoint)].concat();
        assign_gateways(&self.books(), &mut after);
        let change = Change { before: before.endpoints.clone(), after };
        self.changes.begin(container, &change)?;
        let joined = self.plug(endpoint, &mut namespace, 0).and_then(|()| {
            reached("connect.plugged");
            self.republish(container, before, &change.after)?;
            let routed = move_routes(&mut namespace.routes, &change.before, &change.after);
            reached("connect.routed");
            let served = match routed {
                Ok(()) if dns::is_served(network) && !before.resolver => {
                    self.serve_names(container, netns.as_fd())
                }
                routed => routed,
            };
            if served.is_err() {
                self.turn_back(container, before, &change, &mut namespace);
            }
            served
        });
        if joined.is_err() {
            let _whether = self.unplug(endpoint, netns, true);
        }
        joined
    }

    /// Has published ports follow the gateways, which may be elsewhere now; the books too. All of it, or nothing.
    fn republish(
        &mut self,
        container: &ContainerId,
        before: &SandboxRecord,
        endpoints: &[EndpointRecord],
    ) -> Result<()> {
        let (was, is) = {
            let mut books = self.books();
            let was = books.forwards(container, before);
            if let Some(record) = books.sandbox_mut(container) {
                record.endpoints = endpoints.to_vec();
            }
            let is = books.sandbox(container).map(|record| books.forwards(container, record));
            (was, is.unwrap_or_default())
        };
        if was == is {
            return Ok(());
        }
        if let Err(error) = self.change_firewall(|firewall| firewall.republish(&was, &is)) {
            if let Some(record) = self.books().sandbox_mut(container) {
                record.endpoints.clone_from(&before.endpoints);
            }
            return Err(error);
        }
        reached("connect.republished");
        self.forget_flows(&was);
        Ok(())
    }

    /// Published ports and routes lead again where they led before a change.
    fn turn_back(
        &mut self,
        container: &ContainerId,
        before: &SandboxRecord,
        change: &Change,
        namespace: &mut Namespace,
    ) {
        let changed = SandboxRecord { endpoints: change.after.clone(), ..before.clone() };
        let ports = self.republish(container, &changed, &change.before);
        let routes = move_routes(&mut namespace.routes, &change.after, &change.before);
        for error in [ports, routes].into_iter().filter_map(Result::err) {
            tracing::error!(container = %container, error = %error.chain(), "undoing a connection that failed");
        }
    }

    pub(crate) fn disconnect(
        &mut self,
        container: &ContainerId,
        netns: &OwnedFd,
        network: &str,
    ) -> Result<SandboxRecord> {
        let network = self.resolve(network)?;
        let not_there = || {
            Error::forbidden(format!("container {container} is not connected to network {}", network.name))
        };
        let before = self.books().sandbox(container).cloned().ok_or_else(not_there)?;
        let mut endpoints = before.endpoints.clone();
        let at = endpoints.iter().position(|e| e.network_id == network.id).ok_or_else(not_there)?;
        let endpoint = endpoints.remove(at);
        assign_gateways(&self.books(), &mut endpoints);
        let mut namespace = enter(netns)?;
        let change = Change { before: before.endpoints.clone(), after: endpoints };
        self.changes.begin(container, &change)?;
        self.republish(container, &before, &change.after).inspect_err(|_| self.changes.end(container))?;
        // Routes are within the container's reach, which may have taken a link down: it leaves the network all the same.
        if let Err(error) = move_routes(&mut namespace.routes, &change.before, &change.after) {
            tracing::warn!(container = %container, error = %error.chain(), "a container that leaves a network has no other way out");
        }
        reached("connect.routed");
        let unplugged = self.unplug(&endpoint, netns, false);
        reached("disconnect.unplugged");
        if unplugged {
            self.books().give_back_all(&endpoint);
        }
        reached("disconnect.left");
        let after = self.books().sandbox(container).cloned();
        after.ok_or_else(|| Error::internal("the sandbox went away"))
    }

    /// Removes an endpoint's links; whether they are gone. It is waited for: until then the address is in use, and the name in the
    /// container is taken. A link that is to be `fresh` may not be there, and another of the container's own in its stead.
    fn unplug(&mut self, endpoint: &EndpointRecord, netns: &OwnedFd, fresh: bool) -> bool {
        let removed = match (&endpoint.link, &endpoint.interface) {
            (Some(link), _) => remove_link(&mut self.routes, link, |_| true),
            (None, Some(inside)) => netns::routes_inside(netns.as_fd()).and_then(|mut routes| {
                // An ipvlan has no address to know it by.
                let known = |link: &Link| endpoint.mac.is_none() || link.mac == endpoint.mac;
                let ours = |link: &Link| {
                    matches!(link.kind.as_str(), "macvlan" | "ipvlan") && (!fresh || known(link))
                };
                remove_link(&mut routes, inside, ours)
            }),
            (None, None) => Ok(()),
        };
        if let Err(error) = &removed {
            let network = &endpoint.network_name;
            tracing::error!(%network, error = %error.chain(), "a link is left, and keeps its address until the next start of the daemon");
        }
        removed.is_ok()
    }
}

fn remove_link(routes: &mut Routes, name: &str, ours: impl FnOnce(&Link) -> bool) -> Result<()> {
    let removed = routes.link(name).and_then(|link| match link {
        Some(link) if ours(&link) => routes.delete(link.index),
        _ => Ok(()),
    });
    match removed {
        Err(refused) if !refused.is(Errno::NODEV) => {
            Err(Error::internal(format!("removing link {name}")).because(refused))
        }
        _ => Ok(()),
    }
}

fn check_connect(network: &NetworkRecord, sandbox: &SandboxRecord) -> Result<()> {
    if !network.driver.has_links() {
        let text = format!("a container cannot be connected to the network {}", network.name);
        return Err(Error::invalid(text));
    }
    if sandbox.endpoints.iter().any(|e| e.network_id == network.id) {
        let text = format!("endpoint with name {} already exists in network {}", sandbox.name, network.name);
        return Err(Error::forbidden(text));
    }
    if sandbox.endpoints.iter().any(|e| e.interface.is_none()) || sandbox.sandbox_id.is_empty() {
        return Err(Error::conflict(
            "a container on the network host or none, or on another container's network, cannot be connected to a network",
        ));
    }
    Ok(())
}
