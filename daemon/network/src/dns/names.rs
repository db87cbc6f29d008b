// SPDX-License-Identifier: Apache-2.0
//! Who is called how. A container hears of those on its own user-defined networks, and of nobody else.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use berth_domain::ContainerId;

use crate::books::Books;
use crate::dns::is_served;
use crate::worker;

/// Everybody's names on one network, as of one moment: made anew when something changed and somebody asks, so that a question costs
/// the same however many containers there are.
#[derive(Debug, Default)]
pub(crate) struct NameTable {
    /// In lower case, to places in `addresses`.
    names: HashMap<String, Vec<usize>>,
    addresses: Vec<(Option<Ipv4Addr>, Option<Ipv6Addr>)>,
    /// By full id: links name others so.
    ids: HashMap<String, usize>,
    /// Names by address.
    reverse: HashMap<IpAddr, String>,
    /// `.<network>`, which may stand behind each of the names.
    suffix: String,
}

impl NameTable {
    /// A container is called by its name, its aliases, its short id and its host name.
    pub(crate) fn of(books: &Books, network: &str) -> Self {
        let mut table = Self::default();
        let Some(record) = books.network(network) else { return table };
        table.suffix = format!(".{}", record.name.to_ascii_lowercase());
        for (id, sandbox) in books.sandboxes() {
            let Some(endpoint) = sandbox.endpoints.iter().find(|e| e.network_id == network) else { continue };
            let place = table.addresses.len();
            table.addresses.push((endpoint.ipv4, endpoint.ipv6));
            table.ids.insert(id.as_str().to_owned(), place);
            for net in endpoint.addresses() {
                table.reverse.insert(net.addr(), format!("{}.{}", sandbox.name, record.name));
            }
            let own = [sandbox.name.as_str(), id.short(), sandbox.hostname.as_str()];
            let names = own.into_iter().chain(endpoint.aliases.iter().map(String::as_str));
            for name in names.filter(|name| !name.is_empty()) {
                let places = table.names.entry(name.to_ascii_lowercase()).or_default();
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        table
    }

    fn find(&self, name: &str) -> &[usize] {
        let places = self.names.get(name).or_else(|| self.names.get(name.strip_suffix(&self.suffix)?));
        match (places, self.ids.get(name)) {
            (Some(places), _) => places,
            (None, Some(place)) => std::slice::from_ref(place),
            (None, None) => &[],
        }
    }
}

/// The addresses behind a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Vec<Ipv4Addr>,
    pub(crate) v6: Vec<Ipv6Addr>,
}

/// The container that asks.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) books: Arc<Mutex<Books>>,
    pub(crate) container: ContainerId,
}

/// Where questions about others go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Servers {
    /// The host's own, asked by the host.
    Hosts,
    /// These, asked from within the container's network namespace.
    Asked(Vec<IpAddr>),
}

impl Asker {
    /// Addresses behind a name; `None` if nobody within sight is called so.
    pub(crate) fn addresses(&self, name: &str) -> Option<Addresses> {
        let name = name.to_ascii_lowercase();
        let mut books = worker::lock(&self.books);
        let found = self.networks(&books).into_iter().find_map(|(network, links)| {
            let linked = links.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(&name));
            let meant = linked.map_or_else(|| name.clone(), |(_, target)| target.to_ascii_lowercase());
            let table = books.names(&network);
            let places = table.find(&meant);
            // The same name on two networks: the first network's.
            (!places.is_empty()).then(|| {
                let addresses = places.iter().filter_map(|place| table.addresses.get(*place));
                let (v4, v6): (Vec<_>, Vec<_>) = addresses.copied().unzip();
                Addresses { v4: v4.into_iter().flatten().collect(), v6: v6.into_iter().flatten().collect() }
            })
        });
        drop(books);
        found.map(|mut found| {
            take_turns(&mut found.v4);
            take_turns(&mut found.v6);
            found
        })
    }

    /// The name behind an address.
    pub(crate) fn name(&self, ip: IpAddr) -> Option<String> {
        let mut books = worker::lock(&self.books);
        let networks = self.networks(&books);
        networks.into_iter().find_map(|(network, _)| books.names(&network).reverse.get(&ip).cloned())
    }

    /// Where to forward to: nowhere from within internal networks.
    pub(crate) fn servers(&self) -> Option<Servers> {
        let books = worker::lock(&self.books);
        let record = books.sandbox(&self.container)?;
        let mut networks = record.endpoints.iter().filter_map(|e| books.network(&e.network_id));
        let outward = networks.any(|n| n.driver.has_links() && !n.internal);
        let servers = &record.dns_servers;
        outward.then(|| if servers.is_empty() { Servers::Hosts } else { Servers::Asked(servers.clone()) })
    }

    /// The user-defined networks that the asker is on, with the names that it alone has for others there.
    fn networks(&self, books: &Books) -> Vec<(String, Vec<(String, String)>)> {
        let endpoints = books.sandbox(&self.container).map(|r| r.endpoints.as_slice()).unwrap_or_default();
        let served = |network: &str| books.network(network).is_some_and(|n| is_served(n));
        let own = endpoints.iter().filter(|e| served(&e.network_id));
        own.map(|e| (e.network_id.clone(), e.links.clone())).collect()
    }
}

/// Those who share a name take turns: which is first differs from one question to the next.
fn take_turns<T>(found: &mut [T]) {
    let mut seed = [0u8; 1];
    if found.len() > 1 && getrandom::fill(&mut seed).is_ok() {
        let turn = usize::from(seed[0]) % found.len();
        found.rotate_left(turn);
    }
}
