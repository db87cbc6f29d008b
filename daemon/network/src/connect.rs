// SPDX-License-Identifier: Apache-2.0
//! Running containers that join and leave networks (runs on the worker's thread).

use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_domain::step::reached;
use berth_domain::{ContainerId, Error, Result};

use crate::endpoint::{assign_gateways, check_request};
use crate::ipam::Family;
use crate::netns::{self, Namespace};
use crate::route::Routes;
use crate::worker::Worker;
use crate::{Driver, EndpointRecord, EndpointRequest, NetworkRecord, SandboxRecord, dns};

/// A namespace that is not of our pool's making. The index of the next link cannot be guessed in it; 0 is nobody's, so that links
/// are looked up by name.
pub(crate) fn enter(netns: &OwnedFd) -> Result<Namespace> {
    let routes = netns::routes_inside(netns.as_fd())?;
    let fd = netns.try_clone().map_err(|e| Error::internal("copying a namespace's descriptor").because(e))?;
    Ok(Namespace { fd, routes, next_index: 0 })
}

/// Interface and gateway of a family's default route.
fn way_out(endpoints: &[EndpointRecord], family: Family) -> Option<(&str, IpAddr)> {
    endpoints.iter().find_map(|e| {
        let gateway = e.gateways().find(|ip| Family::of(*ip) == family)?;
        Some((e.interface.as_deref()?, gateway))
    })
}

/// Has default routes lead where the endpoints say, which led elsewhere before.
pub(crate) fn move_routes(
    routes: &mut Routes,
    before: &[EndpointRecord],
    after: &[EndpointRecord],
) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let (was, is) = (way_out(before, family), way_out(after, family));
        let moved = match (was, is) {
            (was, is) if was == is => Ok(()),
            (_, Some((interface, gateway))) => routes.route_outward(interface, gateway),
            (Some((interface, gateway)), None) => routes.no_longer_outward(interface, gateway),
            (None, None) => Ok(()),
        };
        moved.map_err(|e| {
            let interface = is.or(was).map_or("", |(interface, _)| interface);
            Error::internal(format!("moving the default route to {interface}")).because(e)
        })?;
    }
    Ok(())
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
        let connected = self.join(container, &network, &before, &endpoint, netns);
        if let Err(error) = connected {
            let mut books = self.books();
            if let Some(record) = books.sandbox_mut(container) {
                record.endpoints.clone_from(&before.endpoints);
            }
            books.give_back_all(&endpoint);
            drop(books);
            self.unplug(&endpoint, netns);
            return Err(error);
        }
        let after = self.books().sandbox(container).cloned();
        after.ok_or_else(|| Error::internal("the sandbox went away"))
    }

    fn join(
        &mut self,
        container: &ContainerId,
        network: &NetworkRecord,
        before: &SandboxRecord,
        endpoint: &EndpointRecord,
        netns: &OwnedFd,
    ) -> Result<()> {
        let mut namespace = enter(netns)?;
        self.plug(endpoint, &mut namespace, 0)?;
        reached("connect.plugged");
        let mut endpoints = [&before.endpoints[..], std::slice::from_ref(endpoint)].concat();
        assign_gateways(&self.books(), &mut endpoints);
        self.change_endpoints(container, before, &endpoints, &mut namespace)?;
        if dns::is_served(network) && !before.resolver {
            self.serve_names(container, netns.as_fd())
        } else {
            Ok(())
        }
    }

    /// Has routes and published ports follow the gateways, which may be elsewhere now.
    fn change_endpoints(
        &mut self,
        container: &ContainerId,
        before: &SandboxRecord,
        endpoints: &[EndpointRecord],
        namespace: &mut Namespace,
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
        move_routes(&mut namespace.routes, &before.endpoints, endpoints)?;
        reached("connect.routed");
        if was != is {
            self.change_firewall(|firewall| firewall.republish(&was, &is))?;
            reached("connect.republished");
            self.forget_flows(&was);
        }
        Ok(())
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
        let changed = self.change_endpoints(container, &before, &endpoints, &mut namespace);
        self.books().give_back_all(&endpoint);
        reached("disconnect.left");
        self.unplug(&endpoint, netns);
        reached("disconnect.unplugged");
        changed?;
        let after = self.books().sandbox(container).cloned();
        after.ok_or_else(|| Error::internal("the sandbox went away"))
    }

    /// Removes an endpoint's links, in the background: the kernel takes its time.
    fn unplug(&mut self, endpoint: &EndpointRecord, netns: &OwnedFd) {
        let (name, opened) = match (&endpoint.link, &endpoint.interface) {
            (Some(link), _) => (link.clone(), Routes::open().map_err(|e| e.to_string())),
            (None, Some(inside)) => {
                (inside.clone(), netns::routes_inside(netns.as_fd()).map_err(|e| e.chain()))
            }
            (None, None) => return,
        };
        let mut routes = match opened {
            Ok(routes) => routes,
            Err(error) => return tracing::warn!(link = %name, %error, "removing a link"),
        };
        let body = move || {
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

fn check_connect(network: &NetworkRecord, sandbox: &SandboxRecord) -> Result<()> {
    if !matches!(network.driver, Driver::Bridge | Driver::Macvlan) {
        let text = format!("a container cannot be connected to the network {}", network.name);
        return Err(Error::invalid(text));
    }
    if sandbox.endpoints.iter().any(|e| e.network_id == network.id) {
        let text = format!("endpoint with name {} already exists in network {}", sandbox.name, network.name);
        return Err(Error::forbidden(text));
    }
    if sandbox.endpoints.iter().any(|e| e.mac.is_none()) || sandbox.sandbox_id.is_empty() {
        return Err(Error::conflict(
            "a container on the network host or none, or on another container's network, cannot be connected to a network",
        ));
    }
    Ok(())
}
