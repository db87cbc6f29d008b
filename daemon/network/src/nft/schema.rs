// SPDX-License-Identifier: Apache-2.0
//! Our table. Chains and rules are static; networks and published ports are elements of its sets and maps,
//! so that adding one costs the same however many there are.
//!
//! `docs/firewall.md` shows it as `nft list table` prints it, and `tests/golden/table.nft` holds it to that.
//!
//! ```text
//! raw     prerouting   nothing reaches or claims loopback from outside this host
//! nat     prerouting   to an address of this host: publish
//! nat     output       the same for this host's own connections
//!         publish      destination by map: address . protocol . port, then protocol . port
//! nat     postrouting  masquerade: published ports used from loopback or from their own bridge, and what
//!                      leaves a bridge for elsewhere
//! filter  forward      admin first; within a bridge; into a bridge only replies and published ports
//! ```
//!
//! Sets of addresses are there twice, with a 6 behind the name of the one for IPv6.
//!
//! `admin` belongs to the administrator: it is made when missing and never touched again.

use std::net::IpAddr;

use ipnet::IpNet;

use super::encode::Attrs;
use super::expr::{
    Expr, Header, Meta, Reg, destination, from_loopback, ifname, in_name, is, is_protocol, is_reply,
    out_name, source, to_loopback, to_this_host, was_dnat,
};
use crate::ipam::Family;
use crate::{GatewayMode, Protocol};

/// A bridge network, as far as the firewall is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) link: String,
    pub(crate) subnets: Vec<IpNet>,
    pub(crate) icc: bool,
    pub(crate) masquerade: bool,
    pub(crate) internal: bool,
    /// Of IPv4 and of IPv6.
    pub(crate) modes: [GatewayMode; 2],
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) protocol: Protocol,
    /// Of the same family as `to`.
    pub(crate) host_ip: IpAddr,
    pub(crate) host_port: u16,
    pub(crate) to: IpAddr,
    pub(crate) to_port: u16,
    /// Reached at `to` itself.
    pub(crate) routed: bool,
    /// Whose it is, for people who read the table.
    pub(crate) comment: String,
}

/// Everything that the table's content follows from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) bridges: Vec<Bridge>,
    pub(crate) forwards: Vec<Forward>,
    /// Connections to `::1` cannot be translated (bridged frames pass through netfilter, where the kernel takes their answers for
    /// an attack): they get no further than the socket that keeps the port, which refuses them.
    pub(crate) loopback6_is_lost: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    Address,
    Address6,
    Protocol,
    Port,
    Interface,
}

impl Field {
    /// nft's number of the type, and its length.
    fn of(self) -> (u32, u32) {
        match self {
            Self::Address => (7, 4),
            Self::Address6 => (8, 16),
            Self::Protocol => (12, 1),
            Self::Port => (13, 2),
            Self::Interface => (41, 16),
        }
    }

    /// As [`Field::of`], for fields side by side: six bits of type each, lengths padded to four bytes.
    pub(super) fn of_all(fields: &[Self]) -> (u32, u32) {
        match fields {
            [one] => one.of(),
            many => many.iter().fold((0, 0), |(kind, len), field| {
                let (k, l) = field.of();
                (kind << 6 | k, len + l.next_multiple_of(4))
            }),
        }
    }
}

pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) key: &'static [Field],
    pub(super) value: &'static [Field],
    pub(super) interval: bool,
}

impl Set {
    /// `NFT_SET_INTERVAL`, `_MAP`, `_CONCAT`.
    pub(super) fn flags(&self) -> u32 {
        let interval = if self.interval { 4 } else { 0 };
        let map = if self.value.is_empty() { 0 } else { 8 };
        let concat = if self.interval && self.key.len() > 1 { 0x80 } else { 0 };
        interval | map | concat
    }
}

const BRIDGES: &str = "bridges";
const INTERNAL: &str = "internal";
const ICC: &str = "icc";
const LOST: &str = "lost";

/// The names of the sets of a family.
struct Names {
    subnets: &'static str,
    masqueraded: &'static str,
    ports_at: &'static str,
    ports: &'static str,
    routed: &'static str,
    reachable: &'static str,
    unprotected: &'static str,
}

// `masquerade` would be a word of nft's, and the table could not be read back.
const V4: Names = Names {
    subnets: "subnets",
    masqueraded: "masqueraded",
    ports_at: "ports_at",
    ports: "ports",
    routed: "routed",
    reachable: "reachable",
    unprotected: "unprotected",
};
const V6: Names = Names {
    subnets: "subnets6",
    masqueraded: "masqueraded6",
    ports_at: "ports_at6",
    ports: "ports6",
    routed: "routed6",
    reachable: "reachable6",
    unprotected: "unprotected6",
};

