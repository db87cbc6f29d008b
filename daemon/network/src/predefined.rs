// SPDX-License-Identifier: Apache-2.0
//! The networks that are always there: `none`, `host` and the default bridge (`bridge`). Their records are kept like the
//! others', so that their ids stay.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_domain::{Error, Result};
use ipnet::{IpNet, Ipv4Net};

use crate::books::DEFAULT;
use crate::endpoint::random_id;
use crate::ipam::{Family, choose_subnet, docker_pools, first_host, local_pool, never_a_hosts, overlap};
use crate::worker::Worker;
use crate::{AddressPool, AddressRange, BridgeRecord, Driver, GatewayMode, NetworkRecord, bridge, records};

/// Options that `inspect` shows, by Docker's names.
pub(crate) mod option {
    pub(crate) const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
    pub(crate) const ICC: &str = "com.docker.network.bridge.enable_icc";
    pub(crate) const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
    pub(crate) const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
    pub(crate) const NAME: &str = "com.docker.network.bridge.name";
    pub(crate) const MTU: &str = "com.docker.network.driver.mtu";
    pub(crate) const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
    pub(crate) const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";
    pub(crate) const GATEWAY_MODE_IPV4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
    pub(crate) const GATEWAY_MODE_IPV6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
}

impl Worker {
    /// All networks' records; those predefined are made, or brought in line with the configuration.
    pub(crate) fn load_networks(&mut self) -> Result<Vec<NetworkRecord>> {
        let mut networks = self.records.load()?;
        for (name, driver) in [("none", Driver::Null), ("host", Driver::Host)] {
            if !networks.iter().any(|n| n.name == name) {
                let network = blank(name, driver)?;
                self.records.save(&network)?;
                networks.push(network);
            }
        }
        let at = networks.iter().position(|n| n.name == DEFAULT);
        let before = at.map(|at| networks.remove(at));
        if let Some(link) = self.config.bridge.clone() {
            let network = self.default_network(before.as_ref(), &link, &networks)?;
            if before.as_ref() != Some(&network) {
                self.records.save(&network)?;
            }
            networks.push(network);
        }
        Ok(networks)
    }

    /// The default bridge's subnet is, in this order: what is configured; what the bridge has already; what it was; the first
    /// of the pools that nothing else on this host uses.
    fn default_network(
        &mut self,
        before: Option<&NetworkRecord>,
        link: &str,
        others: &[NetworkRecord],
    ) -> Result<NetworkRecord> {
        bridge::check_name(link)?;
        let present = bridge::present_address(&mut self.routes, link)?;
        // A bridge that we did not make belongs to who did.
        let adopted = match before.and_then(|b| b.bridge.as_ref()).filter(|b| b.link == link) {
            Some(bridge) => bridge.adopted && present.is_some(),
            None => present.is_some(),
        };
        let was = before.and_then(bridge::v4_gateway);
        let mut used = bridge::used_by_host(&mut self.routes, &[link])?;
        let seed = others.iter().find(|n| n.name == "host").map(|n| n.id.clone()).unwrap_or_default();
        let others = others.iter().filter(|n| !n.config_only);
        let subnets = others.flat_map(|n| &n.ranges).map(|r| r.subnet.trunc());
        used.extend(subnets.clone());
        let free = |net: &Ipv4Net| !used.iter().any(|u| overlap(u, &IpNet::V4(*net)));
        let address = match (self.config.bip, present, was) {
            (Some(bip), ..) => {
                check_bip(bip, subnets)?;
                bip
            }
            (None, Some(present), _) => present,
            (None, None, Some(was)) if free(&was) => was,
            (None, None, _) => {
                let chosen = choose_subnet(&self.pools(), Family::V4, &used);
                let Some(IpNet::V4(subnet)) = chosen else { return Err(no_pool()) };
                Ipv4Net::new(bridge::default_gateway(subnet), subnet.prefix_len()).unwrap_or(subnet)
            }
        };
        let within = self.config.fixed_cidr.map(|f| f.trunc());
        if let Some(within) = within.filter(|w| !address.contains(w)) {
            return Err(Error::invalid(format!(
                "fixed-cidr {within} is not within the default bridge's subnet {}",
                address.trunc()
            )));
        }
        let mut network = match before {
            Some(before) => before.clone(),
            None => blank(DEFAULT, Driver::Bridge)?,
        };
        network.ranges = vec![AddressRange {
            subnet: IpNet::V4(address.trunc()),
            range: within.map(IpNet::V4),
            gateway: Some(IpAddr::V4(address.addr())),
            reserved: other_gateway(
                IpNet::V4(address),
                self.config.default_gateway.map(IpAddr::V4),
                ("default-gateway", "DefaultGatewayIPv4"),
            )?,
            chosen_by_user: self.config.bip.is_some(),
            gateway_chosen_by_user: true,
        }];
        network.ipv6 = self.config.ipv6;
        if self.config.ipv6 {
            network.ranges.push(self.default_ipv6(before, &used, &seed)?);
        }
        network.bridge = Some(BridgeRecord {
            link: link.to_owned(),
            mtu: self.config.mtu,
            icc: self.config.icc,
            masquerade: self.config.masquerade,
            host_binding_ipv4: self.config.default_host_ip,
            adopted,
            found: None,
            inhibit_ipv4: false,
            gateway_mode_ipv4: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
        });
        network.options = BTreeMap::from([
            (option::DEFAULT_BRIDGE.into(), "true".into()),
            (option::ICC.into(), self.config.icc.to_string()),
            (option::MASQUERADE.into(), self.config.masquerade.to_string()),
            (option::HOST_BINDING.into(), self.config.default_host_ip.to_string()),
            (option::NAME.into(), link.to_owned()),
            (option::MTU.into(), self.config.mtu.to_string()),
        ]);
        Ok(network)
    }

