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
//!
//! The whole is replaced in one transaction (`replace`), which is how a restart, a sweep and the repair after somebody's
//! `nft flush ruleset` work: there is no moment without rules.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use berth_domain::Error;
use ipnet::Ipv4Net;
use rustix::io::Errno;

use super::encode::{APPEND, Attrs, Batch, BatchError, CREATE, ECHO, Kind, dump};
use super::expr::{
    Expr, Header, Meta, Reg, from_loopback, ifname, in_name, is_reply, out_name, to_loopback, to_this_host,
    was_dnat,
};
use crate::Protocol;
use crate::netlink::{Attributes, NETLINK_NETFILTER, Netlink};

const NFPROTO_IPV4: u8 = 2;
/// Elements in one message: an attribute holds 64 KiB, an element less than 160 bytes.
const ELEMENTS: usize = 400;

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
enum Field {
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
    fn of_all(fields: &[Self]) -> (u32, u32) {
        match fields {
            [one] => one.of(),
            many => many.iter().fold((0, 0), |(kind, len), field| {
                let (k, l) = field.of();
                (kind << 6 | k, len + l.next_multiple_of(4))
            }),
        }
    }
}

struct Set {
    name: &'static str,
    key: &'static [Field],
    value: &'static [Field],
    interval: bool,
}

