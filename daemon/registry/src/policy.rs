// SPDX-License-Identifier: Apache-2.0
//! Which registries may be spoken to without a good certificate, or without TLS at all.
//!
//! As the reference: loopback always, and what the administrator lists. A listed network covers
//! literal addresses, and names all of whose addresses are in it, but never docker.io: a forged DNS
//! answer must not strip the one registry that everyone uses of its TLS.

use std::net::IpAddr;

use berth_domain::{Error, Result};

use crate::direct::within;
use crate::url::Host;

#[derive(Debug, Default)]
pub(crate) struct Policy {
    loopback: bool,
    hosts: Vec<Host>,
    networks: Vec<(IpAddr, u8)>,
}

impl Policy {
    /// From `insecure-registries`; `loopback` adds loopback to them.
    pub(crate) fn new(entries: &[String], loopback: bool) -> Result<Self> {
        let mut policy = Self { loopback, ..Self::default() };
        for entry in entries {
            let bare = entry
                .trim()
                .trim_start_matches("https://")
                .trim_start_matches("http://")
                .trim_end_matches('/');
            if let Some(network) = network(bare) {
                policy.networks.push(network);
            } else if let Some(host) = Host::parse(bare) {
                policy.hosts.push(host);
            } else {
                return Err(Error::invalid(format!(
                    "insecure registry {entry:?} is neither a host, a host:port nor a network (a.b.c.d/n)"
                )));
            }
        }
        Ok(policy)
    }

    /// Whether the host is insecure by its name or literal address alone.
    pub(crate) fn is_insecure(&self, host: &Host) -> bool {
        (self.loopback && host.is_loopback())
            || self.hosts.iter().any(|listed| {
                listed.name() == host.name()
                    && (listed.port() == host.port()
                        || (listed.port().is_none() && matches!(host.port(), Some(80 | 443))))
            })
            || host.ip().is_some_and(|ip| self.covers(ip))
    }

    /// As [`Policy::is_insecure`], and for names also by what they resolve to.
    pub(crate) async fn is_insecure_resolved(&self, host: &Host) -> bool {
        if self.is_insecure(host) {
            return true;
        }
        if self.networks.is_empty() || host.ip().is_some() || host.name().ends_with("docker.io") {
            return false;
        }
        match tokio::net::lookup_host((host.name(), host.port().unwrap_or(443))).await {
            Ok(addresses) => {
                let mut any = false;
                for address in addresses {
                    any = true;
                    if !self.covers(address.ip()) {
                        return false;
                    }
                }
                any
            }
            // The request itself will meet the same error and report it.
            Err(_) => false,
        }
    }

    fn covers(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|(network, prefix)| within(ip, *network, *prefix))
    }
}

fn network(s: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = s.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn listed_hosts_and_networks() {
        let entries = ["reg.lan", "other.lan:5000", "10.1.0.0/16", "fd00::/8", "http://urlish.lan:80/"]
            .map(str::to_owned);
        let policy = Policy::new(&entries, true).unwrap();
        for (host, expected) in [
            ("reg.lan", true),
            ("reg.lan:443", true),
            ("reg.lan:5000", false),
            ("other.lan:5000", true),
            ("other.lan", false),
            ("10.1.2.3:5000", true),
            ("10.2.0.1", false),
            ("[fd12::1]:5000", true),
            ("[fe80::1]", false),
            ("urlish.lan:80", true),
            ("localhost:1", true),
            ("docker.io", false),
        ] {
            assert_eq!(policy.is_insecure(&Host::parse(host).unwrap()), expected, "{host}");
        }
    }

    #[test]
    fn bad_entries_are_named() {
        for bad in ["", "a b", "10.0.0.0/33", "user@host"] {
            let error = Policy::new(&[bad.to_owned()], true).expect_err(bad);
            assert!(error.chain().contains(&format!("{bad:?}")), "{}", error.chain());
        }
    }

    #[tokio::test]
    async fn everything_listed_still_leaves_docker_io_its_tls() {
        let policy = Policy::new(&["0.0.0.0/0".to_owned(), "::/0".to_owned()], true).unwrap();
        assert!(policy.is_insecure_resolved(&Host::parse("localhost:5000").unwrap()).await);
        assert!(!policy.is_insecure_resolved(&Host::parse("registry-1.docker.io").unwrap()).await);
    }
}
