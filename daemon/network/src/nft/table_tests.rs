// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::testing::{check_golden, in_namespace, run};
use crate::{GatewayMode, Protocol};

fn known() -> Known {
    let bridge = |link: &str, subnets: &[&str], icc, internal, mode| Bridge {
        link: link.into(),
        subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
        icc,
        masquerade: true,
        internal,
        modes: [GatewayMode::Nat, mode],
    };
    let forward = |protocol, host_ip, host_port, to_port| Forward {
        protocol,
        host_ip,
        host_port,
        to: match host_ip {
            IpAddr::V4(_) => Ipv4Addr::new(172, 17, 0, 2).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2).into(),
        },
        to_port,
        comment: "0123456789ab".into(),
        routed: false,
    };
    let (any, any6) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let routed =
        Forward { routed: true, to: "fd00:2::2".parse().unwrap(), ..forward(Protocol::Tcp, any6, 0, 443) };
    Known {
        bridges: vec![
            bridge("berth0", &["172.17.0.0/16"], true, false, GatewayMode::Nat),
            bridge("br-0123456789ab", &["172.18.0.0/24", "fd00:1::/64"], false, false, GatewayMode::Nat),
            bridge("br-internal", &["255.255.255.0/24"], true, true, GatewayMode::Nat),
            bridge("br-routed", &["fd00:2::/64"], true, false, GatewayMode::Routed),
        ],
        forwards: vec![
            forward(Protocol::Tcp, any, 6378, 6379),
            forward(Protocol::Tcp, any6, 6378, 6379),
            forward(Protocol::Udp, any, 53, 5353),
            forward(Protocol::Tcp, Ipv4Addr::LOCALHOST.into(), 8080, 80),
            forward(Protocol::Tcp, Ipv6Addr::LOCALHOST.into(), 8080, 80),
            routed,
        ],
        loopback6_is_lost: true,
    }
}

fn listing() -> String {
    run("nft -n list table inet berth")
}

#[test]
fn the_table_is_what_the_documentation_shows() {
    in_namespace(|| {
        let mut firewall = Firewall::open("berth").unwrap();
        firewall.replace(&known()).unwrap();
        check_golden("table.nft", &listing());
    });
}

#[test]
fn replacing_keeps_the_administrators_rules_and_nothing_else() {
    in_namespace(|| {
        let mut firewall = Firewall::open("berth").unwrap();
        firewall.replace(&known()).unwrap();
        let clean = listing();
        firewall.replace(&known()).unwrap();
        assert_eq!(listing(), clean, "replacing twice is replacing once");
        run("nft add rule inet berth admin ip saddr 203.0.113.7 drop");
        run("nft add chain inet berth mine");
        run("nft add rule inet berth mine jump admin");
        run("nft add table ip others");
        run("nft delete element inet berth ports { 6 . 6378 }");
        run("nft insert rule inet berth forward accept");
        firewall.replace(&known()).unwrap();
        let admin = "chain admin {\n\t\tip saddr 203.0.113.7 drop\n\t}";
        assert!(listing().contains(admin), "{}", listing());
        assert!(listing().contains("chain mine"), "chains that others add stay");
        let without = listing()
            .replace(admin, "chain admin {\n\t}")
            .replace("\tchain mine {\n\t\tjump admin\n\t}\n\n", "")
            .replace("\n\tchain mine {\n\t\tjump admin\n\t}\n", "");
        assert_eq!(without, clean);
        assert!(run("nft list tables").contains("table ip others"));
    });
}

#[test]
fn a_table_of_another_making_is_replaced() {
    in_namespace(|| {
        run("nft add table inet berth");
        run("nft add set inet berth bridges { type ipv4_addr ; }");
        run("nft add chain inet berth forward { type filter hook forward priority 5 ; }");
        let mut firewall = Firewall::open("berth").unwrap();
        firewall.ensure(&known()).unwrap();
        let replaced = listing();
        run("nft delete table inet berth");
        firewall.ensure(&known()).unwrap();
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&listing()), sorted(&replaced));
    });
}

