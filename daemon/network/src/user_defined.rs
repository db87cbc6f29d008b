// SPDX-License-Identifier: Apache-2.0
//! Making and removing bridge networks (runs on the worker's thread).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use berth_domain::{Error, Result};
use ipnet::{IpNet, Ipv4Net};

use crate::ipam::{choose_subnet, overlap};
use crate::predefined::{blank, no_pool, option, v4_subnet};
use crate::worker::Worker;
use crate::{AddressRange, BridgeRecord, Driver, NetworkRecord, NetworkRequest, books, bridge};

/// Names that users cannot give or take away.
const PREDEFINED: [&str; 4] = ["bridge", "host", "none", "default"];

impl Worker {
    pub(crate) fn network_create(&mut self, request: NetworkRequest) -> Result<Arc<NetworkRecord>> {
        check_network_name(&request.name)?;
        if PREDEFINED.contains(&request.name.as_str()) {
            let text = format!("operation is not permitted on predefined {} network", request.name);
            return Err(Error::forbidden(text));
        }
        if request.driver != Driver::Bridge {
            let driver = request.driver.as_str();
            return Err(Error::forbidden(format!("only one instance of \"{driver}\" network is allowed")));
        }
        if request.ipv6 || !request.ipv4 {
            return Err(Error::not_implemented("IPv6 on networks"));
        }
        if self.books().by_name(&request.name).is_some() {
            return Err(Error::conflict(format!("network with name {} already exists", request.name)));
        }
        let mut network = blank(&request.name, Driver::Bridge)?;
        network.internal = request.internal;
        network.attachable = request.attachable;
        network.ranges = self.ranges(&request)?;
        network.bridge = Some(self.bridge_settings(&request.options, &network.id)?);
        network.options = request.options;
        network.ipam_options = request.ipam_options;
        network.labels = request.labels;
        self.prepare_host()?;
        // The record first: a bridge without a record would be nobody's.
        self.records.save(&network)?;
        let id = network.id.clone();
        self.books().add_network(network.clone());
        if let Err(error) = self.put_up(&network) {
            self.take_down(&network);
            self.books().remove_network(&id);
            self.records.remove(&id)?;
            return Err(error);
        }
        self.resolve(&id)
    }

    fn put_up(&mut self, network: &NetworkRecord) -> Result<()> {
        self.raise(network)?;
        let Some(bridge) = books::bridge(network) else { return Ok(()) };
        self.change_firewall(|firewall| firewall.add_bridge(&bridge))
    }

    /// What cannot be removed is logged: the network is gone for its user.
    fn take_down(&mut self, network: &NetworkRecord) {
        let link = self.books().link(&network.id);
        let adopted = network.bridge.as_ref().is_none_or(|b| b.adopted);
        if let (Some(index), false) = (link, adopted) {
            match self.routes.delete(index) {
                Ok(()) => {}
                Err(e) if e.is(rustix::io::Errno::NODEV) => {}
                Err(error) => tracing::warn!(network = %network.name, %error, "removing a bridge"),
            }
        }
    }

