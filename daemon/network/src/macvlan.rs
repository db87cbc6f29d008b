// SPDX-License-Identifier: Apache-2.0
//! Macvlan and ipvlan networks: containers on an interface of the host's, with Ethernet addresses of their own, or with IP addresses
//! of their own alone.
//!
//! The host takes no part: packets go out by the parent as they are, no firewall of ours sees them and no ports are published.
//! A network without a way out has no parent to be on; it gets a link to nowhere, as in the reference engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_domain::{Error, Result};
use netlink_packet_route::link::MacVlanMode;
use rustix::io::Errno;

use crate::bridge::check_name;
use crate::netlink::Refused;
use crate::predefined::option;
use crate::route::Routes;
use crate::{
    Driver, IpvlanFlag, IpvlanMode, IpvlanRecord, MacvlanMode, MacvlanRecord, NetworkRecord, NetworkRequest,
};

const PARENT: &str = "parent";
const MODE: &str = "macvlan_mode";
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";

/// The mode as rtnetlink has it.
pub(crate) fn kernels(mode: MacvlanMode) -> MacVlanMode {
    match mode {
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
    }
}

/// What the options ask for; `others` are the networks that are there.
pub(crate) fn settings(
    request: &NetworkRequest,
    id: &str,
    others: &[Arc<NetworkRecord>],
) -> Result<MacvlanRecord> {
    let options: &BTreeMap<String, String> = &request.options;
    let ipvlan = if request.driver == Driver::Ipvlan { Some(ipvlan(options)?) } else { None };
    let mode = match options.get(MODE).map_or("", String::as_str) {
        "" | "bridge" => MacvlanMode::Bridge,
        "private" => MacvlanMode::Private,
        "vepa" => MacvlanMode::Vepa,
        "passthru" => MacvlanMode::Passthru,
        other => {
            return Err(Error::invalid(format!(
                "requested macvlan mode '{other}' is not valid, 'bridge' mode is the macvlan driver default"
            )));
        }
    };
    let mtu = match options.get(option::MTU).filter(|mtu| !mtu.is_empty()) {
        Some(text) => Some(text.parse().map_err(|_| {
            Error::invalid(format!("option {}: {text:?} is not a number of bytes", option::MTU))
        })?),
        None => None,
    };
    let asked = options.get(PARENT).filter(|parent| !parent.is_empty());
    let parent = match asked {
        Some(parent) => parent.clone(),
        None => nowhere(request.driver, id),
    };
    check_name(&parent)?;
    let records = || others.iter().filter_map(|n| n.macvlan.as_ref());
    for other in records().filter(|other| other.parent == parent) {
        // A parent has one mode for all its ipvlans, and no macvlans beside them.
        if other.ipvlan != ipvlan {
            let kind = if other.ipvlan.is_some() { "ipvlan of another mode or flag" } else { "macvlan" };
            let text =
                format!("{parent} is the parent of another network of the driver {kind}: it cannot be both");
            return Err(Error::forbidden(text));
        }
        if mode == MacvlanMode::Passthru || other.mode == MacvlanMode::Passthru {
            return Err(Error::forbidden(format!(
                "macvlan mode passthru: {parent} is the parent of another network"
            )));
        }
    }
    // Who shares a parent of ours keeps it when the other network goes.
    let made = records().any(|other| other.parent == parent && other.made);
    let vlan =
        parent.rsplit_once('.').and_then(|(_, id)| id.parse().ok()).filter(|id| (1..4095).contains(id));
    Ok(MacvlanRecord { parent, mode, mtu, vlan, made, ipvlan })
}

fn ipvlan(options: &BTreeMap<String, String>) -> Result<IpvlanRecord> {
    let mode = match options.get(IPVLAN_MODE).map_or("", String::as_str) {
        "" | "l2" => IpvlanMode::L2,
        "l3" => IpvlanMode::L3,
        "l3s" => IpvlanMode::L3s,
        other => {
            return Err(Error::invalid(format!("unknown ipvlan mode: {other} (l2, l3 and l3s are there)")));
        }
    };
    let flag = match options.get(IPVLAN_FLAG).map_or("", String::as_str) {
        "" | "bridge" => IpvlanFlag::Bridge,
        "private" => IpvlanFlag::Private,
        "vepa" => IpvlanFlag::Vepa,
        other => {
            return Err(Error::invalid(format!(
                "unknown ipvlan flag: {other} (bridge, private and vepa are there)"
            )));
        }
    };
    Ok(IpvlanRecord { mode, flag })
}

/// How the link to nowhere of a network without a parent is called.
fn nowhere(driver: Driver, id: &str) -> String {
    let prefix = if driver == Driver::Ipvlan { "di" } else { "dm" };
    format!("{prefix}-{}", &id[..12])
}