    /// The default bridge's IPv6: what is configured, what it was, the first of the pools that is free.
    fn default_ipv6(
        &self,
        before: Option<&NetworkRecord>,
        used: &[IpNet],
        seed: &str,
    ) -> Result<AddressRange> {
        let free = |net: &IpNet| !used.iter().any(|u| overlap(u, net));
        let was = before.and_then(|b| bridge::gateway(b, Family::V6)).map(|g| g.trunc()).filter(free);
        let fixed = self.config.fixed_cidr_v6.map(|f| IpNet::V6(f.trunc()));
        let (subnet, gateway, range) = match (self.config.bip6, fixed, was) {
            (Some(bip), within, _) => {
                let address = IpNet::V6(bip);
                check_bip6(address, within, used)?;
                (address.trunc(), Some(address.addr()), within)
            }
            (None, Some(fixed), _) => (fixed, None, None),
            (None, None, Some(was)) => (was, None, None),
            (None, None, None) => {
                let pools = with_local_pool(self.pools(), seed);
                (choose_subnet(&pools, Family::V6, used).ok_or_else(no_pool)?, None, None)
            }
        };
        let gateway = gateway.or_else(|| first_host(subnet, subnet, &[]));
        let address = gateway.and_then(|ip| IpNet::new(ip, subnet.prefix_len()).ok()).unwrap_or(subnet);
        let other = self.config.default_gateway_v6.map(IpAddr::V6);
        Ok(AddressRange {
            subnet,
            range,
            gateway,
            reserved: other_gateway(address, other, ("default-gateway-v6", "DefaultGatewayIPv6"))?,
            chosen_by_user: self.config.bip6.is_some() || self.config.fixed_cidr_v6.is_some(),
            gateway_chosen_by_user: true,
        })
    }

    /// The pools that subnets are cut from.
    pub(crate) fn pools(&self) -> Vec<AddressPool> {
        if self.config.default_address_pools.is_empty() {
            docker_pools()
        } else {
            self.config.default_address_pools.clone()
        }
    }
}

/// The pools, and where none is of IPv6 one of this host's own.
pub(crate) fn with_local_pool(mut pools: Vec<AddressPool>, seed: &str) -> Vec<AddressPool> {
    if !pools.iter().any(|p| Family::of_net(p.base) == Family::V6) {
        pools.push(local_pool(seed));
    }
    pools
}

/// A record with nothing in it.
pub(crate) fn blank(name: &str, driver: Driver) -> Result<NetworkRecord> {
    Ok(NetworkRecord {
        version: records::VERSION,
        id: random_id()?,
        name: name.to_owned(),
        driver,
        created_at: jiff::Timestamp::now(),
        ipv4: true,
        ipv6: false,
        internal: false,
        attachable: false,
        ranges: Vec::new(),
        bridge: None,
        macvlan: None,
        interface_prefix: None,
        config_only: false,
        config_from: String::new(),
        options: BTreeMap::new(),
        ipam_options: BTreeMap::new(),
        labels: BTreeMap::new(),
    })
}

pub(crate) fn no_pool() -> Error {
    Error::invalid("all predefined address pools have been fully subnetted")
}

/// The gateway of the administrator's choice as `reserved` names it: it must be a machine on the bridge.
fn other_gateway(
    address: IpNet,
    other: Option<IpAddr>,
    (key, name): (&str, &str),
) -> Result<BTreeMap<String, IpAddr>> {
    let Some(other) = other else { return Ok(BTreeMap::new()) };
    let subnet = address.trunc();
    if !subnet.contains(&other) || never_a_hosts(subnet).any(|never| never == other) {
        return Err(Error::invalid(format!(
            "{key} {other}: an address within the default bridge's subnet {subnet} expected"
        )));
    }
    // The bridge's own is what they go by anyway.
    Ok(if other == address.addr() { BTreeMap::new() } else { BTreeMap::from([(name.to_owned(), other)]) })
}

fn check_bip6(bip: IpNet, within: Option<IpNet>, used: &[IpNet]) -> Result<()> {
    let subnet = bip.trunc();
    if subnet.prefix_len() > 126 || bip.addr() == subnet.addr() {
        return Err(Error::invalid(format!(
            "bip6 {bip}: a host's address within a subnet expected, such as fd00:17::1/64"
        )));
    }
    if let Some(within) = within.filter(|within| !subnet.contains(within)) {
        return Err(Error::invalid(format!(
            "fixed-cidr-v6 {within} is not within the default bridge's subnet {subnet}"
        )));
    }
    match used.iter().find(|other| overlap(other, &subnet)) {
        Some(other) => Err(Error::invalid(format!(
            "bip6 {bip} overlaps {other}, which another network or a route of this host has"
        ))),
        None => Ok(()),
    }
}

fn check_bip(bip: Ipv4Net, mut others: impl Iterator<Item = IpNet>) -> Result<()> {
    if bip.prefix_len() > 30 || bip.addr() == bip.network() || bip.addr() == bip.broadcast() {
        return Err(Error::invalid(format!(
            "bip {bip}: a host's address within a subnet expected, such as 172.17.0.1/16"
        )));
    }
    match others.find(|other| overlap(other, &IpNet::V4(bip.trunc()))) {
        Some(other) => {
            Err(Error::invalid(format!("bip {bip} overlaps the subnet {other} of another network")))
        }
        None => Ok(()),
    }
}
