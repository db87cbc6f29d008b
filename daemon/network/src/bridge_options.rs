// SPDX-License-Identifier: Apache-2.0
//! What a bridge network's options ask for, by Docker's names.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use berth_domain::{Error, Result};

use crate::bridge::check_name;
use crate::predefined::option;
use crate::{BridgeRecord, GatewayMode, NetworkConfig, NetworkRequest};

/// The names of options that change what a bridge does and that are not there: better refused than not noticed.
const ABSENT: [&str; 1] = ["com.docker.network.bridge.trusted_host_interfaces"];

type Options = BTreeMap<String, String>;

fn bad(key: &str, value: &str, why: &str) -> Error {
    Error::invalid(format!("option {key}: {value:?} {why}"))
}

/// A switch, as Go reads it.
pub(crate) fn flag(options: &Options, key: &str, default: bool) -> Result<bool> {
    match options.get(key).map(String::as_str) {
        None | Some("") => Ok(default),
        Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(bad(key, other, "is neither true nor false")),
    }
}

fn gateway_mode(options: &Options, key: &str, internal: bool) -> Result<GatewayMode> {
    let mode = match options.get(key).map_or("", String::as_str) {
        "" | "nat" => GatewayMode::Nat,
        "nat-unprotected" => GatewayMode::NatUnprotected,
        "routed" => GatewayMode::Routed,
        "isolated" => GatewayMode::Isolated,
        other => return Err(bad(key, other, "is none of nat, nat-unprotected, routed, isolated")),
    };
    if mode == GatewayMode::Isolated && !internal {
        return Err(Error::invalid("gateway mode 'isolated' can only be used for an internal network"));
    }
    Ok(mode)
}

/// What every driver's links are called.
pub(crate) fn interface_prefix(options: &Options) -> Result<Option<String>> {
    let Some(prefix) = options.get(option::INTERFACE_PREFIX).filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    // Three digits have to fit behind it.
    check_name(prefix)?;
    if prefix.len() > 12 || prefix.ends_with(|c: char| c.is_ascii_digit()) || prefix.starts_with("lo") {
        return Err(bad(
            option::INTERFACE_PREFIX,
            prefix,
            "is not a prefix of up to 12 bytes without a number",
        ));
    }
    Ok(Some(prefix.clone()))
}

/// The settings; the link's name and whether it was there before are the caller's to say.
pub(crate) fn settings(request: &NetworkRequest, config: &NetworkConfig) -> Result<BridgeRecord> {
    let options = &request.options;
    for key in ABSENT {
        if options.contains_key(key) {
            return Err(Error::not_implemented(format!("option {key} is not implemented")));
        }
    }
    let mtu = match options.get(option::MTU).map(String::as_str) {
        None | Some("") => config.mtu,
        Some(text) => match text.parse() {
            Ok(0) => 1500,
            Ok(mtu @ 68..=65_535) => mtu,
            _ => return Err(bad(option::MTU, text, "is not a number of bytes from 68 to 65535")),
        },
    };
    if request.ipv6 && mtu < 1280 {
        return Err(bad(option::MTU, &mtu.to_string(), "is less than the 1280 bytes that IPv6 needs"));
    }
    let host_binding_ipv4 = match options.get(option::HOST_BINDING).filter(|a| !a.is_empty()) {
        Some(text) => match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => ip,
            // All addresses, those of IPv6 too: what unspecified means here.
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => Ipv4Addr::UNSPECIFIED,
            _ => return Err(bad(option::HOST_BINDING, text, "is not an IPv4 address")),
        },
        None => config.default_host_ip,
    };
    Ok(BridgeRecord {
        link: String::new(),
        mtu,
        icc: flag(options, option::ICC, true)?,
        masquerade: flag(options, option::MASQUERADE, true)?,
        host_binding_ipv4,
        adopted: false,
        found: None,
        inhibit_ipv4: flag(options, option::INHIBIT_IPV4, false)?,
        gateway_mode_ipv4: gateway_mode(options, option::GATEWAY_MODE_IPV4, request.internal)?,
        gateway_mode_ipv6: gateway_mode(options, option::GATEWAY_MODE_IPV6, request.internal)?,
    })
}