/// Sees that the parent is there, and answers its index. What is missing and can be made is made: a VLAN by the
/// parent's name (`eth0.10`), a link to nowhere by a network that leads nowhere.
pub(crate) fn ensure(routes: &mut Routes, network: &NetworkRecord, macvlan: &MacvlanRecord) -> Result<u32> {
    let name = macvlan.parent.as_str();
    if let Some(link) = look(routes, name)? {
        return Ok(link);
    }
    if name == nowhere(network.driver, &network.id) {
        routes.create_dummy(name).map_err(|e| {
            let hint = if e.is(Errno::OPNOTSUPP) { " (this kernel has no dummy links: CONFIG_DUMMY)" } else { "" };
            Error::invalid(format!(
                "a {} network without the option parent is on a dummy link, which cannot be made{hint}: name a parent, \
                 such as -o parent=eth0",
                network.driver.as_str()
            ))
            .because(e)
        })?;
    } else if let (Some(id), Some((under, _))) = (macvlan.vlan, name.rsplit_once('.')) {
        let Some(under) = look(routes, under)? else { return Err(no_parent(network, under)) };
        routes.create_vlan(name, under, id).map_err(|e| {
            let hint =
                if e.is(Errno::OPNOTSUPP) { " (this kernel has no VLANs: CONFIG_VLAN_8021Q)" } else { "" };
            Error::invalid(format!("making VLAN {id} as the parent {name}{hint}")).because(e)
        })?;
    } else {
        return Err(no_parent(network, name));
    }
    look(routes, name)?.ok_or_else(|| Error::internal(format!("{name} vanished as it was made")))
}

fn no_parent(network: &NetworkRecord, name: &str) -> Error {
    let driver = network.driver.as_str();
    Error::invalid(format!("invalid {driver} option parent={name}: this host has no such interface"))
}

fn look(routes: &mut Routes, name: &str) -> Result<Option<u32>> {
    let link =
        routes.link(name).map_err(|e| Error::internal(format!("looking for link {name}")).because(e))?;
    Ok(link.map(|link| link.index))
}

/// Notes whether the parent is a VLAN that is yet to be made. One that is there is the administrator's.
pub(crate) fn note_making(routes: &mut Routes, macvlan: &mut MacvlanRecord) -> Result<()> {
    if macvlan.vlan.is_some() && look(routes, &macvlan.parent)?.is_none() {
        macvlan.made = true;
    }
    Ok(())
}

/// Of which kind the parent is if it was made by us, and goes with the network.
pub(crate) fn made_kind(network: &NetworkRecord) -> Option<&'static str> {
    let macvlan = network.macvlan.as_ref()?;
    if macvlan.parent == nowhere(network.driver, &network.id) {
        Some("dummy")
    } else {
        (macvlan.made && macvlan.vlan.is_some()).then_some("vlan")
    }
}

/// Why there is no link in the container.
pub(crate) fn no_link(network: &NetworkRecord, macvlan: &MacvlanRecord, refused: Refused) -> Error {
    let hint = if refused.is(Errno::OPNOTSUPP) && macvlan.ipvlan.is_some() {
        "; is ipvlan in this kernel (CONFIG_IPVLAN)?"
    } else if refused.is(Errno::OPNOTSUPP) {
        "; is macvlan in this kernel (CONFIG_MACVLAN)?"
    } else if refused.is(Errno::BUSY) || refused.is(Errno::INVAL) {
        "; is the parent used in another way, or in mode passthru?"
    } else {
        ""
    };
    Error::internal(format!("putting a link on {} of network {}{hint}", macvlan.parent, network.name))
        .because(refused)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::predefined::blank;

    fn request(parent: &str) -> NetworkRequest {
        NetworkRequest {
            name: "mac".into(),
            driver: Driver::Macvlan,
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            ranges: Vec::new(),
            options: BTreeMap::from([(PARENT.into(), parent.into())]),
            ipam_options: BTreeMap::new(),
            labels: BTreeMap::new(),
            config_only: false,
            config_from: None,
        }
    }

    fn network(others: &[Arc<NetworkRecord>], made: bool) -> NetworkRecord {
        let mut network = blank("mac", Driver::Macvlan).unwrap();
        let mut settings = settings(&request("eth0.10"), &network.id, others).unwrap();
        assert_eq!(settings.vlan, Some(10));
        settings.made |= made;
        network.macvlan = Some(settings);
        network
    }

    #[test]
    fn only_a_vlan_of_our_making_is_ours() {
        let found = network(&[], false);
        assert_eq!(made_kind(&found), None);
        assert_eq!(made_kind(&network(&[Arc::new(found)], false)), None);
        let made = network(&[], true);
        assert_eq!(made_kind(&made), Some("vlan"));
        // The one that made it may go first.
        assert_eq!(made_kind(&network(&[Arc::new(made)], false)), Some("vlan"));
    }
}
