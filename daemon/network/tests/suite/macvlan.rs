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
