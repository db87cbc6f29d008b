// SPDX-License-Identifier: Apache-2.0
//! `--network` in both forms, and the flags that concern the first network.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_api::types::container_create::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};

use super::csv;
use crate::fail::{Fail, Result};

/// The flags of the first network.
pub(crate) struct First<'a> {
    pub(crate) aliases: &'a [String],
    pub(crate) ip: Option<&'a str>,
    pub(crate) ip6: Option<&'a str>,
    pub(crate) link_local: &'a [String],
    pub(crate) mac: Option<&'a str>,
}

/// The network mode, and the endpoints that have something particular about them.
pub(crate) fn networks(flags: &[String], first: &First<'_>) -> Result<(String, NetworkingConfig)> {
    let mut endpoints = BTreeMap::new();
    let default = [String::from("default")];
    let flags = if flags.is_empty() { &default[..] } else { flags };
    let mut mode = String::new();
    let mut kinds = [false, false];
    for (index, flag) in flags.iter().enumerate() {
        let (name, mut endpoint) = network(flag)?;
        if index == 0 {
            mode.clone_from(&name);
            apply(&mut endpoint, first)?;
        }
        let builtin =
            matches!(name.as_str(), "default" | "bridge" | "host" | "none") || name.starts_with("container:");
        kinds[usize::from(builtin)] = true;
        let plain = endpoint == EndpointSettings::default();
        if endpoints.insert(name.clone(), Some(endpoint)).is_some() {
            return Err(Fail::new(format!("network {name:?} is specified multiple times")));
        }
        if plain && flags.len() == 1 {
            // The daemon makes the same of it, and older ones refuse endpoints for host and none.
            endpoints.clear();
        }
    }
    if kinds == [true, true] {
        return Err(Fail::new(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    Ok((mode, NetworkingConfig { endpoints_config: endpoints }))
}

fn ipam(endpoint: &mut EndpointSettings) -> &mut EndpointIpamConfig {
    endpoint.ipam_config.get_or_insert_default()
}

fn v4(text: &str) -> Result<String> {
    text.parse::<Ipv4Addr>()
        .map(|ip| ip.to_string())
        .map_err(|_| Fail::new(format!("invalid IPv4 address: {text}")))
}

fn v6(text: &str) -> Result<String> {
    text.parse::<Ipv6Addr>()
        .map(|ip| ip.to_string())
        .map_err(|_| Fail::new(format!("invalid IPv6 address: {text}")))
}

fn apply(endpoint: &mut EndpointSettings, first: &First<'_>) -> Result<()> {
    let twice = |flag: &str| {
        Fail::new(format!("conflicting options: cannot specify both --{flag} and per-network {flag}"))
    };
    if !first.aliases.is_empty() {
        if endpoint.aliases.is_some() {
            return Err(twice("network-alias"));
        }
        endpoint.aliases = Some(first.aliases.to_vec());
    }
    if let Some(ip) = first.ip {
        if !ipam(endpoint).ipv4_address.is_empty() {
            return Err(twice("ip"));
        }
        ipam(endpoint).ipv4_address = v4(ip)?;
    }
    if let Some(ip) = first.ip6 {
        if !ipam(endpoint).ipv6_address.is_empty() {
            return Err(twice("ip6"));
        }
        ipam(endpoint).ipv6_address = v6(ip)?;
    }
    for ip in first.link_local {
        let ip: IpAddr = ip.parse().map_err(|_| Fail::new(format!("invalid link-local address: {ip}")))?;
        ipam(endpoint).link_local_ips.push(ip.to_string());
    }
    if let Some(mac) = first.mac {
        if !endpoint.mac_address.is_empty() && endpoint.mac_address != mac {
            return Err(twice("mac-address"));
        }
        endpoint.mac_address = checked_mac(mac)?;
    }
    Ok(())
}

/// Six pairs of hexadecimal digits.
pub(crate) fn checked_mac(mac: &str) -> Result<String> {
    let parts: Vec<&str> = mac.split([':', '-']).collect();
    let fine =
        parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
    if fine { Ok(mac.to_owned()) } else { Err(Fail::new(format!("{mac} is not a valid mac address"))) }
}

/// `name`, or `name=...,alias=...,ip=...,...`.
fn network(flag: &str) -> Result<(String, EndpointSettings)> {
    let mut endpoint = EndpointSettings::default();
    if !flag.contains('=') {
        return Ok((flag.to_owned(), endpoint));
    }
    let mut name = None;
    for field in csv(flag)? {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| Fail::new(format!("invalid field {field} in --network: key=value expected")))?;
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => name = Some(value.to_owned()),
            "alias" => endpoint.aliases.get_or_insert_default().push(value.to_owned()),
            "ip" => ipam(&mut endpoint).ipv4_address = v4(value)?,
            "ip6" => ipam(&mut endpoint).ipv6_address = v6(value)?,
            "link-local-ip" => ipam(&mut endpoint).link_local_ips.push(value.to_owned()),
            "mac-address" => endpoint.mac_address = checked_mac(value)?,
            "driver-opt" => {
                let (key, value) = value
                    .split_once('=')
                    .ok_or_else(|| Fail::new("invalid key value pair format in driver options"))?;
                endpoint.driver_opts.get_or_insert_default().insert(key.to_owned(), value.to_owned());
            }
            "gw-priority" => {
                endpoint.gw_priority =
                    value.parse().map_err(|_| Fail::new(format!("invalid gw-priority: {value}")))?;
            }
            _ => return Err(Fail::new(format!("invalid field key {key} in --network"))),
        }
    }
    Ok((name.ok_or_else(|| Fail::new("network name is not provided: name=<network> is missing"))?, endpoint))
}

/// `--add-host name:ip` or `name=ip`, in the API's form.
pub(crate) fn extra_host(flag: &str) -> Result<String> {
    let bad = || Fail::new(format!("bad format for add-host: {flag:?}"));
    let (name, ip) = flag.split_once('=').or_else(|| flag.split_once(':')).ok_or_else(bad)?;
    if name.is_empty() || ip.is_empty() {
        return Err(bad());
    }
    let bare = ip.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')).unwrap_or(ip);
    if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(Fail::new(format!("invalid IP address in add-host: {ip:?}")));
    }
    Ok(format!("{name}:{bare}"))
}