#[test]
fn ports_come_and_go_as_elements() {
    in_namespace(|| {
        let mut firewall = Firewall::open("berth").unwrap();
        let known = known();
        let bare = Known { forwards: Vec::new(), ..known.clone() };
        firewall.ensure(&bare).unwrap();
        let before = listing();
        firewall.publish(&known.forwards).unwrap();
        assert!(listing().contains("6 . 6378 comment \"0123456789ab\" : 172.17.0.2 . 6379"), "{}", listing());
        firewall.ensure(&bare).unwrap();
        assert!(listing().contains("6 . 6378"), "an open by a later daemon leaves ports in force");
        firewall.publish(&known.forwards).unwrap();
        firewall.unpublish(&known.forwards).unwrap();
        assert_eq!(listing(), before);
        let error = firewall.unpublish(&known.forwards).unwrap_err();
        assert!(error.chain().contains("elements of set ports"), "{}", error.chain());
    });
}

#[test]
fn thousands_of_ports_fit_one_transaction() {
    in_namespace(|| {
        let mut firewall = Firewall::open("berth").unwrap();
        let mut known = known();
        let template = known.forwards[0].clone();
        known.forwards = (1..=20_000).map(|host_port| Forward { host_port, ..template.clone() }).collect();
        firewall.replace(&known).unwrap();
        firewall.replace(&known).unwrap();
        assert_eq!(listing().matches("0123456789ab\" :").count(), 20_000);
        firewall.unpublish(&known.forwards).unwrap();
        assert_eq!(listing().matches("0123456789ab\" :").count(), 0);
    });
}

#[test]
fn bridges_come_and_go() {
    in_namespace(|| {
        let mut firewall = Firewall::open("berth").unwrap();
        let known = known();
        firewall.replace(&Known { bridges: known.bridges[..1].to_vec(), ..known.clone() }).unwrap();
        let before = listing();
        firewall.add_bridge(&known.bridges[1]).unwrap();
        firewall.add_bridge(&known.bridges[2]).unwrap();
        assert!(listing().contains("255.255.255.0/24 . \"br-internal\""), "{}", listing());
        firewall.remove_bridge(&known.bridges[1]).unwrap();
        firewall.remove_bridge(&known.bridges[2]).unwrap();
        assert_eq!(listing(), before);
    });
}

#[test]
fn tampering_is_noticed() {
    in_namespace(|| {
        let mut firewall = Firewall::open("berth").unwrap();
        let mut known = known();
        // Neighbours: where one interval ends the next begins.
        known.bridges[1].subnets =
            ["172.18.0.0/16", "172.16.0.0/16", "fd00:1::/64"].map(|s| s.parse().unwrap()).to_vec();
        for tampering in [
            "flush ruleset",
            "delete table inet berth",
            "flush chain inet berth publish",
            "insert rule inet berth forward accept",
            "delete element inet berth ports { 6 . 6378 }",
            "add element inet berth ports { 6 . 22 : 172.17.0.2 . 22 }",
            "delete element inet berth masqueraded { 172.17.0.0/16 }",
            "add element inet berth masqueraded { 10.0.0.0/8 }",
            "delete element inet berth ports6 { 6 . 6378 }",
            "delete element inet berth masqueraded6 { fd00:1::/64 }",
            "delete element inet berth subnets { 172.17.0.0/16 . berth0 }",
        ] {
            firewall.replace(&known).unwrap();
            assert!(firewall.is_intact(&known).unwrap());
            run(&format!("nft {tampering}"));
            assert!(!firewall.is_intact(&known).unwrap(), "{tampering}");
        }
        firewall.replace(&known).unwrap();
        run("nft add rule inet berth admin accept");
        assert!(firewall.is_intact(&known).unwrap(), "the administrator's chain is not ours to look at");
        known.forwards.pop();
        assert!(!firewall.is_intact(&known).unwrap());
    });
}

#[test]
fn nft_can_save_and_restore_it() {
    in_namespace(|| {
        let mut firewall = Firewall::open("berth").unwrap();
        firewall.replace(&known()).unwrap();
        let saved = listing();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &saved).unwrap();
        run("nft flush ruleset");
        run(&format!("nft -f {}", file.path().display()));
        assert_eq!(listing(), saved);
        firewall.replace(&known()).unwrap();
        assert_eq!(listing(), saved);
    });
}

#[test]
fn the_documentation_shows_the_table() {
    let read =
        |file: &str| std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let table = read("tests/golden/table.nft");
    assert!(
        read("../../docs/firewall.md").contains(&format!("```nft\n{table}```\n")),
        "docs/firewall.md has another listing"
    );
}