fn names(family: Family) -> &'static Names {
    match family {
        Family::V4 => &V4,
        Family::V6 => &V6,
    }
}

pub(super) const SETS: [Set; 18] = {
    use Field::{Address, Address6, Interface, Port, Protocol};
    const fn set(name: &'static str, key: &'static [Field]) -> Set {
        Set { name, key, value: &[], interval: false }
    }
    const fn intervals(name: &'static str, key: &'static [Field]) -> Set {
        Set { name, key, value: &[], interval: true }
    }
    const fn map(name: &'static str, key: &'static [Field], value: &'static [Field]) -> Set {
        Set { name, key, value, interval: false }
    }
    [
        // Our bridges.
        set(BRIDGES, &[Interface]),
        // Those without a way out.
        set(INTERNAL, &[Interface]),
        // Bridge and the same bridge, where containers may reach one another.
        set(ICC, &[Interface, Interface]),
        // Bridges whose containers are reached at their own addresses, at published ports and by pings.
        set(V4.routed, &[Interface]),
        set(V6.routed, &[Interface]),
        // Bridges whose containers are reached at their own addresses by everybody.
        set(V4.unprotected, &[Interface]),
        set(V6.unprotected, &[Interface]),
        // Addresses of this host at which published ports cannot be translated.
        set(LOST, &[Address6]),
        // Subnet and its bridge.
        intervals(V4.subnets, &[Address, Interface]),
        intervals(V6.subnets, &[Address6, Interface]),
        // Subnets to masquerade.
        intervals(V4.masqueraded, &[Address]),
        intervals(V6.masqueraded, &[Address6]),
        // Published ports reached at the container's own address.
        set(V4.reachable, &[Address, Protocol, Port]),
        set(V6.reachable, &[Address6, Protocol, Port]),
        // Ports published on one address.
        map(V4.ports_at, &[Address, Protocol, Port], &[Address, Port]),
        map(V6.ports_at, &[Address6, Protocol, Port], &[Address6, Port]),
        // Ports published on every address.
        map(V4.ports, &[Protocol, Port], &[Address, Port]),
        map(V6.ports, &[Protocol, Port], &[Address6, Port]),
    ]
};