    pub(crate) fn network_remove(&mut self, name: &str) -> Result<Arc<NetworkRecord>> {
        let network = self.resolve(name)?;
        if PREDEFINED.contains(&network.name.as_str()) {
            return Err(Error::forbidden(format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            )));
        }
        let view = self.books().view(&network);
        if !view.endpoints.is_empty() {
            let list: Vec<String> = view
                .endpoints
                .iter()
                .map(|(_, name, e)| format!("name:{name:?} id:{:?}", &e.endpoint_id[..12]))
                .collect();
            let text = format!(
                "error while removing network: network {} has active endpoints ({})",
                network.name,
                list.join(", ")
            );
            return Err(Error::forbidden(text));
        }
        self.records.remove(&network.id)?;
        self.take_down(&network);
        self.books().remove_network(&network.id);
        if let Some(bridge) = books::bridge(&network) {
            if let Err(error) = self.change_firewall(|firewall| firewall.remove_bridge(&bridge)) {
                tracing::error!(network = %network.name, error = %error.chain(), "taking a bridge out of the firewall");
            }
        }
        Ok(network)
    }

    fn ranges(&mut self, request: &NetworkRequest) -> Result<Vec<AddressRange>> {
        let taken: Vec<Ipv4Net> =
            self.books().networks().flat_map(|n| n.ranges.iter()).filter_map(v4_subnet).collect();
        if request.ranges.is_empty() {
            let mut used = bridge::used_by_host(&mut self.routes, &[])?;
            used.extend(taken);
            let subnet = choose_subnet(&self.pools(), &used).ok_or_else(no_pool)?;
            return Ok(vec![AddressRange {
                subnet: IpNet::V4(subnet),
                range: None,
                gateway: Some(IpAddr::V4(bridge::default_gateway(subnet))),
                reserved: BTreeMap::new(),
                chosen_by_user: false,
                gateway_chosen_by_user: false,
            }]);
        }
        let [range] = request.ranges.as_slice() else {
            return Err(Error::not_implemented("networks with several subnets"));
        };
        Ok(vec![check_range(range, &taken)?])
    }

    fn bridge_settings(&mut self, options: &BTreeMap<String, String>, id: &str) -> Result<BridgeRecord> {
        let flag = |key: &str, default: bool| match options.get(key).map(String::as_str) {
            None | Some("") => Ok(default),
            Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
            Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(Error::invalid(format!("option {key}: {other:?} is neither true nor false"))),
        };
        let link = options.get(option::NAME).filter(|n| !n.is_empty()).cloned();
        let adopted = match &link {
            Some(name) => {
                bridge::check_name(name)?;
                let books = self.books();
                let mut bridges = books.networks().filter_map(|n| n.bridge.as_ref());
                if bridges.any(|b| b.link == *name) {
                    return Err(Error::forbidden(format!("bridge {name} belongs to another network")));
                }
                drop(bridges);
                drop(books);
                let there =
                    self.routes.link(name).map_err(|e| Error::internal("looking for a link").because(e))?;
                there.is_some()
            }
            None => false,
        };
        let mtu = match options.get(option::MTU).filter(|m| !m.is_empty()) {
            Some(mtu) => mtu.parse().ok().filter(|m| (68..=65535).contains(m)).ok_or_else(|| {
                Error::invalid(format!("option {}: {mtu:?} is not an MTU (68 to 65535)", option::MTU))
            })?,
            None => self.config.mtu,
        };
        let host_binding_ipv4 = match options.get(option::HOST_BINDING).filter(|a| !a.is_empty()) {
            Some(ip) => ip.parse().map_err(|_| {
                Error::invalid(format!("option {}: {ip:?} is not an IPv4 address", option::HOST_BINDING))
            })?,
            None => self.config.default_host_ip,
        };
        Ok(BridgeRecord {
            link: link.unwrap_or_else(|| format!("br-{}", &id[..12])),
            mtu,
            icc: flag(option::ICC, true)?,
            masquerade: flag(option::MASQUERADE, true)?,
            host_binding_ipv4,
            adopted,
        })
    }
}

/// A subnet of the user's, completed.
fn check_range(range: &AddressRange, taken: &[Ipv4Net]) -> Result<AddressRange> {
    let IpNet::V4(given) = range.subnet else { return Err(Error::not_implemented("IPv6 on networks")) };
    let subnet = given.trunc();
    if given != subnet {
        return Err(Error::invalid(format!("invalid subnet {given}: it should be {subnet}")));
    }
    if !(1..=30).contains(&subnet.prefix_len()) {
        return Err(Error::invalid(format!("invalid subnet {subnet}: a prefix length of 1 to 30 expected")));
    }
    if taken.iter().any(|other| overlap(other, &subnet)) {
        return Err(Error::forbidden(
            "invalid pool request: Pool overlaps with other one on this address space",
        ));
    }
    if let Some(within) = range.range.filter(|w| !IpNet::V4(subnet).contains(w)) {
        return Err(Error::invalid(format!(
            "invalid ip-range {within}: parent subnet {subnet} doesn't contain ip-range"
        )));
    }
    let host = |ip: IpAddr, what: &str| match ip {
        IpAddr::V4(ip) if subnet.contains(&ip) && ip != subnet.network() && ip != subnet.broadcast() => {
            Ok(ip)
        }
        ip => Err(Error::invalid(format!(
            "invalid {what} {ip}: parent subnet {subnet} doesn't contain this address for a host"
        ))),
    };
    for ip in range.reserved.values() {
        host(*ip, "auxiliary address")?;
    }
    let gateway: Ipv4Addr = match range.gateway {
        Some(gateway) => host(gateway, "gateway")?,
        None => {
            let start = range.range.map_or(subnet, |w| match w {
                IpNet::V4(net) => net,
                IpNet::V6(_) => subnet,
            });
            let reserved: Vec<IpAddr> = range.reserved.values().copied().collect();
            let free = |ip: &Ipv4Addr| {
                host(IpAddr::V4(*ip), "gateway").is_ok() && !reserved.contains(&IpAddr::V4(*ip))
            };
            let candidates = (u32::from(start.network())..=u32::from(start.broadcast())).map(Ipv4Addr::from);
            candidates
                .into_iter()
                .find(free)
                .ok_or_else(|| Error::invalid(format!("subnet {subnet} has no address for a gateway")))?
        }
    };
    Ok(AddressRange {
        subnet: IpNet::V4(subnet),
        gateway: Some(IpAddr::V4(gateway)),
        chosen_by_user: true,
        gateway_chosen_by_user: range.gateway.is_some(),
        ..range.clone()
    })
}

fn check_network_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let ok = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if ok {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "invalid network name: {name:?}, only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed"
        )))
    }
}
