// SPDX-License-Identifier: Apache-2.0
//! Choosing subnets and addresses. Pure: what is taken is told, what is chosen is answered.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::{AddressPool, AddressRange};

/// Why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAddress {
    #[error("no available IPv4 addresses on this network's address pools")]
    Exhausted,
    #[error("Address already in use")]
    Taken,
    #[error("no configured subnet contains IP address {0}")]
    Outside(Ipv4Addr),
}

/// The addresses of one subnet.
///
/// The next free address after the last one given is taken, not the lowest: an address rests as
/// long as possible before it is somebody else's, so that what still knows the old owner (the bridge's forwarding
/// table while the kernel tears the old link down, peers' connections) does not meet the new one.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    subnet: Ipv4Net,
    first: u32,
    last: u32,
    next: u32,
    taken: BTreeSet<u32>,
}

impl Leases {
    /// `None` if the range is not of IPv4.
    pub(crate) fn of(range: &AddressRange) -> Option<Self> {
        let IpNet::V4(subnet) = range.subnet else { return None };
        let within = match range.range {
            Some(IpNet::V4(within)) if subnet.contains(&within) => within,
            _ => subnet,
        };
        let mut taken = BTreeSet::new();
        if subnet.prefix_len() < 31 {
            taken.insert(subnet.network().into());
            taken.insert(subnet.broadcast().into());
        }
        for reserved in range.gateway.iter().chain(range.reserved.values()) {
            if let IpAddr::V4(ip) = reserved {
                taken.insert((*ip).into());
            }
        }
        let (first, last) = (within.network().into(), within.broadcast().into());
        Some(Self { subnet, first, last, next: first, taken })
    }

    pub(crate) fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// Any address.
    pub(crate) fn take_any(&mut self) -> Result<Ipv4Addr, NoAddress> {
        let free = (self.next..=self.last).chain(self.first..self.next).find(|ip| !self.taken.contains(ip));
        let ip = free.ok_or(NoAddress::Exhausted)?;
        self.taken.insert(ip);
        self.next = if ip == self.last { self.first } else { ip + 1 };
        Ok(ip.into())
    }

    /// How many `take_any` can give.
    pub(crate) fn free(&self) -> usize {
        let all = usize::try_from(self.last - self.first).unwrap_or(usize::MAX).saturating_add(1);
        all - self.taken.range(self.first..=self.last).count().min(all)
    }

    /// This address.
    pub(crate) fn take(&mut self, ip: Ipv4Addr) -> Result<(), NoAddress> {
        if !self.subnet.contains(&ip) {
            return Err(NoAddress::Outside(ip));
        }
        if self.taken.insert(ip.into()) { Ok(()) } else { Err(NoAddress::Taken) }
    }

