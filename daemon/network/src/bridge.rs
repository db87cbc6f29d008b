// SPDX-License-Identifier: Apache-2.0
//! The bridges themselves: made, or adopted as they are found.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ipam::Family;
use crate::netlink::Refused;
use crate::netns::write_sysctl;
use crate::route::{Link, Routes};
use crate::{BridgeRecord, FoundBridge, GatewayMode, IpvlanMode, Mac, NetworkRecord};

/// `IFNAMSIZ` without its NUL.
pub(crate) const NAME_MAX: usize = 15;

fn refused(doing: String) -> impl FnOnce(Refused) -> Error {
    move |e| Error::internal(doing).because(e)
}

/// Whether an interface can be called so (`dev_valid_name`).
pub(crate) fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > NAME_MAX
        || name == "."
        || name == ".."
        || name.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b.is_ascii_control());
    if bad {
        Err(Error::invalid(format!("invalid interface name {name:?}: a name of 1 to 15 bytes expected")))
    } else {
        Ok(())
    }
}

/// A network's first gateway of a family, with its subnet: where containers send what is for elsewhere.
pub(crate) fn gateway(network: &NetworkRecord, family: Family) -> Option<IpNet> {
    network.ranges.iter().filter(|r| Family::of_net(r.subnet) == family).find_map(|range| {
        let gateway = range.gateway?;
        IpNet::new(gateway, range.subnet.prefix_len()).ok()
    })
}

/// The gateway for a container with this address: none where nothing leads out.
pub(crate) fn way_out(network: &NetworkRecord, address: IpAddr) -> Option<IpAddr> {
    if network.internal {
        return None;
    }
    if network.macvlan.as_ref().and_then(|m| m.ipvlan).is_some_and(|ipvlan| ipvlan.mode != IpvlanMode::L2) {
        // The link itself.
        return Some(if address.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        });
    }
    // Docker's way to have containers go out by another machine than this one.
    let other = if address.is_ipv4() { "DefaultGatewayIPv4" } else { "DefaultGatewayIPv6" };
    let range = network.ranges.iter().find(|r| r.subnet.contains(&address))?;
    range.reserved.get(other).copied().or(range.gateway)
}

/// The default bridge's address of IPv4.
pub(crate) fn v4_gateway(network: &NetworkRecord) -> Option<Ipv4Net> {
    match gateway(network, Family::V4) {
        Some(IpNet::V4(net)) => Some(net),
        _ => None,
    }
}

/// The addresses that the bridge is to have: the gateways, but where the host is to have none on the network.
fn wanted_addresses(network: &NetworkRecord) -> Vec<IpNet> {
    let Some(bridge) = &network.bridge else { return Vec::new() };
    let left_out = |family: Family| match family {
        Family::V4 => bridge.inhibit_ipv4 || bridge.gateway_mode_ipv4 == GatewayMode::Isolated,
        Family::V6 => bridge.gateway_mode_ipv6 == GatewayMode::Isolated,
    };
    network
        .ranges
        .iter()
        .filter(|range| !left_out(Family::of_net(range.subnet)))
        .filter_map(|range| IpNet::new(range.gateway?, range.subnet.prefix_len()).ok())
        .collect()
}