impl Set {
    /// `NFT_SET_INTERVAL`, `_MAP`, `_CONCAT`.
    fn flags(&self) -> u32 {
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

const SETS: [Set; 7] = [
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
type Base = (&'static str, u32, i32);

const ADMIN: &str = "admin";
const CHAINS: [(&str, Option<Base>); 8] = [
    (ADMIN, None),
    ("publish", None),
    ("into_bridge", None),
    ("raw_prerouting", Some(("filter", 0, -300))),
    ("prerouting", Some(("nat", 0, -100))),
    ("output", Some(("nat", 3, -100))),
    ("postrouting", Some(("nat", 4, 100))),
    ("forward", Some(("filter", 2, 0))),
];

struct Rule {
    chain: &'static str,
    comment: &'static str,
    /// What the kernel needs for it, for when it has not.
    needs: &'static str,
    body: Vec<Expr>,
}

fn rules() -> Vec<Rule> {
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
struct Element {
    key: Vec<u8>,
    /// Last key of an interval in a set of several fields.
    key_end: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    /// This key ends an interval in a set of one field.
    ends: bool,
    comment: String,
}

impl Element {
    fn key(key: Vec<u8>) -> Self {
        Self { key, key_end: None, value: None, ends: false, comment: String::new() }
    }

    fn emit(&self, list: &mut Attrs<'_>) {
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
fn comment(text: &str) -> Vec<u8> {
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
    fn element(&self) -> (&'static str, Element) {
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
    fn elements(&self) -> Vec<(&'static str, Element)> {
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

/// Definition of what is there, to compare with ours.
#[derive(Debug, Default)]
struct Present {
    chains: BTreeMap<String, Option<(String, u32, i32)>>,
    /// Key type, key length, value length, flags.
    sets: BTreeMap<String, (u32, u32, u32, u32)>,
}

impl Present {
    fn has(&self, set: &Set) -> bool {
        let (kind, len) = Field::of_all(set.key);
        let value = if set.value.is_empty() { 0 } else { Field::of_all(set.value).1 };
        self.sets.get(set.name) == Some(&(kind, len, value, set.flags()))
    }

    /// Whether all of ours is there and none of it is of another making.
    fn is_ours(&self) -> bool {
        SETS.iter().all(|set| self.has(set))
            && CHAINS.iter().all(|(name, base)| {
                self.chains.get(*name).is_some_and(|there| same_base(there.as_ref(), base.as_ref()))
            })
    }
}

fn same_base(there: Option<&(String, u32, i32)>, ours: Option<&Base>) -> bool {
    match (there, ours) {
        (None, None) => true,
        (Some((kind, hook, priority)), Some((k, h, p))) => kind == k && hook == h && priority == p,
        _ => false,
    }
}

/// The door to the table.
#[derive(Debug)]
pub(crate) struct Firewall {
    netlink: Netlink,
    table: String,
    /// Our rules' handles as they were when we put them there: a rule that somebody changes or puts back has another.
    handles: Handles,
}

/// The handles of our rules, in their order, by chain.
type Handles = BTreeMap<String, Vec<u64>>;

impl Firewall {
    /// In the calling thread's network namespace.
    pub(crate) fn open(table: &str) -> Result<Self, Error> {
        let netlink = Netlink::open(NETLINK_NETFILTER).map_err(|e| {
            let hint = "opening a netfilter socket: bridge networks need nftables (CONFIG_NETFILTER_NETLINK, CONFIG_NF_TABLES)";
            Error::internal(hint).because(e)
        })?;
        Ok(Self { netlink, table: table.to_owned(), handles: Handles::new() })
    }

    /// Makes the table if it is not there, and sees that these bridges are in it. Published ports of an earlier daemon stay in force.
    pub(crate) fn ensure(&mut self, known: &Known) -> Result<(), Error> {
        if self.present()?.is_ours() {
            match self.add(known.elements()) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the firewall table does not take our networks; replacing it");
                }
            }
        }
        self.replace(known)
    }

    /// Replaces everything but the administrator's chain, in one transaction.
    pub(crate) fn replace(&mut self, known: &Known) -> Result<(), Error> {
        let present = self.present()?;
        let table = self.table.clone();
        let t = table.as_str();
        let mut batch = Batch::new(&mut self.netlink, NFPROTO_IPV4);
        batch.message(Kind::NewTable, CREATE, "the table", |a| {
            a.text(1, t);
        });
        for (name, base) in CHAINS {
            match present.chains.get(name) {
                _ if name == ADMIN => {}
                None => {}
                Some(there) => {
                    batch.message(Kind::DelRule, 0, format!("emptying chain {name}"), |a| {
                        a.text(1, t).text(2, name);
                    });
                    if !same_base(there.as_ref(), base.as_ref()) {
                        batch.message(Kind::DelChain, 0, format!("removing the old chain {name}"), |a| {
                            a.text(1, t).text(3, name);
                        });
                    }
                }
            }
        }
        for set in &SETS {
            let name = set.name;
            if present.has(set) {
                batch.message(Kind::DelSetElem, 0, format!("emptying set {name}"), |a| {
                    a.text(1, t).text(2, name);
                });
                continue;
            }
            if present.sets.contains_key(name) {
                batch.message(Kind::DelSet, 0, format!("removing the old set {name}"), |a| {
                    a.text(1, t).text(2, name);
                });
            }
            batch.message(Kind::NewSet, CREATE, format!("set {name}"), |a| define_set(a, t, set));
        }
        for (name, base) in CHAINS {
            batch.message(Kind::NewChain, CREATE, format!("chain {name}"), |a| {
                a.text(1, t).text(3, name);
                if let Some((kind, hook, priority)) = base {
                    a.nest(4, |h| {
                        h.number(1, hook).bytes(2, &priority.to_be_bytes());
                    });
                    // NF_ACCEPT
                    a.number(5, 1).text(7, kind);
                }
            });
        }
        for rule in rules() {
            let about = format!("a rule of chain {}, which needs {}", rule.chain, rule.needs);
            batch.message(Kind::NewRule, CREATE | APPEND | ECHO, about, |a| {
                a.text(1, t).text(2, rule.chain).nest(4, |list| {
                    for expr in &rule.body {
                        expr.emit(list);
                    }
                });
                if !rule.comment.is_empty() {
                    a.bytes(7, &comment(rule.comment));
                }
            });
        }
        elements(&mut batch, t, Kind::NewSetElem, CREATE, known.elements());
        let mut handles = Handles::new();
        let committed = batch.commit_echoed(|kind, object| {
            if kind == Kind::NewRule.number() {
                note_handle(&mut handles, &table, object);
            }
        });
        committed.map_err(|e| explain(e, &table))?;
        self.handles = handles;
        Ok(())
    }

    /// Our socket's number, by which the kernel tells others of our changes.
    pub(crate) fn port(&self) -> u32 {
        self.netlink.port()
    }

    /// Whether the table is as we left it: our rules and no others, and exactly the elements that follow from `known`.
    pub(crate) fn is_intact(&mut self, known: &Known) -> Result<bool, Error> {
        if !self.present()?.is_ours() || self.present_handles()? != self.handles {
            return Ok(false);
        }
        let mut expected: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
        for (set, element) in known.elements() {
            expected.entry(set).or_default().push([element.key, element.value.unwrap_or_default()].concat());
        }
        for set in &SETS {
            let mut expected = expected.remove(set.name).unwrap_or_default();
            let mut there = self.present_elements(set.name)?;
            expected.sort();
            there.sort();
            if expected != there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Handles of the rules that are in our chains but the administrator's.
    fn present_handles(&mut self) -> Result<Handles, Error> {
        let mut handles = Handles::new();
        let table = self.table.clone();
        let filter = |a: &mut Attrs<'_>| {
            a.text(1, &table);
        };
        let listed = dump(&mut self.netlink, Kind::GetRule, NFPROTO_IPV4, filter, |object| {
            note_handle(&mut handles, &table, object);
        });
        listed.map_err(|e| Error::internal("listing the firewall's rules").because(e))?;
        Ok(handles)
    }

    /// Key, and value of a map, of each element.
    fn present_elements(&mut self, set: &str) -> Result<Vec<Vec<u8>>, Error> {
        let mut present = Vec::new();
        let table = self.table.clone();
        let filter = |a: &mut Attrs<'_>| {
            a.text(1, &table).text(2, set);
        };
        let listed = dump(&mut self.netlink, Kind::GetSetElem, NFPROTO_IPV4, filter, |object| {
            let list =
                Attributes(object).filter(|(kind, _)| *kind == 3).flat_map(|(_, list)| Attributes(list));
            for (_, element) in list {
                let part = |wanted: u16| {
                    let (_, data) = Attributes(element).find(|(kind, _)| *kind == wanted)?;
                    Attributes(data).find(|(kind, _)| *kind == 1).map(|(_, value)| value.to_vec())
                };
                let key = part(1).unwrap_or_default();
                present.push([key, part(2).unwrap_or_default()].concat());
            }
        });
        match listed {
            Ok(()) => Ok(present),
            // Gone between two questions.
            Err(e) if e.is(Errno::NOENT) => Ok(Vec::new()),
            Err(e) => Err(Error::internal(format!("listing the firewall's set {set}")).because(e)),
        }
    }

    /// Puts published ports in force.
    pub(crate) fn publish(&mut self, forwards: &[Forward]) -> Result<(), Error> {
        let table = self.table.clone();
        self.add(forwards.iter().map(Forward::element)).map_err(|e| explain(e, &table))
    }

    /// Ends published ports.
    pub(crate) fn unpublish(&mut self, forwards: &[Forward]) -> Result<(), Error> {
        let table = self.table.clone();
        self.remove(forwards.iter().map(Forward::element)).map_err(|e| explain(e, &table))
    }

    /// Lets a new bridge take part.
    pub(crate) fn add_bridge(&mut self, bridge: &Bridge) -> Result<(), Error> {
        let table = self.table.clone();
        self.add(bridge.elements()).map_err(|e| explain(e, &table))
    }

    /// The bridge is about to go.
    pub(crate) fn remove_bridge(&mut self, bridge: &Bridge) -> Result<(), Error> {
        let table = self.table.clone();
        self.remove(bridge.elements()).map_err(|e| explain(e, &table))
    }

    fn add(&mut self, list: impl IntoIterator<Item = (&'static str, Element)>) -> Result<(), BatchError> {
        let mut batch = Batch::new(&mut self.netlink, NFPROTO_IPV4);
        elements(&mut batch, &self.table, Kind::NewSetElem, CREATE, list);
        batch.commit()
    }

    fn remove(&mut self, list: impl IntoIterator<Item = (&'static str, Element)>) -> Result<(), BatchError> {
        let mut batch = Batch::new(&mut self.netlink, NFPROTO_IPV4);
        elements(&mut batch, &self.table, Kind::DelSetElem, 0, list);
        batch.commit()
    }

    fn present(&mut self) -> Result<Present, Error> {
        let refused = |what: &str, e: crate::netlink::Refused| {
            let hint = "bridge networks need nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)";
            Error::internal(format!("listing the firewall's {what}: {hint}")).because(e)
        };
        let mut present = Present::default();
        let table = self.table.as_str();
        let in_table = |attrs: &BTreeMap<u16, &[u8]>| attrs.get(&1).is_some_and(|t| text(t) == table);
        dump(
            &mut self.netlink,
            Kind::GetChain,
            NFPROTO_IPV4,
            |_| {},
            |object| {
                let attrs: BTreeMap<u16, &[u8]> = Attributes(object).collect();
                if !in_table(&attrs) {
                    return;
                }
                let base = attrs.get(&4).map(|hook| {
                    let hook: BTreeMap<u16, &[u8]> = Attributes(hook).collect();
                    let kind = attrs.get(&7).map(|k| text(k).into_owned()).unwrap_or_default();
                    let priority =
                        hook.get(&2).and_then(|p| p.first_chunk::<4>()).map_or(0, |p| i32::from_be_bytes(*p));
                    (kind, number(hook.get(&1)), priority)
                });
                if let Some(name) = attrs.get(&3) {
                    present.chains.insert(text(name).into_owned(), base);
                }
            },
        )
        .map_err(|e| refused("chains", e))?;
        dump(
            &mut self.netlink,
            Kind::GetSet,
            NFPROTO_IPV4,
            |_| {},
            |object| {
                let attrs: BTreeMap<u16, &[u8]> = Attributes(object).collect();
                if let (true, Some(name)) = (in_table(&attrs), attrs.get(&2)) {
                    let of = |kind: u16| number(attrs.get(&kind));
                    present.sets.insert(text(name).into_owned(), (of(4), of(5), of(7), of(3)));
                }
            },
        )
        .map_err(|e| refused("sets", e))?;
        Ok(present)
    }
}

impl Known {
    fn elements(&self) -> Vec<(&'static str, Element)> {
        let bridges = self.bridges.iter().flat_map(Bridge::elements);
        bridges.chain(self.forwards.iter().map(Forward::element)).collect()
    }
}

/// Notes a rule, given as its attributes, if it is ours to look after.
fn note_handle(handles: &mut Handles, table: &str, rule: &[u8]) {
    let attrs: BTreeMap<u16, &[u8]> = Attributes(rule).collect();
    let chain = attrs.get(&2).map(|c| text(c)).unwrap_or_default();
    let ours = chain != ADMIN && CHAINS.iter().any(|(name, _)| *name == chain);
    if ours && attrs.get(&1).is_some_and(|t| text(t) == table) {
        let handle = attrs.get(&3).and_then(|h| h.first_chunk::<8>()).map_or(0, |h| u64::from_be_bytes(*h));
        handles.entry(chain.into_owned()).or_default().push(handle);
    }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes))
}

fn number(bytes: Option<&&[u8]>) -> u32 {
    bytes.and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_be_bytes(*b))
}

fn define_set(a: &mut Attrs<'_>, table: &str, set: &Set) {
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

fn elements(
    batch: &mut Batch<'_>,
    table: &str,
    kind: Kind,
    flags: u16,
    list: impl IntoIterator<Item = (&'static str, Element)>,
) {
    let mut by_set: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for (set, element) in list {
        by_set.entry(set).or_default().push(element);
    }
    for (set, elements) in by_set {
        for chunk in elements.chunks(ELEMENTS) {
            batch.message(kind, flags, format!("elements of set {set}"), |a| {
                a.text(1, table).text(2, set).nest(3, |list| {
                    for element in chunk {
                        element.emit(list);
                    }
                });
            });
        }
    }
}

fn chain(error: &BatchError) -> String {
    format!("{error}: {}", error.refused)
}

/// The error for people: which message, and what is missing where that can be said.
fn explain(error: BatchError, table: &str) -> Error {
    let missing = [Errno::NOENT, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT];
    let hint = if missing.iter().any(|e| error.refused.is(*e)) {
        "; is that part of nftables in this kernel?"
    } else {
        ""
    };
    Error::internal(format!("firewall table {table}: the kernel refused {}{hint}", error.about))
        .because(error.refused)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