/// `--dns`.
pub(crate) fn dns(flag: &str) -> Result<String> {
    flag.trim()
        .parse::<IpAddr>()
        .map(|ip| ip.to_string())
        .map_err(|_| Fail::new(format!("IP address is not correctly formatted: {flag}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOTHING: First<'_> = First { aliases: &[], ip: None, ip6: None, link_local: &[], mac: None };

    fn parse(flags: &[&str], first: &First<'_>) -> Result<(String, NetworkingConfig)> {
        networks(&flags.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>(), first)
    }

    #[test]
    fn modes_and_endpoints() {
        assert_eq!(parse(&[], &NOTHING).unwrap(), ("default".into(), NetworkingConfig::default()));
        assert_eq!(parse(&["host"], &NOTHING).unwrap().1, NetworkingConfig::default());
        let aliases = ["a".to_owned()];
        let first = First { aliases: &aliases, ip: Some("10.0.0.2"), ..NOTHING };
        let (mode, config) = parse(&["net"], &first).unwrap();
        let endpoint = config.endpoints_config["net"].as_ref().unwrap();
        assert_eq!(mode, "net");
        assert_eq!(endpoint.aliases.as_deref(), Some(&aliases[..]));
        assert_eq!(endpoint.ipam_config.as_ref().unwrap().ipv4_address, "10.0.0.2");
        let (mode, config) =
            parse(&["name=x,alias=p,alias=q,ip6=fd00::1,driver-opt=k=v", "y"], &NOTHING).unwrap();
        assert_eq!(mode, "x");
        assert_eq!(config.endpoints_config.len(), 2);
        assert_eq!(config.endpoints_config["x"].as_ref().unwrap().aliases.as_ref().unwrap().len(), 2);
    }

    #[test]
    fn contradictions_are_refused() {
        let first = First { ip: Some("10.0.0.2"), ..NOTHING };
        for (flags, first) in [
            (&["a", "a"][..], &NOTHING),
            (&["bridge", "a"], &NOTHING),
            (&["name=a,ip=10.0.0.1"], &first),
            (&["alias=x"], &NOTHING),
            (&["name=a,bogus=1"], &NOTHING),
            (&["name=a,ip=fd00::1"], &NOTHING),
        ] {
            assert!(parse(flags, first).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn hosts_dns_and_macs() {
        assert_eq!(extra_host("h:1.2.3.4").unwrap(), "h:1.2.3.4");
        assert_eq!(extra_host("h=[::1]").unwrap(), "h:::1");
        assert_eq!(extra_host("h:::1").unwrap(), "h:::1");
        assert_eq!(extra_host("h:host-gateway").unwrap(), "h:host-gateway");
        for bad in ["h", "h:", ":1.2.3.4", "h:nope"] {
            assert!(extra_host(bad).is_err(), "{bad}");
        }
        assert!(dns("8.8.8.8").is_ok() && dns("dns.example").is_err());
        assert!(checked_mac("02:42:ac:11:00:02").is_ok() && checked_mac("02:42").is_err());
    }
}
