// SPDX-License-Identifier: Apache-2.0
//! Networks.

use std::collections::BTreeMap;

use berth_api::types::network::{ConfigReference, Ipam, IpamConfig, Network, NetworkContainer};
use berth_network::{AddressRange, Driver, EndpointRecord, NetworkRecord, NetworkView};

/// The API's name of a driver.
pub(crate) fn driver(driver: Driver) -> &'static str {
    driver.as_str()
}

/// A network's answer, with those who are on it or without.
pub(crate) fn network(view: &NetworkView, with_containers: bool) -> Network {
    let record: &NetworkRecord = &view.record;
    let containers = if with_containers {
        view.endpoints.iter().map(|(id, name, e)| (id.to_string(), container(name, e))).collect()
    } else {
        BTreeMap::new()
    };
    let own = record.driver.has_links() || record.config_only;
    let configs: Vec<IpamConfig> = record.ranges.iter().map(|r| range(record, r)).collect();
    Network {
        name: record.name.clone(),
        id: record.id.clone(),
        created: record.created_at.to_string(),
        scope: "local".to_owned(),
        driver: driver(record.driver).to_owned(),
        enable_ipv4: record.ipv4,
        enable_ipv6: record.ipv6,
        ipam: Ipam {
            driver: "default".to_owned(),
            // The predefined networks were never asked for options.
            options: (own && record.name != "bridge").then(|| record.ipam_options.clone()),
            config: own.then_some(configs),
        },
        internal: record.internal,
        attachable: record.attachable,
        ingress: false,
        config_from: ConfigReference { network: record.config_from.clone() },
        config_only: record.config_only,
        containers,
        options: options(record),
        labels: record.labels.clone(),
    }
}

fn range(record: &NetworkRecord, range: &AddressRange) -> IpamConfig {
    // A gateway that nobody chose is not shown, except on the default network.
    let shown = range.gateway_chosen_by_user || record.name == "bridge" || !range.chosen_by_user;
    IpamConfig {
        subnet: range.subnet.to_string(),
        ip_range: range.range.map(|r| r.to_string()).unwrap_or_default(),
        gateway: range.gateway.filter(|_| shown).map(|g| g.to_string()).unwrap_or_default(),
        auxiliary_addresses: range.reserved.iter().map(|(name, ip)| (name.clone(), ip.to_string())).collect(),
    }
}

/// The default bridge tells what it is made of; others tell what was asked.
fn options(record: &NetworkRecord) -> BTreeMap<String, String> {
    let (Some(bridge), "bridge") = (&record.bridge, record.name.as_str()) else {
        return record.options.clone();
    };
    let mut options = record.options.clone();
    for (key, value) in [
        ("com.docker.network.bridge.default_bridge", "true".to_owned()),
        ("com.docker.network.bridge.enable_icc", bridge.icc.to_string()),
        ("com.docker.network.bridge.enable_ip_masquerade", bridge.masquerade.to_string()),
        ("com.docker.network.bridge.host_binding_ipv4", bridge.host_binding_ipv4.to_string()),
        ("com.docker.network.bridge.name", bridge.link.clone()),
        ("com.docker.network.driver.mtu", bridge.mtu.to_string()),
    ] {
        options.entry(key.to_owned()).or_insert(value);
    }
    options
}

fn container(name: &str, endpoint: &EndpointRecord) -> NetworkContainer {
    NetworkContainer {
        name: name.to_owned(),
        endpoint_id: endpoint.endpoint_id.clone(),
        mac_address: endpoint.mac.map(|m| m.to_string()).unwrap_or_default(),
        ipv4_address: endpoint.ipv4.map(|ip| format!("{ip}/{}", endpoint.ipv4_prefix)).unwrap_or_default(),
        ipv6_address: endpoint.ipv6.map(|ip| format!("{ip}/{}", endpoint.ipv6_prefix)).unwrap_or_default(),
    }
}
