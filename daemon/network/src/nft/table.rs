// SPDX-License-Identifier: Apache-2.0
//! Putting our table (`schema`) in force and keeping it so.
//!
//! The whole is replaced in one transaction (`replace`), which is how a restart, a sweep and the repair after somebody's
//! `nft flush ruleset` work: there is no moment without rules.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use berth_domain::Error;
use rustix::io::Errno;

use super::encode::{APPEND, Attrs, Batch, BatchError, CREATE, ECHO, Kind, dump};
use super::schema::{
    ADMIN, Base, Bridge, CHAINS, Element, Field, Forward, Known, SETS, Set, comment, define_set, rules,
};
use crate::netlink::{Attributes, NETLINK_NETFILTER, Netlink};

const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
/// Elements in one message: an attribute holds 64 KiB, an element less than 160 bytes.
const ELEMENTS: usize = 400;

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
        let mut batch = Batch::new(&mut self.netlink, NFPROTO_INET);
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

    /// Removes the table of the same name that earlier daemons had, in IPv4's family alone. Whether it is theirs is told by its chains.
    pub(crate) fn remove_predecessor(&mut self) -> Result<(), Error> {
        let (table, mut chains) = (self.table.clone(), BTreeSet::new());
        let listed = dump(
            &mut self.netlink,
            Kind::GetChain,
            NFPROTO_IPV4,
            |_| {},
            |object| {
                let attrs: BTreeMap<u16, &[u8]> = Attributes(object).collect();
                if let (true, Some(name)) = (attrs.get(&1).is_some_and(|t| text(t) == table), attrs.get(&3)) {
                    chains.insert(text(name).into_owned());
                }
            },
        );
        listed.map_err(|e| Error::internal("listing the firewall's earlier chains").because(e))?;
        if !CHAINS.iter().all(|(name, _)| chains.contains(*name)) {
            return Ok(());
        }
        tracing::warn!(%table, "removing the table of an earlier daemon (family ip); what was in its chain admin belongs into ours (family inet)");
        let mut batch = Batch::new(&mut self.netlink, NFPROTO_IPV4);
        batch.message(Kind::DelTable, 0, "removing the table of an earlier daemon", |a| {
            a.text(1, &table);
        });
        batch.commit().map_err(|e| explain(e, &table))
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
        let listed = dump(&mut self.netlink, Kind::GetRule, NFPROTO_INET, filter, |object| {
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
        let listed = dump(&mut self.netlink, Kind::GetSetElem, NFPROTO_INET, filter, |object| {
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

    /// Ends some published ports and puts others in force, in one transaction.
    pub(crate) fn republish(&mut self, ended: &[Forward], begun: &[Forward]) -> Result<(), Error> {
        let table = self.table.clone();
        let mut batch = Batch::new(&mut self.netlink, NFPROTO_INET);
        elements(&mut batch, &table, Kind::DelSetElem, 0, ended.iter().map(Forward::element));
        elements(&mut batch, &table, Kind::NewSetElem, CREATE, begun.iter().map(Forward::element));
        batch.commit().map_err(|e| explain(e, &table))
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
        let mut batch = Batch::new(&mut self.netlink, NFPROTO_INET);
        elements(&mut batch, &self.table, Kind::NewSetElem, CREATE, list);
        batch.commit()
    }

    fn remove(&mut self, list: impl IntoIterator<Item = (&'static str, Element)>) -> Result<(), BatchError> {
        let mut batch = Batch::new(&mut self.netlink, NFPROTO_INET);
        elements(&mut batch, &self.table, Kind::DelSetElem, 0, list);
        batch.commit()
    }

    fn present(&mut self) -> Result<Present, Error> {
        let refused = |what: &str, e: crate::netlink::Refused| {
            let hint = "bridge networks need nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)";
            Error::internal(format!("listing the firewall's {what}: {hint}")).because(e)
        };
        let mut present = Present::default();
        let table = self.table.as_str();
        let in_table = |attrs: &BTreeMap<u16, &[u8]>| attrs.get(&1).is_some_and(|t| text(t) == table);
        dump(
            &mut self.netlink,
            Kind::GetChain,
            NFPROTO_INET,
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
            NFPROTO_INET,
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