/// Kind, hook and priority of a base chain.
pub(super) type Base = (&'static str, u32, i32);

pub(super) const ADMIN: &str = "admin";
pub(super) const CHAINS: [(&str, Option<Base>); 8] = [
    (ADMIN, None),
    ("publish", None),
    ("into_bridge", None),
    ("raw_prerouting", Some(("filter", 0, -300))),
    ("prerouting", Some(("nat", 0, -100))),
    ("output", Some(("nat", 3, -100))),
    ("postrouting", Some(("nat", 4, 100))),
    ("forward", Some(("filter", 2, 0))),
];

pub(super) struct Rule {
    pub(super) chain: &'static str,
    pub(super) comment: &'static str,
    /// What the kernel needs for it, for when it has not.
    pub(super) needs: &'static str,
    pub(super) body: Vec<Expr>,
}

pub(super) fn rules() -> Vec<Rule> {
    use Expr::{Accept, Dnat, Drop, Goto, In, Jump, Map, Masquerade, Return};
    let mut rules = Vec::new();
    let mut rule = |chain, comment, needs, parts: &[&[Expr]]| {
        rules.push(Rule { chain, comment, needs, body: parts.concat() });
    };
    let lookup = "nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)";
    let ct = "nft_ct (CONFIG_NFT_CT, CONFIG_NF_CONNTRACK)";
    let nat = "nft_nat (CONFIG_NFT_NAT)";
    let masq = "nft_masq (CONFIG_NFT_MASQ)";
    let fib = "nft_fib_inet (CONFIG_NFT_FIB_INET)";
    let families = [Family::V4, Family::V6];

    // Bridges have route_localnet, or 127.0.0.1 could not lead to a container. These rules take from it what it would open:
    // without them a neighbour could reach what listens, or is published, on 127.0.0.1, and a container could pretend
    // to be this host's loopback.
    rule("raw_prerouting", "", lookup, &[&[in_name(), Expr::Equals(ifname("lo").to_vec()), Return]]);
    for family in families {
        let comment = "loopback is not reached from outside";
        rule("raw_prerouting", comment, lookup, &[&to_loopback(family), &[Drop]]);
        let comment = "nor claimed by containers";
        rule(
            "raw_prerouting",
            comment,
            lookup,
            &[&[in_name(), In(BRIDGES)], &from_loopback(family), &[Drop]],
        );
    }

    rule("prerouting", "", fib, &[&to_this_host(), &[Jump("publish")]]);
    rule("output", "", lookup, &[&is(Family::V6), &[destination(Family::V6, Reg::R1), In(LOST), Return]]);
    rule("output", "", fib, &[&to_this_host(), &[Jump("publish")]]);

    // Where an address ends in registers that it is the first in.
    let behind = |family| match family {
        Family::V4 => 1,
        Family::V6 => 4,
    };
    let protocol_and_port = |first: u8| {
        let at = |n| if n == 0 { Reg::R1 } else { Reg::Word(n) };
        [Expr::Meta(Meta::Protocol, at(first)), Expr::Payload(Header::Transport, 2, 2, at(first + 1))]
    };
    for family in families {
        let (to, names) = (destination(family, Reg::R1), names(family));
        let exact: [&[Expr]; 4] =
            [&is(family), &[to], &protocol_and_port(behind(family)), &[Map(names.ports_at), Dnat(family)]];
        rule("publish", "", nat, &exact);
        rule("publish", "", nat, &[&is(family), &protocol_and_port(0), &[Map(names.ports), Dnat(family)]]);
    }

    for family in families {
        let names = names(family);
        let source_and_out = [source(family, Reg::R1), Expr::Meta(Meta::OutName, Reg::Word(behind(family)))];
        let comment = "from loopback to a published port";
        rule(
            "postrouting",
            comment,
            masq,
            &[&[out_name(), In(BRIDGES)], &from_loopback(family), &[Masquerade]],
        );
        let comment = "to a published port of the same bridge";
        let same: [&[Expr]; 5] =
            [&is(family), &source_and_out, &[In(names.subnets)], &was_dnat(), &[Masquerade]];
        rule("postrouting", comment, masq, &same);
        let comment = "within a bridge";
        rule("postrouting", comment, lookup, &[&is(family), &source_and_out, &[In(names.subnets), Return]]);
        let rest: [&[Expr]; 2] = [&is(family), &[source(family, Reg::R1), In(names.masqueraded), Masquerade]];
        rule("postrouting", "", masq, &rest);
    }

    rule("forward", "", lookup, &[&[Jump(ADMIN)]]);
    let both = [Expr::Meta(Meta::InName, Reg::R1), Expr::Meta(Meta::OutName, Reg::R2)];
    rule("forward", "containers of one bridge", lookup, &[&both, &[In(ICC), Accept]]);
    rule("forward", "", lookup, &[&[out_name(), In(BRIDGES), Goto("into_bridge")]]);
    rule("forward", "internal networks have no way out", lookup, &[&[in_name(), In(INTERNAL), Drop]]);

    rule("into_bridge", "", ct, &[&is_reply(), &[Accept]]);
    rule("into_bridge", "", lookup, &[&[in_name(), In(INTERNAL), Drop]]);
    rule("into_bridge", "", lookup, &[&[out_name(), In(INTERNAL), Drop]]);
    rule("into_bridge", "published ports", ct, &[&was_dnat(), &[Accept]]);
    for family in families {
        let (to, names) = (destination(family, Reg::R1), names(family));
        let icmp = match family {
            Family::V4 => 1,
            Family::V6 => 58,
        };
        let target: [&[Expr]; 4] =
            [&is(family), &[to], &protocol_and_port(behind(family)), &[In(names.reachable), Accept]];
        rule("into_bridge", "published, and not translated", lookup, &target);
        let pings: [&[Expr]; 3] = [&is(family), &is_protocol(icmp), &[out_name(), In(names.routed), Accept]];
        rule("into_bridge", "", lookup, &pings);
        rule("into_bridge", "", lookup, &[&is(family), &[out_name(), In(names.unprotected), Accept]]);
    }
    rule("into_bridge", "everything else", lookup, &[&[Drop]]);
    rules
}

/// A set's element as the kernel takes it.
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// Last key of an interval in a set of several fields.
    pub(super) key_end: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    /// This key ends an interval in a set of one field.
    pub(super) ends: bool,
    pub(super) comment: String,
}

impl Element {
    fn key(key: Vec<u8>) -> Self {
        Self { key, key_end: None, value: None, ends: false, comment: String::new() }
    }

    pub(super) fn emit(&self, list: &mut Attrs<'_>) {
        list.nest(1, |e| {
            let data = |kind, bytes: &[u8], e: &mut Attrs<'_>| {
                e.nest(kind, |v| {
                    v.bytes(1, bytes);
                });
            };
            data(1, &self.key, e);
            if let Some(end) = &self.key_end {
                data(10, end, e);
            }
            if let Some(value) = &self.value {
                data(2, value, e);
            }
            if self.ends {
                e.number(3, 1);
            }
            if !self.comment.is_empty() {
                e.bytes(6, &comment(&self.comment));
            }
        });
    }
}

