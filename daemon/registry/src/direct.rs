// SPDX-License-Identifier: Apache-2.0
//! `NO_PROXY`: who is asked directly. The rules are those of Go's httpproxy, so that one environment means the same to
//! all engines: names with what is below them, `.name` for only what is below, addresses, networks, each with a port or
//! for all ports, and `*`. Loopback always is.

use std::net::IpAddr;

use crate::url::{Host, Scheme};

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Direct {
    all: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    who: Who,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Network(IpAddr, u8),
    /// The name itself if `whole`, and all that end in a dot and it.
    Domain {
        name: String,
        whole: bool,
    },
}

impl Direct {
    /// From a list separated by commas. What cannot be read matches nothing, as in Go.
    pub(crate) fn parse(list: &str) -> Self {
        let entries = list.split(',').map(|entry| entry.trim().to_ascii_lowercase());
        let mut direct = Self::default();
        for entry in entries.filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                return Self { all: true, rules: Vec::new() };
            }
            direct.rules.extend(rule(&entry));
        }
        direct
    }

    pub(crate) fn covers(&self, scheme: Scheme, host: &Host) -> bool {
        if self.all || host.is_loopback() {
            return true;
        }
        let port = host.port().unwrap_or_else(|| scheme.default_port());
        self.rules.iter().any(|rule| rule.port.is_none_or(|p| p == port) && rule.who.is(host))
    }
}

impl Who {
    fn is(&self, host: &Host) -> bool {
        match self {
            // Names are not looked up: what a name resolves to here need not be what the proxy would reach.
            Self::Network(network, prefix) => host.ip().is_some_and(|ip| within(ip, *network, *prefix)),
            Self::Domain { name, whole } => match host.name().strip_suffix(name) {
                Some("") => *whole,
                Some(before) => before.ends_with('.'),
                None => false,
            },
        }
    }
}

fn rule(entry: &str) -> Option<Rule> {
    if let Some((address, prefix)) = entry.split_once('/') {
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let fits = prefix <= if address.is_ipv4() { 32 } else { 128 };
        return fits.then_some(Rule { who: Who::Network(address, prefix), port: None });
    }
    let whole_address = |ip: IpAddr| Who::Network(ip, if ip.is_ipv4() { 32 } else { 128 });
    // An IPv6 address bare of brackets has colons of its own.
    if let Ok(ip) = entry.parse::<IpAddr>() {
        return Some(Rule { who: whole_address(ip), port: None });
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port.parse().ok()?)),
        _ => (entry, None),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Some(Rule { who: whole_address(ip), port });
    }
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    let (name, whole) = name.strip_prefix('.').map_or((name, true), |below| (below, false));
    (!name.is_empty()).then(|| Rule { who: Who::Domain { name: name.to_owned(), whole }, port })
}

/// Whether an address is in a network of its own family.
pub(crate) fn within(ip: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let same = |a: u128, b: u128| prefix == 0 || (a ^ b) >> (128 - u32::from(prefix)) == 0;
    match (network, ip.to_canonical()) {
        (IpAddr::V4(n), IpAddr::V4(ip)) => {
            same(u128::from(n.to_bits()) << 96, u128::from(ip.to_bits()) << 96)
        }
        (IpAddr::V6(n), IpAddr::V6(ip)) => same(n.to_bits(), ip.to_bits()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn names_addresses_networks_and_ports() {
        let list = "reg.lan, .below.lan,*.star.lan,ported.lan:5000,10.1.0.0/16,192.0.2.7:81,[2001:db8::1]:443,fd00::/8,::2";
        let direct = Direct::parse(list);
        for (host, expected) in [
            ("reg.lan", true),
            ("reg.lan:5000", true),
            ("a.reg.lan", true),
            ("areg.lan", false),
            ("below.lan", false),
            ("x.below.lan:1", true),
            ("star.lan", false),
            ("x.star.lan", true),
            ("ported.lan:5000", true),
            ("x.ported.lan:5000", true),
            ("ported.lan", false),
            ("10.1.255.1:5000", true),
            ("10.2.0.1", false),
            ("192.0.2.7:81", true),
            ("192.0.2.7", false),
            ("[2001:db8::1]", true),
            ("[2001:db8::1]:444", false),
            ("[fd12::1]:9", true),
            ("[::2]", true),
            ("localhost:5000", true),
            ("127.0.0.9", true),
            ("other.lan", false),
        ] {
            assert_eq!(direct.covers(Scheme::Https, &Host::parse(host).unwrap()), expected, "{host}");
        }
    }

    #[test]
    fn everybody_nobody_and_nonsense() {
        let host = Host::parse("r.example").unwrap();
        assert!(Direct::parse("x, *").covers(Scheme::Http, &host));
        for nobody in ["", ",", ".", "r.example:x", "10.0.0.0/99", ":80", "/"] {
            assert!(!Direct::parse(nobody).covers(Scheme::Http, &host), "{nobody:?}");
        }
        // The scheme's own port.
        assert!(Direct::parse("r.example:80").covers(Scheme::Http, &host));
        assert!(!Direct::parse("r.example:80").covers(Scheme::Https, &host));
    }
}