/// Sees that a network's bridge is there, is set as it should be, has its addresses, and is up. Answers its index, and
/// whether it was there before.
pub(crate) fn ensure(routes: &mut Routes, network: &NetworkRecord) -> Result<(u32, bool)> {
    let Some(bridge) = &network.bridge else { return Err(Error::internal("a network without a bridge")) };
    let name = bridge.link.as_str();
    let there = routes.link(name).map_err(refused(format!("looking for link {name}")))?;
    let adopted = there.is_some();
    let index = match there {
        Some(link) if link.kind == "bridge" => link.index,
        Some(link) => {
            let kind = if link.kind.is_empty() { "hardware" } else { &link.kind };
            return Err(Error::conflict(format!("{name} is not a bridge but a link of kind {kind}")));
        }
        None => {
            let mac = v4_gateway(network).map_or_else(Mac::random, |g| Ok(Mac::of_ip(g.addr())))?;
            routes.create_bridge(name, mac, bridge.mtu).map_err(refused(format!("making bridge {name}")))?;
            let link = routes.link(name).map_err(refused(format!("looking for link {name}")))?;
            link.ok_or_else(|| Error::internal(format!("bridge {name} vanished as it was made")))?.index
        }
    };
    let set_up = set_up(routes, network, index);
    if set_up.is_err() && !adopted {
        if let Err(error) = routes.delete(index) {
            tracing::warn!(bridge = name, %error, "removing a bridge that could not be set up");
        }
    }
    set_up.map(|()| (index, adopted))
}

fn set_up(routes: &mut Routes, network: &NetworkRecord, index: u32) -> Result<()> {
    let Some(bridge) = &network.bridge else { return Ok(()) };
    let name = bridge.link.as_str();
    settings(bridge, hosts_ipv6(network))?;
    addresses(routes, network, index)?;
    routes.set_up(index).map_err(refused(format!("bringing up {name}")))?;
    if network.ipv6 && !network.internal {
        routes.let_loopback_in(index).map_err(refused(format!("routing ::1 by {name}")))?;
    }
    Ok(())
}

/// How a bridge is that is about to be adopted.
pub(crate) fn found(routes: &mut Routes, link: &Link) -> Result<FoundBridge> {
    let all = routes.addresses().map_err(refused("listing addresses".into()))?;
    let of_it = all.into_iter().filter(|(index, _)| *index == link.index);
    Ok(FoundBridge {
        route_localnet: is_on(&setting("ipv4", &link.name, "route_localnet")),
        addresses: of_it.map(|(_, net)| net).collect(),
    })
}

/// Leaves an adopted bridge as it was found.
pub(crate) fn leave(routes: &mut Routes, network: &NetworkRecord) -> Result<()> {
    let Some((bridge, found)) = network.bridge.as_ref().and_then(|b| Some((b, b.found.as_ref()?))) else {
        return Ok(());
    };
    let name = &bridge.link;
    let link = routes.link(name).map_err(refused(format!("looking for link {name}")))?;
    let Some(index) = link.filter(|link| link.kind == "bridge").map(|link| link.index) else {
        return Ok(());
    };
    if !found.route_localnet {
        write_sysctl(setting("ipv4", name, "route_localnet"), "0")?;
    }
    routes.keep_loopback_out(index).map_err(refused(format!("taking the route of ::1 from {name}")))?;
    let all = routes.addresses().map_err(refused("listing addresses".into()))?;
    let wanted = wanted_addresses(network);
    for (_, address) in all.into_iter().filter(|(i, net)| *i == index && wanted.contains(net)) {
        if !found.addresses.contains(&address) {
            routes
                .remove_address(index, address)
                .map_err(refused(format!("removing {address} from {name}")))?;
        }
    }
    Ok(())
}

fn addresses(routes: &mut Routes, network: &NetworkRecord, index: u32) -> Result<()> {
    let Some(bridge) = &network.bridge else { return Ok(()) };
    let name = &bridge.link;
    let mut wanted = wanted_addresses(network);
    if hosts_ipv6(network) {
        // As the reference does: containers can be told the same gateway whatever the subnet is.
        wanted.push(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 64)));
    }
    let all = routes.addresses().map_err(refused("listing addresses".into()))?;
    let ours: Vec<IpNet> = all.into_iter().filter(|(i, _)| *i == index).map(|(_, net)| net).collect();
    // What an earlier configuration left on a bridge of our own. On an adopted one other addresses are the administrator's.
    for stale in ours.iter().filter(|net| !wanted.contains(net) && !bridge.adopted) {
        tracing::info!(bridge = name, address = %stale, "removing an address that is no longer configured");
        routes.remove_address(index, *stale).map_err(refused(format!("removing {stale} from {name}")))?;
    }
    for address in wanted.iter().filter(|net| !ours.contains(net)) {
        routes
            .add_address(index, *address)
            .map_err(refused(format!("giving {name} the address {address}")))?;
    }
    Ok(())
}