/// User data that nft shows as a comment: type 0, length, text with its NUL.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(120)];
    let mut bytes = vec![0, u8::try_from(text.len() + 1).unwrap_or(0)];
    bytes.extend_from_slice(text);
    bytes.push(0);
    bytes
}

fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Forward {
    pub(super) fn element(&self) -> (&'static str, Element) {
        let names = names(Family::of(self.to));
        let protocol = [self.protocol.number(), 0, 0, 0];
        if self.routed {
            let key = [&octets(self.to)[..], &protocol, &port(self.to_port)].concat();
            return (names.reachable, Element { comment: self.comment.clone(), ..Element::key(key) });
        }
        let (set, mut key) = if self.host_ip.is_unspecified() {
            (names.ports, Vec::with_capacity(8))
        } else {
            (names.ports_at, octets(self.host_ip))
        };
        key.extend_from_slice(&protocol);
        key.extend_from_slice(&port(self.host_port));
        let value = [&octets(self.to)[..], &port(self.to_port)].concat();
        (set, Element { value: Some(value), comment: self.comment.clone(), ..Element::key(key) })
    }
}

/// The address after a subnet's last; none after the last of all.
fn after(subnet: &IpNet) -> Option<Vec<u8>> {
    match subnet {
        IpNet::V4(net) => u32::from(net.broadcast()).checked_add(1).map(|n| n.to_be_bytes().to_vec()),
        IpNet::V6(net) => u128::from(net.broadcast()).checked_add(1).map(|n| n.to_be_bytes().to_vec()),
    }
}

impl Bridge {
    pub(super) fn elements(&self) -> Vec<(&'static str, Element)> {
        let name = ifname(&self.link);
        let mut elements = vec![(BRIDGES, Element::key(name.to_vec()))];
        if self.internal {
            elements.push((INTERNAL, Element::key(name.to_vec())));
        }
        if self.icc {
            elements.push((ICC, Element::key([name, name].concat())));
        }
        let mode = |family| match family {
            Family::V4 => self.modes[0],
            Family::V6 => self.modes[1],
        };
        for family in [Family::V4, Family::V6] {
            match mode(family) {
                GatewayMode::Nat | GatewayMode::Isolated => {}
                GatewayMode::Routed => elements.push((names(family).routed, Element::key(name.to_vec()))),
                GatewayMode::NatUnprotected => {
                    elements.push((names(family).unprotected, Element::key(name.to_vec())));
                }
            }
        }
        for subnet in &self.subnets {
            let family = Family::of_net(*subnet);
            let names = names(family);
            let (first, last) = (octets(subnet.network()), octets(subnet.broadcast()));
            elements.push((
                names.subnets,
                Element {
                    key_end: Some([&last[..], &name].concat()),
                    ..Element::key([&first[..], &name].concat())
                },
            ));
            let translated = matches!(mode(family), GatewayMode::Nat | GatewayMode::NatUnprotected);
            if self.masquerade && !self.internal && translated {
                elements.push((names.masqueraded, Element::key(first)));
                // A subnet that ends with the last address has no end element.
                if let Some(after) = after(subnet) {
                    elements.push((names.masqueraded, Element { ends: true, ..Element::key(after) }));
                }
            }
        }
        elements
    }
}

impl Known {
    pub(super) fn elements(&self) -> Vec<(&'static str, Element)> {
        let bridges = self.bridges.iter().flat_map(Bridge::elements);
        let lost = self
            .loopback6_is_lost
            .then(|| (LOST, Element::key(std::net::Ipv6Addr::LOCALHOST.octets().to_vec())));
        bridges.chain(lost).chain(self.forwards.iter().map(Forward::element)).collect()
    }
}

pub(super) fn define_set(a: &mut Attrs<'_>, table: &str, set: &Set) {
    let (kind, len) = Field::of_all(set.key);
    a.text(1, table).text(2, set.name).number(3, set.flags()).number(4, kind).number(5, len);
    if !set.value.is_empty() {
        let (kind, len) = Field::of_all(set.value);
        a.number(6, kind).number(7, len);
    }
    if set.interval && set.key.len() > 1 {
        a.nest(9, |desc| {
            desc.nest(2, |fields| {
                for field in set.key {
                    fields.nest(1, |f| {
                        f.number(1, field.of().1);
                    });
                }
            });
        });
    }
    if matches!(set.key, [Field::Interface]) {
        // For nft's eyes only (NFTNL_UDATA_SET_KEYBYTEORDER, host's): without it names are listed as "".
        a.bytes(13, &[&[0, 4][..], &1_u32.to_ne_bytes()].concat());
    }
    // Any number unique within the transaction.
    a.number(
        10,
        SETS.iter().position(|s| s.name == set.name).and_then(|n| u32::try_from(n + 1).ok()).unwrap_or(0),
    );
}
