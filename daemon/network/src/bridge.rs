// SPDX-License-Identifier: Apache-2.0
//! The bridges themselves: made, or adopted as they are found.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use berth_domain::{Error, Result};
use ipnet::{IpNet, Ipv4Net};

use crate::netlink::Refused;
use crate::netns::write_sysctl;
use crate::route::Routes;
use crate::{Mac, NetworkRecord};

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
        Err(Error::invalid(format!(
            "invalid bridge name {name:?}: an interface name of 1 to 15 bytes expected"
        )))
    } else {
        Ok(())
    }
}

/// The bridge's address with its subnet, where it has one of IPv4.
pub(crate) fn gateway(network: &NetworkRecord) -> Option<Ipv4Net> {
    network.ranges.iter().find_map(|range| match (range.subnet, range.gateway) {
        (IpNet::V4(subnet), Some(std::net::IpAddr::V4(gateway))) => {
            Ipv4Net::new(gateway, subnet.prefix_len()).ok()
        }
        _ => None,
    })
}

/// Sees that a network's bridge is there, is set as it should be, has its address, and is up. Answers its index, and whether it was
/// there before.
pub(crate) fn ensure(routes: &mut Routes, network: &NetworkRecord) -> Result<(u32, bool)> {
    let Some(bridge) = &network.bridge else { return Err(Error::internal("a network without a bridge")) };
    let name = bridge.link.as_str();
    let gateway = gateway(network);
    let there = routes.link(name).map_err(refused(format!("looking for link {name}")))?;
    let adopted = there.is_some();
    let index = match there {
        Some(link) if link.kind == "bridge" => link.index,
        Some(link) => {
            let kind = if link.kind.is_empty() { "hardware" } else { &link.kind };
            return Err(Error::conflict(format!("{name} is not a bridge but a link of kind {kind}")));
        }
        None => {
            let mac = gateway.map_or_else(random_mac, |g| Ok(Mac::of_ip(g.addr())))?;
            routes.create_bridge(name, mac, bridge.mtu).map_err(refused(format!("making bridge {name}")))?;
            let link = routes.link(name).map_err(refused(format!("looking for link {name}")))?;
            link.ok_or_else(|| Error::internal(format!("bridge {name} vanished as it was made")))?.index
        }
    };
    settings(name, network.ipv6)?;
    if let Some(gateway) = gateway {
        let all = routes.addresses().map_err(refused("listing addresses".into()))?;
        let ours: Vec<Ipv4Net> = all.into_iter().filter(|(i, _)| *i == index).map(|(_, net)| net).collect();
        // What an earlier configuration left on a bridge of our own. On an adopted one other addresses are the administrator's.
        for stale in ours.iter().filter(|net| **net != gateway && !bridge.adopted) {
            tracing::info!(bridge = name, address = %stale, "removing an address that is no longer configured");
            routes.remove_address(index, *stale).map_err(refused(format!("removing {stale} from {name}")))?;
        }
        if !ours.contains(&gateway) {
            routes
                .add_address(index, gateway)
                .map_err(refused(format!("giving {name} the address {gateway}")))?;
        }
    }
    routes.set_up(index).map_err(refused(format!("bringing up {name}")))?;
    Ok((index, adopted))
}

/// The IPv4 address that a link has already.
pub(crate) fn present_address(routes: &mut Routes, name: &str) -> Result<Option<Ipv4Net>> {
    let Some(link) = routes.link(name).map_err(refused(format!("looking for link {name}")))? else {
        return Ok(None);
    };
    let all = routes.addresses().map_err(refused("listing addresses".into()))?;
    Ok(all.into_iter().find(|(i, _)| *i == link.index).map(|(_, net)| net))
}

/// Subnets that the host uses over other links than this one.
pub(crate) fn used_by_host(routes: &mut Routes, except: &[&str]) -> Result<Vec<Ipv4Net>> {
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

fn settings(name: &str, ipv6: bool) -> Result<()> {
    // Names with dots are one path component here.
    let conf =
        |family: &str, key: &str| PathBuf::from(format!("/proc/sys/net/{family}/conf")).join(name).join(key);
    // A container must not be able to give this host routes.
    write_sysctl(conf("ipv6", "accept_ra"), "0")?;
    if !ipv6 {
        write_sysctl(conf("ipv6", "disable_ipv6"), "1")?;
    }
    // Lets 127.0.0.1 lead to published ports; the firewall's raw_prerouting chain takes back what else it would allow.
    write_sysctl(conf("ipv4", "route_localnet"), "1")
}

fn random_mac() -> Result<Mac> {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::internal("reading random bytes").because(e.to_string()))?;
    // Locally administered, unicast.
    bytes[0] = bytes[0] & 0xfe | 0x02;
    Ok(Mac(bytes))
}

/// The first address of the subnet, for the bridge.
pub(crate) fn default_gateway(subnet: Ipv4Net) -> Ipv4Addr {
    crate::ipam::first_host(subnet)
}
