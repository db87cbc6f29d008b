// SPDX-License-Identifier: Apache-2.0
//! Who is called how. A container hears of those on its own user-defined networks, and of nobody else.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use berth_domain::ContainerId;

use crate::books::Books;
use crate::dns::is_served;
use crate::{Driver, EndpointRecord, SandboxRecord, worker};

/// The container that asks.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) books: Arc<Mutex<Books>>,
    pub(crate) container: ContainerId,
}

impl Asker {
    /// Addresses behind a name; none if nobody within sight is called so.
    pub(crate) fn addresses(&self, name: &str) -> Vec<Ipv4Addr> {
        let books = worker::lock(&self.books);
        let mut found: Vec<Ipv4Addr> = Vec::new();
        for own in own_endpoints(&books, &self.container) {
            let linked = own.links.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name));
            let name = linked.map_or(name, |(_, name)| name.as_str());
            for (id, record, endpoint) in on_network(&books, &own.network_id) {
                if id.as_str() == name || is_called(id, record, endpoint, name) {
                    found.extend(endpoint.ipv4.filter(|ip| !found.contains(ip)));
                }
            }
            // The same name on two networks: the first network's.
            if !found.is_empty() {
                break;
            }
        }
        // Those who share a name take turns: which is first differs from one question to the next.
        let mut seed = [0u8; 1];
        if found.len() > 1 && getrandom::fill(&mut seed).is_ok() {
            let turn = usize::from(seed[0]) % found.len();
            found.rotate_left(turn);
        }
        found
    }

    /// The name behind an address.
    pub(crate) fn name(&self, ip: Ipv4Addr) -> Option<String> {
        let books = worker::lock(&self.books);
        own_endpoints(&books, &self.container)
            .flat_map(|own| on_network(&books, &own.network_id))
            .find(|(_, _, endpoint)| endpoint.ipv4 == Some(ip))
            .map(|(_, record, endpoint)| format!("{}.{}", record.name, endpoint.network_name))
    }

    /// Where to forward to: nowhere from within internal networks. An empty list means the host's servers.
    pub(crate) fn servers(&self) -> Option<Vec<IpAddr>> {
        let books = worker::lock(&self.books);
        let record = books.sandbox(&self.container)?;
        let outward = record.endpoints.iter().filter_map(|e| books.network(&e.network_id));
        let outward = outward.filter(|n| n.driver == Driver::Bridge && !n.internal).count();
        (outward > 0).then(|| record.dns_servers.clone())
    }
}

/// A container's endpoints on user-defined networks.
fn own_endpoints<'a>(
    books: &'a Books,
    container: &ContainerId,
) -> impl Iterator<Item = &'a EndpointRecord> + use<'a> {
    let endpoints = books.sandbox(container).map(|record| record.endpoints.as_slice()).unwrap_or_default();
    endpoints.iter().filter(|e| books.network(&e.network_id).is_some_and(|n| is_served(n)))
}

fn on_network<'a>(
    books: &'a Books,
    network: &'a str,
) -> impl Iterator<Item = (&'a ContainerId, &'a SandboxRecord, &'a EndpointRecord)> {
    books.sandboxes().filter_map(move |(id, record)| {
        let endpoint = record.endpoints.iter().find(|e| e.network_id == network)?;
        Some((id, record, endpoint))
    })
}

/// By its name, an alias, its short id or its host name; each also with the network's name behind it.
fn is_called(id: &ContainerId, record: &SandboxRecord, endpoint: &EndpointRecord, name: &str) -> bool {
    let own = [record.name.as_str(), id.short(), record.hostname.as_str()];
    let called = |name: &str| {
        own.into_iter()
            .chain(endpoint.aliases.iter().map(String::as_str))
            .any(|own| !own.is_empty() && own.eq_ignore_ascii_case(name))
    };
    let within = |name: &str| {
        let network = endpoint.network_name.as_str();
        let at = name.len().checked_sub(network.len() + 1)?;
        let (front, back) = (name.get(..at)?, name.get(at + 1..)?);
        (name.as_bytes()[at] == b'.' && back.eq_ignore_ascii_case(network)).then(|| front.to_owned())
    };
    called(name) || within(name).is_some_and(|front| called(&front))
}
