// SPDX-License-Identifier: Apache-2.0
//! A container's place on one network: its record, and its pair of links.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};

use berth_domain::{EndpointId, Error, Result};
use rustix::io::Errno;

use crate::books::{Books, DEFAULT};
use crate::bridge::{check_name, frames_are_filtered, way_out};
use crate::ipam::{Family, NoAddress};
use crate::netlink::Refused;
use crate::netns::{self, Namespace};
use crate::route::{Inside, Pair, PortOptions, Routes};
use crate::{Driver, EndpointRecord, EndpointRequest, Mac, NetworkRecord, sysctl};

/// How our links begin; the rest is of the endpoint's id.
const LINK_PREFIX: &str = "vb";

/// 64 hexadecimal digits.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::internal("reading random bytes").because(e.to_string()))?;
    Ok(EndpointId::from_bytes(bytes).as_str().to_owned())
}

/// Whether a link is called as ours are.
pub(crate) fn is_link_of_ours(name: &str) -> bool {
    name.strip_prefix(LINK_PREFIX)
        .is_some_and(|rest| rest.len() == 13 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Leases addresses on a network for a container that is on `others` already. The leases are the caller's to give back.
pub(crate) fn lease(
    books: &mut Books,
    others: &[EndpointRecord],
    network: &NetworkRecord,
    request: &EndpointRequest,
) -> Result<EndpointRecord> {
    let endpoint_id = random_id()?;
    let mut endpoint = EndpointRecord {
        network_id: network.id.clone(),
        network_name: network.name.clone(),
        endpoint_id,
        ipv4: None,
        ipv4_prefix: 0,
        gateway: None,
        ipv6: None,
        ipv6_prefix: 0,
        ipv6_gateway: None,
        mac: None,
        link: None,
        interface: None,
        asked_ipv4: request.ipv4,
        asked_ipv6: request.ipv6,
        aliases: request.aliases.clone(),
        links: request.links.clone(),
        options: request.options.clone(),
        gateway_priority: request.gateway_priority,
    };
    if !network.driver.has_links() {
        return Ok(endpoint);
    }
    let taken: Vec<&str> = others.iter().filter_map(|e| e.interface.as_deref()).collect();
    endpoint.interface = Some(interface(network, request, &taken)?);
    if network.driver == Driver::Bridge {
        endpoint.link = Some(format!("{LINK_PREFIX}{}", &endpoint.endpoint_id[..13]));
    }
    let no_address = |family, e| no_address(network, family, e);
    if network.ipv4 {
        let wanted = request.ipv4.map(IpAddr::V4);
        let (ip, prefix) =
            books.lease(&network.id, Family::V4, wanted).map_err(|e| no_address(Family::V4, e))?;
        if let IpAddr::V4(ip) = ip {
            (endpoint.ipv4, endpoint.ipv4_prefix) = (Some(ip), prefix);
        }
    }
    if network.ipv6 {
        let wanted = request.ipv6.map(IpAddr::V6);
        match books.lease(&network.id, Family::V6, wanted) {
            Ok((IpAddr::V6(ip), prefix)) => (endpoint.ipv6, endpoint.ipv6_prefix) = (Some(ip), prefix),
            Ok(_) => {}
            Err(error) => {
                books.give_back_all(&endpoint);
                return Err(no_address(Family::V6, error));
            }
        }
    }
    if network.driver == Driver::Ipvlan {
        return Ok(endpoint);
    }
    let mac = match (request.mac, endpoint.ipv4) {
        (Some(mac), _) => Ok(mac),
        (None, Some(ip)) => Ok(Mac::of_ip(ip)),
        (None, None) => Mac::random(),
    };
    endpoint.mac = Some(mac.inspect_err(|_| books.give_back_all(&endpoint))?);
    Ok(endpoint)
}

/// How the link inside is called: as asked, else the network's prefix and the first free number.
fn interface(network: &NetworkRecord, request: &EndpointRequest, taken: &[&str]) -> Result<String> {
    if let Some(name) = request.options.get(IFNAME) {
        check_name(name)?;
        if taken.contains(&name.as_str()) || name == "lo" {
            return Err(Error::invalid(format!("{IFNAME}: the container has an interface {name:?} already")));
        }
        return Ok(name.clone());
    }
    let prefix = network.interface_prefix.as_deref().unwrap_or("eth");
    let free = (0..).map(|n| format!("{prefix}{n}")).find(|name| !taken.contains(&name.as_str()));
    free.ok_or_else(|| Error::internal("no name is free for an interface"))
}

/// Docker's name of the option that names a link.
const IFNAME: &str = "com.docker.network.endpoint.ifname";

/// Decides which endpoints the default gateways are on: for each family the first, by priority, then by name, that has a way
/// out. Endpoints with one come first.
pub(crate) fn assign_gateways(books: &Books, endpoints: &mut [EndpointRecord]) {
    let internal = |e: &EndpointRecord| books.network(&e.network_id).is_none_or(|n| n.internal);
    endpoints.sort_by_cached_key(|e| (internal(e), Reverse(e.gateway_priority), e.network_name.clone()));
    let (mut v4, mut v6) = (None, None);
    for endpoint in endpoints.iter_mut() {
        let network = books.network(&endpoint.network_id);
        let out = |address: Option<IpAddr>| network.zip(address).and_then(|(n, ip)| way_out(n, ip));
        endpoint.gateway = match out(endpoint.ipv4.map(IpAddr::V4)) {
            Some(IpAddr::V4(gateway)) if v4.is_none() => Some(gateway),
            _ => None,
        };
        endpoint.ipv6_gateway = match out(endpoint.ipv6.map(IpAddr::V6)) {
            Some(IpAddr::V6(gateway)) if v6.is_none() => Some(gateway),
            _ => None,
        };
        v4 = v4.or(endpoint.gateway);
        v6 = v6.or(endpoint.ipv6_gateway);
    }
    endpoints.sort_by_key(|e| e.gateway.is_none() && e.ipv6_gateway.is_none());
}

/// Makes the pair of links: one end on the bridge with this index, the other in the namespace.
pub(crate) fn plug(
    routes: &mut Routes,
    network: &NetworkRecord,
    bridge: u32,
    endpoint: &EndpointRecord,
    netns: BorrowedFd<'_>,
) -> Result<(), Refused> {
    let Some(container) = &endpoint.interface else { return Ok(()) };
    if let Some((macvlan, ipvlan)) = network.macvlan.as_ref().and_then(|m| Some((m, m.ipvlan?))) {
        return routes.create_ipvlan(container, bridge, ipvlan, macvlan.mtu, netns);
    }
    let Some(mac) = endpoint.mac else { return Ok(()) };
    if let Some(macvlan) = &network.macvlan {
        let mode = crate::macvlan::kernels(macvlan.mode);
        return routes.create_macvlan(container, bridge, mode, (mac, macvlan.mtu), netns);
    }
    let (Some(settings), Some(host)) = (&network.bridge, &endpoint.link) else { return Ok(()) };
    // Where bridged frames pass through netfilter the firewall keeps containers apart, and knows published ports;
    // a port's isolation would keep those apart too. It has to, where a family's frames do not pass.
    let (v4, v6) = (frames_are_filtered(Family::V4), frames_are_filtered(Family::V6));
    let filtered = (v4 || !network.ipv4) && (v6 || !network.ipv6);
    let port = PortOptions { hairpin: v4, isolated: !settings.icc && !filtered };
    routes.create_pair(&Pair { host, container, bridge, mac, mtu: settings.mtu, netns, port })
}

/// Addresses the inner end, the `nth` link that the namespace gets.
pub(crate) fn configure(namespace: &mut Namespace, endpoint: &EndpointRecord, nth: u32) -> Result<()> {
    let Some(interface) = &endpoint.interface else { return Ok(()) };
    settings(namespace, endpoint, interface)?;
    let inside =
        Inside { addresses: endpoint.addresses().collect(), gateways: endpoint.gateways().collect() };
    namespace.routes.configure(interface, namespace.next_index + nth, &inside).map_err(|e| {
        Error::internal(format!("setting up {interface} on network {}", endpoint.network_name)).because(e)
    })
}

/// What is to be set of a link beside its addresses. Most have nothing of the kind, and cost nothing here.
fn settings(namespace: &Namespace, endpoint: &EndpointRecord, interface: &str) -> Result<()> {
    let option = endpoint.options.get(sysctl::OPTION).map_or("", String::as_str);
    let asked = sysctl::parse(option)?;
    if endpoint.ipv6.is_none() && asked.is_empty() {
        return Ok(());
    }
    let write = || -> Result<()> {
        if endpoint.ipv6.is_some() {
            let conf = |key: &str| format!("/proc/sys/net/ipv6/conf/{interface}/{key}");
            // Links begin without IPv6. Where there is some, no neighbour tells this container its routes.
            netns::write_sysctl(conf("accept_ra"), "0")?;
            netns::write_sysctl(conf("disable_ipv6"), "0")?;
        }
        for setting in asked {
            let path = setting.path(interface);
            std::fs::write(&path, setting.value()).map_err(|e| {
                Error::invalid(format!("{}: {} cannot be set", sysctl::OPTION, path.display())).because(e)
            })?;
        }
        Ok(())
    };
    netns::inside(namespace.fd.as_fd(), write)?
}

/// Why there is no pair.
pub(crate) fn no_pair(network: &NetworkRecord, refused: Refused) -> Error {
    if let Some(macvlan) = &network.macvlan {
        return crate::macvlan::no_link(network, macvlan, refused);
    }
    let bridge = network.bridge.as_ref().map_or("", |b| &b.link);
    // EXFULL comes of nothing else here.
    let doing = if refused.is(Errno::XFULL) {
        format!("network {} is full: a Linux bridge ({bridge}) has at most 1023 ports", network.name)
    } else {
        format!("connecting to bridge {bridge} of network {}", network.name)
    };
    Error::internal(doing).because(refused)
}

/// A network's whole set-up of an endpoint, made ahead.
pub(crate) fn dress(
    routes: &mut Routes,
    network: &NetworkRecord,
    bridge: u32,
    endpoint: &EndpointRecord,
    namespace: &mut Namespace,
) -> Result<()> {
    plug(routes, network, bridge, endpoint, namespace.fd.as_fd()).map_err(|e| no_pair(network, e))?;
    configure(namespace, endpoint, 0)
}

/// Docker allows static addresses on networks of the user's only.
pub(crate) fn check_request(network: &NetworkRecord, request: &EndpointRequest) -> Result<()> {
    sysctl::check(request)?;
    let invalid = |why: &str| Err(Error::invalid(format!("invalid endpoint settings:\n{why}")));
    if network.config_only {
        return Err(Error::forbidden(format!(
            "network {} is config-only: nothing can be on it",
            network.name
        )));
    }
    if network.driver == Driver::Ipvlan && request.mac.is_some() {
        return invalid("ipvlan interfaces do not support custom mac address assignment");
    }
    for ip in request.ipv4.map(IpAddr::V4).into_iter().chain(request.ipv6.map(IpAddr::V6)) {
        let family = Family::of(ip);
        if network.name == DEFAULT || !network.driver.has_links() {
            return invalid("user specified IP address is supported on user defined networks only");
        }
        let mut ranges = network.ranges.iter().filter(|r| Family::of_net(r.subnet) == family).peekable();
        if ranges.peek().is_none() && family == Family::V6 {
            return invalid(&format!("network {} has no IPv6 for the address {ip}", network.name));
        }
        // Those that were chosen may be others when the network is made anew.
        if !network.ranges.iter().any(|r| r.chosen_by_user && Family::of_net(r.subnet) == family) {
            return invalid(
                "user specified IP address is supported only when connecting to networks with user configured subnets",
            );
        }
        if !ranges.any(|r| r.subnet.contains(&ip)) {
            return invalid(&format!("no configured subnet or ip-range contain the IP address {ip}"));
        }
    }
    Ok(())
}

fn no_address(network: &NetworkRecord, family: Family, error: NoAddress) -> Error {
    let family = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    match error {
        NoAddress::Exhausted => Error::internal(format!(
            "no available {family} addresses on this network's address pools: {} ({})",
            network.name, network.id
        )),
        NoAddress::Taken => Error::forbidden("Address already in use"),
        NoAddress::Outside(_) => Error::invalid(error.to_string()),
    }
}
