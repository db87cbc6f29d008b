// SPDX-License-Identifier: Apache-2.0
//! A container's place on one network: its record, and its pair of links.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};

use berth_domain::{EndpointId, Error, Result};
use ipnet::Ipv4Net;
use rustix::io::Errno;

use crate::books::{Books, DEFAULT};
use crate::ipam::NoAddress;
use crate::netlink::Refused;
use crate::netns::Namespace;
use crate::route::{Inside, Pair, PortOptions, Routes};
use crate::{Driver, EndpointRecord, EndpointRequest, Mac, NetworkRecord};

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

/// Leases an address on a network for a container that is on `others` already. The lease is the caller's to give back.
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
    if network.driver != Driver::Bridge {
        return Ok(endpoint);
    }
    let (ip, prefix) = books.lease(&network.id, request.ipv4).map_err(|e| no_address(network, e))?;
    let used = |n: u32| others.iter().any(|e| e.interface.as_deref() == Some(&format!("eth{n}")));
    endpoint.interface = (0..).find(|n| !used(*n)).map(|n| format!("eth{n}"));
    endpoint.link = Some(format!("{LINK_PREFIX}{}", &endpoint.endpoint_id[..13]));
    endpoint.mac = Some(request.mac.unwrap_or(Mac::of_ip(ip)));
    (endpoint.ipv4, endpoint.ipv4_prefix) = (Some(ip), prefix);
    if !network.internal && others.iter().all(|e| e.gateway.is_none()) {
        endpoint.gateway = crate::bridge::gateway(network).map(|g| g.addr());
    }
    Ok(endpoint)
}

/// Makes the pair of links: one end on the bridge with this index, the other in the namespace.
pub(crate) fn plug(
    routes: &mut Routes,
    network: &NetworkRecord,
    bridge: u32,
    endpoint: &EndpointRecord,
    netns: BorrowedFd<'_>,
) -> Result<(), Refused> {
    let (Some(settings), Some(host), Some(container), Some(mac)) =
        (&network.bridge, &endpoint.link, &endpoint.interface, endpoint.mac)
    else {
        return Ok(());
    };
    // Where bridged frames pass through netfilter the firewall keeps containers apart, and knows published ports;
    // a port's isolation would keep those apart too.
    let filtered = bridged_frames_are_filtered();
    let port = PortOptions { hairpin: filtered, isolated: !settings.icc && !filtered };
    routes.create_pair(&Pair { host, container, bridge, mac, mtu: settings.mtu, netns, port })
}

/// Addresses the inner end, the `nth` link that the namespace gets.
pub(crate) fn configure(namespace: &mut Namespace, endpoint: &EndpointRecord, nth: u32) -> Result<()> {
    let (Some(interface), Some(ip)) = (&endpoint.interface, endpoint.ipv4) else { return Ok(()) };
    let address = Ipv4Net::new(ip, endpoint.ipv4_prefix)
        .map_err(|e| Error::internal(format!("prefix length of {ip}")).because(e))?;
    let inside = Inside { address, gateway: endpoint.gateway };
    namespace.routes.configure(interface, namespace.next_index + nth, &inside).map_err(|e| {
        Error::internal(format!("setting up {interface} on network {}", endpoint.network_name)).because(e)
    })
}

/// Why there is no pair.
pub(crate) fn no_pair(network: &NetworkRecord, refused: Refused) -> Error {
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

/// Docker allows static addresses only where the user knows the subnet.
pub(crate) fn check_static(network: &NetworkRecord, request: &EndpointRequest) -> Result<()> {
    if request.ipv6.is_some() {
        return Err(Error::not_implemented("IPv6 addresses of containers"));
    }
    let Some(ip) = request.ipv4 else { return Ok(()) };
    let invalid = |why: &str| Err(Error::invalid(format!("invalid endpoint settings: {why}")));
    if network.name == DEFAULT || network.driver != Driver::Bridge {
        return invalid("user specified IP address is supported on user defined networks only");
    }
    if !network.ranges.iter().any(|r| r.chosen_by_user) {
        return invalid(
            "user specified IP address is supported only when connecting to networks with user configured subnets",
        );
    }
    if !network.ranges.iter().any(|r| r.subnet.contains(&IpAddr::V4(ip))) {
        return invalid(&format!("no configured subnet contains IP address {ip}"));
    }
    Ok(())
}

fn no_address(network: &NetworkRecord, error: NoAddress) -> Error {
    match error {
        NoAddress::Exhausted => Error::internal(format!(
            "no available IPv4 addresses on this network's address pools: {} ({})",
            network.name, network.id
        )),
        NoAddress::Taken => Error::forbidden("Address already in use"),
        NoAddress::Outside(_) => Error::invalid(error.to_string()),
    }
}

/// Whether bridged frames pass through netfilter (`br_netfilter` is there, and on).
fn bridged_frames_are_filtered() -> bool {
    std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|v| v.trim() == "1")
}
