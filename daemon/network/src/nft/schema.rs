// SPDX-License-Identifier: Apache-2.0
//! Our table. Chains and rules are static; networks and published ports are elements of its sets and maps,
//! so that adding one costs the same however many there are.
//!
//! `docs/firewall.md` shows it as `nft list table` prints it, and `tests/golden/table.nft` holds it to that.
//!
//! ```text
//! raw     prerouting   nothing reaches or claims 127.0.0.0/8 from outside this host
//! nat     prerouting   to an address of this host: publish
//! nat     output       the same for this host's own connections
//!         publish      destination by map: address . protocol . port, then protocol . port
//! nat     postrouting  masquerade: published ports used from loopback or from their own bridge, and what
//!                      leaves a bridge for elsewhere
//! filter  forward      admin first; within a bridge; into a bridge only replies and published ports
//! ```
//!
//! `admin` belongs to the administrator: it is made when missing and never touched again.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::encode::Attrs;
use super::expr::{
    Expr, Header, Meta, Reg, from_loopback, ifname, in_name, is_reply, out_name, to_loopback, to_this_host,
    was_dnat,
};
use crate::Protocol;

/// A bridge network, as far as the firewall is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) link: String,
    pub(crate) subnets: Vec<Ipv4Net>,
    pub(crate) icc: bool,
    pub(crate) masquerade: bool,
    pub(crate) internal: bool,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) protocol: Protocol,
    pub(crate) host_ip: Ipv4Addr,
    pub(crate) host_port: u16,
    pub(crate) to: Ipv4Addr,
    pub(crate) to_port: u16,
    /// Whose it is, for people who read the table.
    pub(crate) comment: String,
}

/// Everything that the table's content follows from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) bridges: Vec<Bridge>,
    pub(crate) forwards: Vec<Forward>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    Address,
    Protocol,
    Port,
    Interface,
}

