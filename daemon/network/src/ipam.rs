// SPDX-License-Identifier: Apache-2.0
//! Choosing subnets and addresses, of both families. Pure: what is taken is told, what is chosen is answered.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{AddressPool, AddressRange};

/// Why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAddress {
    #[error("no available addresses on this network's address pools")]
    Exhausted,
    #[error("Address already in use")]
    Taken,
    #[error("no configured subnet contains IP address {0}")]
    Outside(IpAddr),
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) fn of_net(net: IpNet) -> Self {
        Self::of(net.addr())
    }

    fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Self::V6 => Ipv6Addr::from(number).into(),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The addresses of one subnet.
///
/// The next free address after the last one given is taken, not the lowest: an address rests as
/// long as possible before it is somebody else's, so that what still knows the old owner (the bridge's forwarding
/// table while the kernel tears the old link down, peers' connections) does not meet the new one.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    subnet: IpNet,
    first: u128,
    last: u128,
    next: u128,
    taken: BTreeSet<u128>,
}

impl Leases {
    pub(crate) fn of(range: &AddressRange) -> Self {
        let subnet = range.subnet.trunc();
        let within = range.range.map(|r| r.trunc()).filter(|r| subnet.contains(r)).unwrap_or(subnet);
        let mut taken: BTreeSet<u128> = never_a_hosts(subnet).map(number).collect();
        taken.extend(range.gateway.iter().chain(range.reserved.values()).map(|ip| number(*ip)));
        let (first, last) = (number(within.network()), number(within.broadcast()));
        Self { subnet, first, last, next: first, taken }
    }

    pub(crate) fn subnet(&self) -> IpNet {
        self.subnet
    }

    pub(crate) fn family(&self) -> Family {
        Family::of_net(self.subnet)
    }

    /// Any address.
    pub(crate) fn take_any(&mut self) -> Result<IpAddr, NoAddress> {
        let free = (self.next..=self.last).chain(self.first..self.next).find(|ip| !self.taken.contains(ip));
        let ip = free.ok_or(NoAddress::Exhausted)?;
        self.taken.insert(ip);
        self.next = if ip == self.last { self.first } else { ip + 1 };
        Ok(self.family().address(ip))
    }

    /// How many `take_any` can give.
    pub(crate) fn free(&self) -> usize {
        let all = usize::try_from(self.last - self.first).unwrap_or(usize::MAX).saturating_add(1);
        all - self.taken.range(self.first..=self.last).count().min(all)
    }

    /// This address.
    pub(crate) fn take(&mut self, ip: IpAddr) -> Result<(), NoAddress> {
        if !self.subnet.contains(&ip) {
            return Err(NoAddress::Outside(ip));
        }
        if self.taken.insert(number(ip)) { Ok(()) } else { Err(NoAddress::Taken) }
    }

    /// The address is nobody's any more. Only for what `take_any` or `take` gave.
    pub(crate) fn give_back(&mut self, ip: IpAddr) {
        self.taken.remove(&number(ip));
    }
}

/// A subnet's own address, and its broadcast address where it has one.
pub(crate) fn never_a_hosts(subnet: IpNet) -> impl Iterator<Item = IpAddr> {
    let bits = subnet.max_prefix_len() - subnet.prefix_len();
    let own = (bits >= 2).then(|| subnet.network());
    let broadcast = (bits >= 2 && subnet.addr().is_ipv4()).then(|| subnet.broadcast());
    own.into_iter().chain(broadcast)
}

/// Docker's pools: its users' firewalls and VPNs know them.
pub(crate) fn docker_pools() -> Vec<AddressPool> {
    let pool = |a, b, prefix, size| AddressPool {
        base: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), prefix)),
        size,
    };
    vec![
        pool(172, 17, 16, 16),
        pool(172, 18, 16, 16),
        pool(172, 19, 16, 16),
        pool(172, 20, 14, 16),
        pool(172, 24, 14, 16),
        pool(172, 28, 14, 16),
        pool(192, 168, 16, 20),
    ]
}

/// This host's pool of unique local IPv6 subnets (RFC 4193), as Docker makes one where no pool of IPv6 is configured. Its 40 bits
/// of chance are the first of `seed`, which stays the same and is no other host's.
pub(crate) fn local_pool(seed: &str) -> AddressPool {
    let chance = seed.get(..10).and_then(|hex| u128::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let base = Ipv6Addr::from(0xfd << 120 | chance << 80);
    AddressPool { base: IpNet::V6(Ipv6Net::new_assert(base, 48)), size: 64 }
}

/// The first subnet of the family's pools that overlaps nothing in `used` (other networks, the host's routes).
pub(crate) fn choose_subnet(pools: &[AddressPool], family: Family, used: &[IpNet]) -> Option<IpNet> {
    pools.iter().filter(|pool| Family::of_net(pool.base) == family).find_map(|pool| {
        // A pool may be cut into millions of subnets: step over what is used instead of trying each.
        let host_bits = u32::from(family.bits().saturating_sub(pool.size));
        let step = 1_u128.checked_shl(host_bits)?;
        let end = number(pool.base.broadcast());
        let mut at = number(pool.base.network());
        while at.checked_add(step - 1).is_some_and(|last| last <= end) {
            let subnet = IpNet::new(family.address(at), pool.size).ok()?;
            match used.iter().filter(|u| overlap(&subnet, u)).map(|u| number(u.broadcast())).max() {
                None => return Some(subnet),
                Some(until) => {
                    at = until.max(at + (step - 1)).checked_add(1)?.checked_next_multiple_of(step)?;
                }
            }
        }
        None
    })
}

/// Whether two subnets share an address.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The first address from `within` that a host on `subnet` can have and that is none of `reserved`.
pub(crate) fn first_host(subnet: IpNet, within: IpNet, reserved: &[IpAddr]) -> Option<IpAddr> {
    let family = Family::of_net(subnet);
    (number(within.network())..=number(within.broadcast()))
        .map(|n| family.address(n))
        .find(|ip| !reserved.contains(ip) && never_a_hosts(subnet).all(|never| never != *ip))
}

#[cfg(test)]
#[path = "ipam_tests.rs"]
mod tests;
