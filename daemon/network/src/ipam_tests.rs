// SPDX-License-Identifier: Apache-2.0
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

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

#[test]
fn addresses_rest_before_they_are_given_again() {
    let mut leases = Leases::of(&range("10.0.0.0/29", Some("10.0.0.1")));
    let ip = |d| IpAddr::from([10, 0, 0, d]);
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
    let mut leases = Leases::of(&spec);
    let given: Vec<_> = std::iter::from_fn(|| leases.take_any().ok()).collect();
    assert_eq!(given, [128, 130, 131].map(|d| IpAddr::from([10, 0, 0, d])));
    assert_eq!(leases.take(IpAddr::from([10, 0, 0, 7])), Ok(()), "a static address may be outside the range");
}

#[test]
fn the_smallest_and_the_last_subnets() {
    let all = |spec| {
        let mut leases = Leases::of(&spec);
        std::iter::from_fn(move || leases.take_any().ok()).collect::<Vec<_>>()
    };
    assert_eq!(all(range("10.0.0.4/31", Some("10.0.0.4"))), [IpAddr::from([10, 0, 0, 5])]);
    assert_eq!(all(range("255.255.255.252/30", None)).len(), 2);
    assert_eq!(all(range("10.0.0.1/32", None)), [IpAddr::from([10, 0, 0, 1])]);
}

#[test]
fn subnets_avoid_what_is_used() {
    let pools = docker_pools();
    let check = |used: &[&str], expected: &str| {
        assert_eq!(
            choose_subnet(&pools, Family::V4, &nets(used)).map(|n| n.to_string()).as_deref(),
            Some(expected),
            "{used:?}"
        );
    };
    check(&[], "172.17.0.0/16");
    check(&["172.17.4.0/24"], "172.18.0.0/16");
    check(&["172.16.0.0/12"], "192.168.0.0/20");
    check(&["172.16.0.0/12", "192.168.0.0/24", "192.168.17.0/24"], "192.168.32.0/20");
    assert_eq!(choose_subnet(&pools, Family::V4, &nets(&["172.16.0.0/12", "192.168.0.0/16"])), None);
    let tiny = [AddressPool { base: "10.0.0.0/8".parse().unwrap(), size: 32 }];
    assert_eq!(
        choose_subnet(&tiny, Family::V4, &nets(&["10.0.0.0/9"])).unwrap().to_string(),
        "10.128.0.0/32"
    );
}

#[test]
fn ipv6_is_the_same_but_for_its_size() {
    let mut leases = Leases::of(&range("fd00:1::/64", Some("fd00:1::1")));
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(leases.take_any(), Ok(ip("fd00:1::2")));
    assert_eq!(leases.take(ip("fd00:1::ffff:ffff:ffff:ffff")), Ok(()), "no broadcast address");
    assert_eq!(leases.take(ip("fd00:2::1")), Err(NoAddress::Outside(ip("fd00:2::1"))));
    assert_eq!(leases.free(), usize::MAX - 4);
    let all: Vec<IpAddr> = {
        let mut leases = Leases::of(&range("fd00::/126", None));
        std::iter::from_fn(move || leases.take_any().ok()).collect()
    };
    assert_eq!(all, [ip("fd00::1"), ip("fd00::2"), ip("fd00::3")]);
}

#[test]
fn ipv6_subnets_come_from_a_pool_of_this_hosts() {
    let pools = [local_pool("0123456789abcdef")];
    let choose = |used: &[&str]| choose_subnet(&pools, Family::V6, &nets(used)).map(|n| n.to_string());
    assert_eq!(choose(&[]).as_deref(), Some("fd01:2345:6789::/64"));
    assert_eq!(choose(&["fd01:2345:6789::/64", "10.0.0.0/8"]).as_deref(), Some("fd01:2345:6789:1::/64"));
    assert_eq!(choose(&["fd00::/8"]), None);
    assert_eq!(choose_subnet(&pools, Family::V4, &[]), None);
    let last = [AddressPool { base: "ffff::/16".parse().unwrap(), size: 17 }];
    assert_eq!(
        choose_subnet(&last, Family::V6, &nets(&["ffff::/16"])),
        None,
        "there is nothing after the last"
    );
}

proptest! {
    #[test]
    fn no_address_is_given_twice(prefix in 24_u8..=30, steps in proptest::collection::vec(any::<(bool, u8)>(), 1..300)) {
        let spec = range(&format!("10.1.2.0/{prefix}"), Some("10.1.2.1"));
        let mut leases = Leases::of(&spec);
        let mut held: Vec<IpAddr> = Vec::new();
        for (take, n) in steps {
            if take {
                match leases.take_any() {
                    Ok(ip) => {
                        prop_assert!(!held.contains(&ip));
                        prop_assert!(leases.subnet().contains(&ip));
                        prop_assert!(ip != leases.subnet().network() && ip != leases.subnet().broadcast());
                        prop_assert!(ip != IpAddr::from([10, 1, 2, 1]));
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
        let used: Vec<IpNet> = used.into_iter()
            .map(|(ip, p)| IpNet::new(Ipv4Addr::from(0xac10_0000 | ip & 0x000f_ffff).into(), p.max(13)).unwrap())
            .collect();
        if let Some(chosen) = choose_subnet(&docker_pools(), Family::V4, &used) {
            prop_assert!(used.iter().all(|u| !overlap(u, &chosen)));
        }
    }
}