/// The IPv4 address that a link has already.
pub(crate) fn present_address(routes: &mut Routes, name: &str) -> Result<Option<Ipv4Net>> {
    let Some(link) = routes.link(name).map_err(refused(format!("looking for link {name}")))? else {
        return Ok(None);
    };
    let all = routes.addresses().map_err(refused("listing addresses".into()))?;
    Ok(all.into_iter().find_map(|(index, net)| match net {
        IpNet::V4(net) if index == link.index => Some(net),
        _ => None,
    }))
}

/// Subnets that the host uses over other links than this one.
pub(crate) fn used_by_host(routes: &mut Routes, except: &[&str]) -> Result<Vec<IpNet>> {
    let mut own = Vec::new();
    for name in except {
        own.extend(routes.link(name).map_err(refused(format!("looking for link {name}")))?.map(|l| l.index));
    }
    let destinations = routes.destinations().map_err(refused("listing routes".into()))?;
    let addresses = routes.addresses().map_err(refused("listing addresses".into()))?;
    let of_routes =
        destinations.into_iter().filter(|(oif, _)| oif.is_none_or(|i| !own.contains(&i))).map(|(_, net)| net);
    let of_addresses = addresses.into_iter().filter(|(i, _)| !own.contains(i)).map(|(_, net)| net.trunc());
    Ok(of_routes.chain(of_addresses).filter(|net| net.prefix_len() > 0).collect())
}

/// Whether the host is on the network by IPv6.
fn hosts_ipv6(network: &NetworkRecord) -> bool {
    let mode = network.bridge.as_ref().map(|bridge| bridge.gateway_mode_ipv6);
    network.ipv6 && mode != Some(GatewayMode::Isolated)
}

/// Where the kernel has a setting of a link. Names with dots are one path component here.
fn setting(family: &str, link: &str, key: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/{family}/conf")).join(link).join(key)
}

fn is_on(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|v| v.trim() == "1")
}

fn settings(bridge: &BridgeRecord, ipv6: bool) -> Result<()> {
    let name = &bridge.link;
    let off = setting("ipv6", name, "disable_ipv6");
    if !bridge.adopted {
        // A container must not be able to give this host routes.
        write_sysctl(setting("ipv6", name, "accept_ra"), "0")?;
        write_sysctl(off, if ipv6 { "0" } else { "1" })?;
    } else if ipv6 && is_on(&off) {
        // What the host does by a bridge that others made is theirs to say.
        return Err(Error::invalid(format!(
            "IPv6 is off on the bridge {name}, which others made: for a network with IPv6, turn it on there first (sysctl -w \
             net/ipv6/conf/{name}/disable_ipv6=0)"
        )));
    }
    // Lets 127.0.0.1 lead to published ports; the firewall's raw_prerouting chain takes back what else it would allow.
    write_sysctl(setting("ipv4", name, "route_localnet"), "1")
}

/// The first address of the subnet, for the bridge.
pub(crate) fn default_gateway(subnet: Ipv4Net) -> Ipv4Addr {
    match crate::ipam::first_host(IpNet::V4(subnet), IpNet::V4(subnet), &[]) {
        Some(IpAddr::V4(ip)) => ip,
        _ => subnet.network(),
    }
}

/// Whether bridged frames of a family pass through netfilter (`br_netfilter` is there, and on).
pub(crate) fn frames_are_filtered(family: Family) -> bool {
    let path = match family {
        Family::V4 => "/proc/sys/net/bridge/bridge-nf-call-iptables",
        Family::V6 => "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
    };
    is_on(Path::new(path))
}