impl Field {
    /// nft's number of the type, and its length.
    fn of(self) -> (u32, u32) {
        match self {
            Self::Address => (7, 4),
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
const SUBNETS: &str = "subnets";
// `masquerade` would be a word of nft's, and the table could not be read back.
const MASQUERADE: &str = "masqueraded";
const PORTS_AT: &str = "ports_at";
const PORTS: &str = "ports";

pub(super) const SETS: [Set; 7] = [
    // Our bridges.
    Set { name: BRIDGES, key: &[Field::Interface], value: &[], interval: false },
    // Those without a way out.
    Set { name: INTERNAL, key: &[Field::Interface], value: &[], interval: false },
    // Bridge and the same bridge, where containers may reach one another.
    Set { name: ICC, key: &[Field::Interface, Field::Interface], value: &[], interval: false },
    // Subnet and its bridge.
    Set { name: SUBNETS, key: &[Field::Address, Field::Interface], value: &[], interval: true },
    // Subnets to masquerade.
    Set { name: MASQUERADE, key: &[Field::Address], value: &[], interval: true },
    // Ports published on one address.
    Set {
        name: PORTS_AT,
        key: &[Field::Address, Field::Protocol, Field::Port],
        value: &[Field::Address, Field::Port],
        interval: false,
    },
    // Ports published on every address.
    Set {
        name: PORTS,
        key: &[Field::Protocol, Field::Port],
        value: &[Field::Address, Field::Port],
        interval: false,
    },
];

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
    let lookup = "nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)";
    let ct = "nft_ct (CONFIG_NFT_CT, CONFIG_NF_CONNTRACK)";
    let nat = "nft_nat (CONFIG_NFT_NAT)";
    let masq = "nft_masq (CONFIG_NFT_MASQ)";
    let fib = "nft_fib_ipv4 (CONFIG_NFT_FIB_IPV4)";

    // Bridges have route_localnet, or 127.0.0.1 could not lead to a container. These rules take from it what it would open:
    // without them a neighbour could reach what listens, or is published, on 127.0.0.1, and a container could pretend
    // to be this host's loopback.
    rule("raw_prerouting", "", lookup, &[&[in_name(), Expr::Equals(ifname("lo").to_vec()), Return]]);
    rule("raw_prerouting", "loopback is not reached from outside", lookup, &[&to_loopback(), &[Drop]]);
    rule(
        "raw_prerouting",
        "nor claimed by containers",
        lookup,
        &[&[in_name(), In(BRIDGES)], &from_loopback(), &[Drop]],
    );

    rule("prerouting", "", fib, &[&to_this_host(), &[Jump("publish")]]);
    rule("output", "", fib, &[&to_this_host(), &[Jump("publish")]]);

    let protocol_and_port = |first: u8| {
        let at = |n| if n == 0 { Reg::R1 } else { Reg::Word(n) };
        [Expr::Meta(Meta::Protocol, at(first)), Expr::Payload(Header::Transport, 2, 2, at(first + 1))]
    };
    let destination = Expr::Payload(Header::Network, 16, 4, Reg::R1);
    rule("publish", "", nat, &[&[destination], &protocol_and_port(1), &[Map(PORTS_AT), Dnat]]);
    rule("publish", "", nat, &[&protocol_and_port(0), &[Map(PORTS), Dnat]]);

    let source_and_out =
        [Expr::Payload(Header::Network, 12, 4, Reg::R1), Expr::Meta(Meta::OutName, Reg::Word(1))];
    rule(
        "postrouting",
        "from loopback to a published port",
        masq,
        &[&[out_name(), In(BRIDGES)], &from_loopback(), &[Masquerade]],
    );
    rule(
        "postrouting",
        "to a published port of the same bridge",
        masq,
        &[&source_and_out, &[In(SUBNETS)], &was_dnat(), &[Masquerade]],
    );
    rule("postrouting", "within a bridge", lookup, &[&source_and_out, &[In(SUBNETS), Return]]);
    rule(
        "postrouting",
        "",
        masq,
        &[&[Expr::Payload(Header::Network, 12, 4, Reg::R1), In(MASQUERADE), Masquerade]],
    );

    rule("forward", "", lookup, &[&[Jump(ADMIN)]]);
    let both = [Expr::Meta(Meta::InName, Reg::R1), Expr::Meta(Meta::OutName, Reg::R2)];
    rule("forward", "containers of one bridge", lookup, &[&both, &[In(ICC), Accept]]);
    rule("forward", "", lookup, &[&[out_name(), In(BRIDGES), Goto("into_bridge")]]);
    rule("forward", "internal networks have no way out", lookup, &[&[in_name(), In(INTERNAL), Drop]]);

    rule("into_bridge", "", ct, &[&is_reply(), &[Accept]]);
    rule("into_bridge", "", lookup, &[&[in_name(), In(INTERNAL), Drop]]);
    rule("into_bridge", "", lookup, &[&[out_name(), In(INTERNAL), Drop]]);
    rule("into_bridge", "published ports", ct, &[&was_dnat(), &[Accept]]);
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

impl Forward {
    pub(super) fn element(&self) -> (&'static str, Element) {
        let protocol = [self.protocol.number(), 0, 0, 0];
        let mut key = Vec::with_capacity(12);
        let set = if self.host_ip.is_unspecified() {
            PORTS
        } else {
            key.extend_from_slice(&self.host_ip.octets());
            PORTS_AT
        };
        key.extend_from_slice(&protocol);
        key.extend_from_slice(&port(self.host_port));
        let value = [self.to.octets(), port(self.to_port)].concat();
        (set, Element { value: Some(value), comment: self.comment.clone(), ..Element::key(key) })
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
        for subnet in &self.subnets {
            let (first, last) = (subnet.network(), subnet.broadcast());
            elements.push((
                SUBNETS,
                Element {
                    key_end: Some([&last.octets()[..], &name].concat()),
                    ..Element::key([&first.octets()[..], &name].concat())
                },
            ));
            if self.masquerade && !self.internal {
                elements.push((MASQUERADE, Element::key(first.octets().to_vec())));
                // A subnet that ends at 255.255.255.255 has no end element.
                if let Some(after) = u32::from(last).checked_add(1) {
                    elements.push((
                        MASQUERADE,
                        Element { ends: true, ..Element::key(after.to_be_bytes().to_vec()) },
                    ));
                }
            }
        }
        elements
    }
}

impl Known {
    pub(super) fn elements(&self) -> Vec<(&'static str, Element)> {
        let bridges = self.bridges.iter().flat_map(Bridge::elements);
        bridges.chain(self.forwards.iter().map(Forward::element)).collect()
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