    /// The address is nobody's any more. Only for what `take_any` or `take` gave.
    pub(crate) fn give_back(&mut self, ip: Ipv4Addr) {
        self.taken.remove(&ip.into());
    }
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

/// The first subnet of the pools that overlaps nothing in `used` (other networks, the host's routes).
pub(crate) fn choose_subnet(pools: &[AddressPool], used: &[Ipv4Net]) -> Option<Ipv4Net> {
    pools.iter().find_map(|pool| {
        let IpNet::V4(base) = pool.base else { return None };
        // A pool may be cut into millions of subnets: step over what is used instead of trying each.
        let step = 1_u64 << (32 - u32::from(pool.size.min(32)));
        let end = u64::from(u32::from(base.broadcast()));
        let mut at = u64::from(u32::from(base.network()));
        while at + step - 1 <= end {
            let first = Ipv4Addr::from(u32::try_from(at).ok()?);
            let subnet = Ipv4Net::new(first, pool.size).ok()?;
            match used
                .iter()
                .filter(|u| overlap(&subnet, u))
                .map(|u| u64::from(u32::from(u.broadcast())))
                .max()
            {
                None => return Some(subnet),
                Some(until) => at = (until.max(at + step - 1) + 1).next_multiple_of(step),
            }
        }
        None
    })
}

/// Whether two subnets share an address.
pub(crate) fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

/// The first address of a subnet that a host can have.
pub(crate) fn first_host(subnet: Ipv4Net) -> Ipv4Addr {
    if subnet.prefix_len() >= 31 { subnet.network() } else { (u32::from(subnet.network()) + 1).into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn range(subnet: &str, gateway: Option<&str>) -> AddressRange {
        AddressRange {
            subnet: subnet.parse().unwrap(),
            range: None,
            gateway: gateway.map(|g| g.parse().unwrap()),
            reserved: BTreeMap::new(),
            chosen_by_user: false,
            gateway_chosen_by_user: false,
        }
    }

    fn nets(list: &[&str]) -> Vec<Ipv4Net> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_rest_before_they_are_given_again() {
        let mut leases = Leases::of(&range("10.0.0.0/29", Some("10.0.0.1"))).unwrap();
        let ip = |d| Ipv4Addr::new(10, 0, 0, d);
        assert_eq!(leases.take_any(), Ok(ip(2)));
        leases.give_back(ip(2));
        assert_eq!(leases.take_any(), Ok(ip(3)));
        for d in [4, 5, 6, 2] {
            assert_eq!(leases.take_any(), Ok(ip(d)));
        }
        assert_eq!(leases.take_any(), Err(NoAddress::Exhausted));
        assert_eq!(leases.take(ip(4)), Err(NoAddress::Taken));
        assert_eq!(leases.take(ip(1)), Err(NoAddress::Taken));
        assert_eq!(leases.take(ip(9)), Err(NoAddress::Outside(ip(9))));
        leases.give_back(ip(4));
        assert_eq!(leases.take(ip(4)), Ok(()));
    }

    #[test]
    fn a_range_and_reserved_addresses_are_kept_to() {
        let mut spec = range("10.0.0.0/24", Some("10.0.0.1"));
        spec.range = Some("10.0.0.128/30".parse().unwrap());
        spec.reserved.insert("printer".into(), "10.0.0.129".parse().unwrap());
        let mut leases = Leases::of(&spec).unwrap();
        let given: Vec<_> = std::iter::from_fn(|| leases.take_any().ok()).map(|ip| ip.octets()[3]).collect();
        assert_eq!(given, [128, 130, 131]);
        assert_eq!(
            leases.take(Ipv4Addr::new(10, 0, 0, 7)),
            Ok(()),
            "a static address may be outside the range"
        );
    }

    #[test]
    fn the_smallest_and_the_last_subnets() {
        let all = |spec| {
            let mut leases = Leases::of(&spec).unwrap();
            std::iter::from_fn(move || leases.take_any().ok()).collect::<Vec<_>>()
        };
        assert_eq!(all(range("10.0.0.4/31", Some("10.0.0.4"))), [Ipv4Addr::new(10, 0, 0, 5)]);
        assert_eq!(all(range("255.255.255.252/30", None)).len(), 2);
        assert_eq!(all(range("10.0.0.1/32", None)), [Ipv4Addr::new(10, 0, 0, 1)]);
    }

    #[test]
    fn subnets_avoid_what_is_used() {
        let pools = docker_pools();
        let check = |used: &[&str], expected: &str| {
            assert_eq!(
                choose_subnet(&pools, &nets(used)).map(|n| n.to_string()).as_deref(),
                Some(expected),
                "{used:?}"
            );
        };
        check(&[], "172.17.0.0/16");
        check(&["172.17.4.0/24"], "172.18.0.0/16");
        check(&["172.16.0.0/12"], "192.168.0.0/20");
        check(&["172.16.0.0/12", "192.168.0.0/24", "192.168.17.0/24"], "192.168.32.0/20");
        assert_eq!(choose_subnet(&pools, &nets(&["172.16.0.0/12", "192.168.0.0/16"])), None);
        let tiny = [AddressPool { base: "10.0.0.0/8".parse().unwrap(), size: 32 }];
        assert_eq!(choose_subnet(&tiny, &nets(&["10.0.0.0/9"])).unwrap().to_string(), "10.128.0.0/32");
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(prefix in 24_u8..=30, steps in proptest::collection::vec(any::<(bool, u8)>(), 1..300)) {
            let spec = range(&format!("10.1.2.0/{prefix}"), Some("10.1.2.1"));
            let mut leases = Leases::of(&spec).unwrap();
            let mut held: Vec<Ipv4Addr> = Vec::new();
            for (take, n) in steps {
                if take {
                    match leases.take_any() {
                        Ok(ip) => {
                            prop_assert!(!held.contains(&ip));
                            prop_assert!(leases.subnet().contains(&ip));
                            prop_assert!(ip != leases.subnet().network() && ip != leases.subnet().broadcast());
                            prop_assert!(ip != Ipv4Addr::new(10, 1, 2, 1));
                            held.push(ip);
                        }
                        Err(_) => prop_assert_eq!(held.len(), (1 << (32 - prefix)) - 3),
                    }
                } else if !held.is_empty() {
                    let ip = held.swap_remove(usize::from(n) % held.len());
                    leases.give_back(ip);
                }
            }
        }

        #[test]
        fn a_chosen_subnet_overlaps_nothing(used in proptest::collection::vec((any::<u32>(), 8_u8..=28), 0..40)) {
            let used: Vec<Ipv4Net> = used.into_iter()
                .map(|(ip, p)| Ipv4Net::new(Ipv4Addr::from(0xac10_0000 | ip & 0x000f_ffff), p.max(13)).unwrap())
                .collect();
            if let Some(chosen) = choose_subnet(&docker_pools(), &used) {
                prop_assert!(used.iter().all(|u| !overlap(u, &chosen)));
            }
        }
    }
}
