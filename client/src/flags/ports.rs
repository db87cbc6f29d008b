// SPDX-License-Identifier: Apache-2.0
//! `-p [ip:][host[-host]:]container[-container][/proto]` and `--expose`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_api::types::container_create::{Empty, PortBinding, PortMap};

use crate::fail::{Fail, Result};

/// Ports to expose and to publish.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) exposed: BTreeMap<String, Empty>,
    pub(crate) bindings: PortMap,
}

impl Ports {
    pub(crate) fn parse(publish: &[String], expose: &[String]) -> Result<Self> {
        let mut ports = Self::default();
        for spec in publish {
            for (port, binding) in published(spec)? {
                ports.exposed.insert(port.clone(), Empty {});
                ports.bindings.entry(port).or_default().get_or_insert_default().push(binding);
            }
        }
        for spec in expose {
            let bad =
                |why: &str| Fail::new(format!("invalid range format for --expose: {spec}, error: {why}"));
            if spec.contains(':') {
                return Err(Fail::new(format!("invalid port format for --expose: {spec}")));
            }
            let (range, protocol) = protocol(spec)?;
            let (first, last) = range_of(range).ok_or_else(|| bad("a port or a range of ports expected"))?;
            for port in first..=last {
                ports.exposed.insert(format!("{port}/{protocol}"), Empty {});
            }
        }
        Ok(ports)
    }
}

fn protocol(spec: &str) -> Result<(&str, String)> {
    let (rest, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        Ok((rest, protocol))
    } else {
        Err(Fail::new(format!("invalid proto: {protocol}")))
    }
}

fn range_of(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |s: &str| if s.starts_with('+') { None } else { s.parse::<u16>().ok() };
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

/// Host address, host ports and container ports of a specification, as text.
fn split(spec: &str) -> Result<(String, &str, &str)> {
    let (rest, container) = match spec.rsplit_once(':') {
        None => return Ok((String::new(), "", spec)),
        Some(parts) => parts,
    };
    // What is left is `ip:host`, `host`, or `[v6]:host`; a bare v6 address has colons of its own.
    let (ip, host) = match rest.rsplit_once(':') {
        None => ("", rest),
        Some((ip, host)) => (ip, host),
    };
    let ip = ip.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')).unwrap_or(ip);
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return Err(Fail::new(format!("invalid IP address: {ip}")));
    }
    Ok((ip.to_owned(), host, container))
}

fn published(spec: &str) -> Result<Vec<(String, PortBinding)>> {
    let (ip, host, container) = split(spec)?;
    let (container, protocol) = protocol(container)?;
    if container.is_empty() {
        return Err(Fail::new(format!("no port specified: {spec}<empty>")));
    }
    let (first, last) =
        range_of(container).ok_or_else(|| Fail::new(format!("invalid containerPort: {container}")))?;
    let bind = |port: u16, host_port: String| {
        (format!("{port}/{protocol}"), PortBinding { host_ip: ip.clone(), host_port })
    };
    if host.is_empty() {
        return Ok((first..=last).map(|port| bind(port, String::new())).collect());
    }
    let (host_first, host_last) =
        range_of(host).ok_or_else(|| Fail::new(format!("invalid hostPort: {host}")))?;
    if first == last && host_first != host_last {
        // The daemon picks a free one of the range.
        return Ok(vec![bind(first, host.to_owned())]);
    }
    if last - first != host_last - host_first {
        return Err(Fail::new(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        )));
    }
    Ok((first..=last).zip(host_first..=host_last).map(|(port, host)| bind(port, host.to_string())).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn check(spec: &str, expected: &[(&str, &str, &str)]) {
        let got: Vec<(String, String, String)> =
            published(spec).unwrap().into_iter().map(|(port, b)| (b.host_ip, b.host_port, port)).collect();
        let expected: Vec<(String, String, String)> =
            expected.iter().map(|(a, b, c)| ((*a).into(), (*b).into(), (*c).into())).collect();
        assert_eq!(got, expected, "{spec}");
    }

    #[test]
    fn specifications() {
        check("80", &[("", "", "80/tcp")]);
        check("8080:80", &[("", "8080", "80/tcp")]);
        check("53:53/UDP", &[("", "53", "53/udp")]);
        check("127.0.0.1:8080:80", &[("127.0.0.1", "8080", "80/tcp")]);
        check("127.0.0.1::80", &[("127.0.0.1", "", "80/tcp")]);
        check("[::1]:8080:80/sctp", &[("::1", "8080", "80/sctp")]);
        check("::1:8080:80", &[("::1", "8080", "80/tcp")]);
        check("8000-8001:80-81", &[("", "8000", "80/tcp"), ("", "8001", "81/tcp")]);
        check("8000-8010:80", &[("", "8000-8010", "80/tcp")]);
        check("80-81", &[("", "", "80/tcp"), ("", "", "81/tcp")]);
        for (bad, why) in [
            ("", "no port specified"),
            ("8080:", "no port specified"),
            ("x", "invalid containerPort: x"),
            ("70000", "invalid containerPort"),
            ("x:80", "invalid hostPort: x"),
            ("80/xyz", "invalid proto: xyz"),
            ("1-3:80-81", "invalid ranges specified"),
            ("2-1", "invalid containerPort"),
            ("nohost:1:2", "invalid IP address: nohost"),
        ] {
            let message = published(bad).unwrap_err().message;
            assert!(message.contains(why), "{bad}: {message}");
        }
    }

    #[test]
    fn all_together() {
        let ports =
            Ports::parse(&["1:80".into(), "2:80".into()], &["90-91".into(), "92/udp".into()]).unwrap();
        assert_eq!(ports.exposed.keys().collect::<Vec<_>>(), ["80/tcp", "90/tcp", "91/tcp", "92/udp"]);
        assert_eq!(ports.bindings["80/tcp"].as_ref().unwrap().len(), 2);
        assert!(Ports::parse(&[], &["1:2".into()]).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(spec in "[0-9a-f:./\\[\\]-]{0,20}") {
            if let Ok(all) = published(&spec) {
                prop_assert!(!all.is_empty());
            }
        }
    }
}
