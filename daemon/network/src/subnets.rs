// SPDX-License-Identifier: Apache-2.0
//! Which subnets a new network gets: those asked for, completed, else some of the pools'.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_domain::{Error, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ipam::{Family, choose_subnet, first_host, never_a_hosts, overlap};
use crate::predefined::{no_pool, with_local_pool};
use crate::worker::Worker;
use crate::{AddressPool, AddressRange, NetworkRequest, bridge};

/// More subnets on one network nobody has.
const MOST: usize = 64;

impl Worker {
    /// The ranges of a network to be. `gateways` says in which family (IPv4, IPv6) the host has
    /// an address on it.
    pub(crate) fn ranges(
        &mut self,
        request: &NetworkRequest,
        gateways: [bool; 2],
    ) -> Result<Vec<AddressRange>> {
        if request.ranges.len() > MOST {
            return Err(Error::invalid(format!("a network has at most {MOST} subnets")));
        }
        let mut taken: Vec<IpNet> = {
            let books = self.books();
            let others = books.networks().filter(|n| !n.config_only);
            others.flat_map(|n| n.ranges.iter()).map(|r| r.subnet.trunc()).collect()
        };
        let mut ranges = Vec::new();
        let families = [(Family::V4, request.ipv4), (Family::V6, request.ipv6)];
        for ((family, wanted), gateways) in families.into_iter().zip(gateways) {
            let asked = request.ranges.iter().filter(|r| Family::of_net(r.subnet) == family);
            if !wanted {
                for range in asked {
                    tracing::warn!(network = %request.name, subnet = %range.subnet, "the network is not to have this family: its subnet is left out");
                }
                continue;
            }
            let before = ranges.len();
            for range in asked {
                let range = complete(range, &taken, gateways)?;
                taken.push(range.subnet);
                ranges.push(range);
            }
            if ranges.len() == before {
                let range = self.pooled(family, &taken, gateways)?;
                taken.push(range.subnet);
                ranges.push(range);
            }
        }
        Ok(ranges)
    }

    fn pooled(&mut self, family: Family, taken: &[IpNet], gateway: bool) -> Result<AddressRange> {
        let mut used = bridge::used_by_host(&mut self.routes, &[])?;
        used.extend(taken);
        let subnet = choose_subnet(&self.pools_of(family), family, &used).ok_or_else(no_pool)?;
        Ok(AddressRange {
            subnet,
            range: None,
            gateway: if gateway { first_host(subnet, subnet, &[]) } else { None },
            reserved: BTreeMap::new(),
            chosen_by_user: false,
            gateway_chosen_by_user: false,
        })
    }

    /// The pools that subnets are cut from. Without one of IPv6 there is one of this host's own.
    pub(crate) fn pools_of(&self, family: Family) -> Vec<AddressPool> {
        if family == Family::V4 {
            return self.pools();
        }
        // The id of the network `host` is made once, by chance, and kept.
        let seed = self.books().by_name("host").map(|n| n.id.clone()).unwrap_or_default();
        with_local_pool(self.pools(), &seed)
    }
}

/// A subnet of the user's, completed.
fn complete(range: &AddressRange, taken: &[IpNet], gateway: bool) -> Result<AddressRange> {
    let given = range.subnet;
    let subnet = given.trunc();
    if given != subnet {
        return Err(bad(format!("invalid subnet {given}: it should be {subnet}")));
    }
    let longest = subnet.max_prefix_len() - 2;
    if !(1..=longest).contains(&subnet.prefix_len()) {
        return Err(bad(format!("invalid subnet {subnet}: a prefix length of 1 to {longest} expected")));
    }
    if let Some((special, what)) = special().into_iter().find(|(special, _)| overlap(special, &subnet)) {
        return Err(bad(format!("invalid subnet {subnet}: {special} is {what}, where no container can be")));
    }
    if taken.iter().any(|other| overlap(other, &subnet)) {
        return Err(Error::forbidden(
            "invalid pool request: Pool overlaps with other one on this address space",
        ));
    }
    if let Some(within) = range.range {
        if within != within.trunc() {
            return Err(bad(format!("invalid ip-range {within}: it should be {}", within.trunc())));
        }
        if !subnet.contains(&within) {
            let text = format!("invalid ip-range {within}: parent subnet {subnet} doesn't contain ip-range");
            return Err(bad(text));
        }
    }
    let check = |ip: IpAddr, what: &str| {
        if subnet.contains(&ip) && never_a_hosts(subnet).all(|never| never != ip) {
            return Ok(ip);
        }
        Err(bad(format!("invalid {what}: parent subnet {subnet} doesn't contain this address")))
    };
    for (name, ip) in &range.reserved {
        check(*ip, &format!("auxiliary address {name}"))?;
    }
    let chosen = range.gateway.map(|ip| check(ip, &format!("gateway {ip}"))).transpose()?;
    let reserved: Vec<IpAddr> = range.reserved.values().copied().collect();
    let gateway = match chosen {
        None if gateway => {
            let first = first_host(subnet, range.range.unwrap_or(subnet), &reserved);
            Some(first.ok_or_else(|| bad(format!("subnet {subnet} has no address for a gateway")))?)
        }
        chosen => chosen,
    };
    Ok(AddressRange {
        subnet,
        gateway,
        chosen_by_user: true,
        gateway_chosen_by_user: range.gateway.is_some(),
        ..range.clone()
    })
}

/// Addresses that are no single host's.
fn special() -> [(IpNet, &'static str); 6] {
    let v4 = |a, length| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, 0, 0, 0), length));
    let v6 = |number, length| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(number), length));
    [
        (v4(0, 8), "unspecified"),
        (v4(127, 8), "loopback"),
        (v4(224, 4), "multicast"),
        (v6(0_u128, 128), "unspecified"),
        (v6(1, 128), "loopback"),
        (v6(0xff << 120, 8), "multicast"),
    ]
}

/// As the reference words it.
fn bad(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("invalid network config:\n{why}"))
}
