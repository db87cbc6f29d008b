// SPDX-License-Identifier: Apache-2.0
//! Containers on an interface of the host's.

use std::net::IpAddr;

use berth_domain::Meaning;
use berth_network::*;

use super::lab::*;

fn on_parent(parent: &str) -> impl Fn(&mut NetworkRequest) {
    let parent = parent.to_owned();
    move |n| {
        n.driver = Driver::Macvlan;
        n.options.insert("parent".into(), parent.clone());
        n.ranges = vec![AddressRange {
            subnet: "198.51.100.0/24".parse().unwrap(),
            range: Some("198.51.100.128/25".parse().unwrap()),
            gateway: Some(OUTSIDE.into()),
            reserved: std::collections::BTreeMap::new(),
            chosen_by_user: true,
            gateway_chosen_by_user: true,
        }];
    }
}

#[test]
fn containers_on_the_hosts_network() {
    let lab = Lab::new();
    lab.network("mac", on_parent("up0")).unwrap();
    let (one, two) = (lab.on("mac", &[tcp(8080, 80)]), lab.on("mac", &[]));
    assert_eq!(one.record.ports, [], "there is nothing to translate");
    let outside = lab.outside.listen(80);
    assert_eq!(talk(&one.ns, (OUTSIDE, 80), &outside), IpAddr::from(one.ip()), "seen as itself");
    let server = one.ns.listen(80);
    talk(&two.ns, (one.ip(), 80), &server);
    assert_eq!(talk(&lab.outside, (one.ip(), 80), &server), IpAddr::from(OUTSIDE));
    assert!(one.ns.sh("ip route").contains(&format!("default via {OUTSIDE}")));
    // Joined and left while it runs.
    let plain = lab.container(&[]);
    use std::os::fd::AsFd as _;
    wait(lab.networks.sandbox_connect(&plain.id, plain.ns.0.as_fd(), EndpointRequest::on("mac"))).unwrap();
    talk(&plain.ns, (one.ip(), 80), &server);
    wait(lab.networks.sandbox_disconnect(&plain.id, plain.ns.0.as_fd(), "mac")).unwrap();
    until("the link is gone", || !plain.ns.sh("ip -o link").contains("eth1"));
    for container in [&one, &two] {
        lab.release(container);
    }
    wait(lab.networks.network_remove("mac")).unwrap();
    assert!(lab.host.sh("ip link show up0").contains("UP"), "the parent is the host's");
}

#[test]
fn what_is_missing_is_said() {
    let lab = Lab::new();
    let check = |change: &dyn Fn(&mut NetworkRequest), text: &str| {
        let error = lab.network("mac", change).unwrap_err();
        assert!(
            error.meaning() == Meaning::InvalidInput && error.chain().contains(text),
            "{}",
            error.chain()
        );
        assert!(lab.networks.resolve("mac").is_err());
    };
    check(&on_parent("nope0"), "parent=nope0: this host has no such interface");
    check(&on_parent("nope0.10"), "parent=nope0: this host has no such interface");
    check(
        &|n| {
            on_parent("up0")(n);
            n.options.insert("macvlan_mode".into(), "bent".into());
        },
        "requested macvlan mode 'bent' is not valid",
    );
    // Without a parent it is on a link to nowhere, where the kernel has such links.
    let nowhere = |n: &mut NetworkRequest| (n.driver, n.internal) = (Driver::Macvlan, true);
    match lab.network("mac", nowhere) {
        Ok(_) => {
            let (one, two) = (lab.on("mac", &[]), lab.on("mac", &[]));
            let server = one.ns.listen(80);
            talk(&two.ns, (one.ip(), 80), &server);
        }
        Err(error) => assert!(error.chain().contains("CONFIG_DUMMY"), "{}", error.chain()),
    }
}

#[test]
fn a_vlan_that_was_there_stays() {
    let lab = Lab::new();
    let made = lab.host.sh("ip link add link up0 name up0.10 type vlan id 10 2>&1 || true");
    if made.contains("not supported") || made.contains("Unknown device type") {
        // A link of another kind that is called so does as well.
        lab.host.sh("ip link add up0.10 type veth peer name up1");
    }
    for name in ["one", "two"] {
        let vlan = |n: &mut NetworkRequest| {
            n.driver = Driver::Macvlan;
            n.options.insert("parent".into(), "up0.10".into());
        };
        let network = lab.network(name, vlan).unwrap();
        let macvlan = network.macvlan.clone().unwrap();
        assert_eq!((macvlan.vlan, macvlan.made), (Some(10), false));
    }
    for name in ["one", "two"] {
        wait(lab.networks.network_remove(name)).unwrap();
        lab.host.sh("ip link show up0.10");
    }
}

#[test]
fn a_vlan_of_ours_goes_with_the_last_network_on_it() {
    let lab = Lab::new();
    let vlan = |n: &mut NetworkRequest| {
        n.driver = Driver::Macvlan;
        n.options.insert("parent".into(), "up0.11".into());
    };
    let there = || lab.host.sh("ip -o link").contains("up0.11");
    match lab.network("one", vlan) {
        Ok(network) => assert!(network.macvlan.as_ref().unwrap().made),
        Err(error) => {
            assert!(error.chain().contains("CONFIG_VLAN_8021Q"), "{}", error.chain());
            return;
        }
    }
    lab.network("two", vlan).unwrap();
    wait(lab.networks.network_remove("one")).unwrap();
    assert!(there());
    wait(lab.networks.network_remove("two")).unwrap();
    assert!(!there());
}

#[test]
fn adopting_takes_no_link_from_a_container() {
    use std::os::fd::AsFd as _;
    let mut lab = Lab::new();
    lab.network("mac", on_parent("up0")).unwrap();
    let one = lab.on("mac", &[]);
    let copy = || Some(one.ns.0.try_clone().unwrap());
    let member = lab.create(Mode::Container(copy().unwrap()), &[]).unwrap();
    lab.restart();
    wait(lab.networks.sandbox_adopt(&member.id, member.record.clone(), copy(), Vec::new())).unwrap();
    wait(lab.networks.sandbox_adopt(&one.id, one.record.clone(), copy(), Vec::new())).unwrap();
    wait(lab.networks.sweep(&[one.id.clone(), member.id.clone()])).unwrap();
    assert!(one.ns.sh("ip -o link").contains("eth0"));
    // A link of the container's own is in the way, and stays.
    let plain = lab.container(&[]);
    plain.ns.sh("ip link add eth1 link eth0 type macvlan");
    let request = EndpointRequest::on("mac");
    wait(lab.networks.sandbox_connect(&plain.id, plain.ns.0.as_fd(), request)).unwrap_err();
    wait(lab.networks.sweep(&[one.id.clone(), member.id.clone(), plain.id.clone()])).unwrap();
    assert!(plain.ns.sh("ip -o link").contains("eth1"));
    // What was connected and not recorded goes.
    plain.ns.sh("ip link del eth1");
    let request = EndpointRequest::on("mac");
    wait(lab.networks.sandbox_connect(&plain.id, plain.ns.0.as_fd(), request)).unwrap();
    assert!(plain.ns.sh("ip -o link").contains("eth1"));
    lab.restart();
    let netns = Some(plain.ns.0.try_clone().unwrap());
    wait(lab.networks.sandbox_adopt(&plain.id, plain.record.clone(), netns, Vec::new())).unwrap();
    assert!(!plain.ns.sh("ip -o link").contains("eth1"));
    assert!(plain.ns.sh("ip -o link").contains("eth0"));
}
