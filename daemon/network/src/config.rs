// SPDX-License-Identifier: Apache-2.0
//! What the daemon is told about networking (`daemon.json` and flags; Docker's key names in brackets).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use berth_domain::{IdMap, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::UserNamespace;

/// A range that subnets of new networks are cut from (`default-address-pools`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    /// The whole range.
    pub base: IpNet,
    /// Prefix length of each subnet cut from it.
    pub size: u8,
}

/// Settings of [`crate::Networks::open`].
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Where `networks/*.json` live.
    pub data_root: PathBuf,
    /// Interface of the default network. `None` (`bridge: "none"`): there is no default network.
    pub bridge: Option<String>,
    /// Address and subnet of the default bridge (`bip`); chosen when not given.
    pub bip: Option<Ipv4Net>,
    /// Addresses for containers on the default bridge (`fixed-cidr`), within the subnet.
    pub fixed_cidr: Option<Ipv4Net>,
    /// The default bridge has IPv6 too (`ipv6`).
    pub ipv6: bool,
    /// Its IPv6 address and subnet (`bip6`).
    pub bip6: Option<Ipv6Net>,
    /// Its IPv6 subnet, or with `bip6` the addresses for containers within it (`fixed-cidr-v6`); one of the pools' when not given.
    pub fixed_cidr_v6: Option<Ipv6Net>,
    /// By which address containers on the default bridge go out, if not by the bridge's own (`default-gateway`).
    pub default_gateway: Option<Ipv4Addr>,
    /// The same for IPv6 (`default-gateway-v6`).
    pub default_gateway_v6: Option<Ipv6Addr>,
    /// Options of new networks that their users did not set, by driver (`default-network-opts`).
    pub default_network_options: BTreeMap<String, BTreeMap<String, String>>,
    /// Published ports are reached from elsewhere at the container's own address too (`allow-direct-routing`).
    pub direct_routing: bool,
    /// Where subnets come from; Docker's built-in list when empty.
    pub default_address_pools: Vec<AddressPool>,
    /// MTU of the default bridge and its endpoints (`mtu`).
    pub mtu: u32,
    /// Containers on the default bridge reach one another (`icc`).
    pub icc: bool,
    /// Masquerade what leaves the default bridge (`ip-masq`).
    pub masquerade: bool,
    /// Turn on the kernel's forwarding when a bridge network needs it (`ip-forward`).
    pub ip_forward: bool,
    /// Host address that ports are published on when the user names none (`ip`).
    pub default_host_ip: Ipv4Addr,
    /// Name of our nftables table in each family. `None`: `berth`, or `berth-<bridge>` for a bridge that is not `berth0`,
    /// so that daemons that share a network namespace, and so need different bridges, have different tables.
    pub table: Option<String>,
    /// How many bare network namespaces are kept ready.
    pub namespace_pool: usize,
    /// How many network namespaces are kept ready that are on the default bridge already, link and address included.
    pub endpoint_pool: usize,
    /// Who makes namespaces that are not the host's root's.
    pub founder: Option<Founder>,
    /// What is made ahead of need is for containers with these mappings.
    pub id_map: Option<IdMap>,
}

/// What [`Founder`] makes: a user namespace and a network namespace that it owns.
pub type Founded = (OwnedFd, OwnedFd);

/// Makes user namespaces, each with a network namespace; blocking.
#[derive(Clone)]
pub struct Founder(Arc<Found>);

type Found = dyn Fn(&UserNamespace) -> Result<Founded> + Send + Sync;

impl Founder {
    /// By this function, which is never asked for the host's.
    pub fn new(found: impl Fn(&UserNamespace) -> Result<Founded> + Send + Sync + 'static) -> Self {
        Self(Arc::new(found))
    }

    pub(crate) fn found(&self, user: &UserNamespace) -> Result<Founded> {
        (self.0)(user)
    }
}

impl fmt::Debug for Founder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Founder")
    }
}

/// The default network's interface.
const DEFAULT_BRIDGE: &str = "berth0";

impl NetworkConfig {
    /// The table's name.
    pub(crate) fn table(&self) -> String {
        match (&self.table, &self.bridge) {
            (Some(table), _) => table.clone(),
            (None, Some(bridge)) if bridge != DEFAULT_BRIDGE => format!("berth-{bridge}"),
            (None, _) => "berth".into(),
        }
    }

    /// Docker's defaults, with our names.
    #[must_use]
    pub fn new(data_root: impl Into<PathBuf>) -> Self {
        Self {
            data_root: data_root.into(),
            bridge: Some(DEFAULT_BRIDGE.into()),
            bip: None,
            fixed_cidr: None,
            ipv6: false,
            bip6: None,
            fixed_cidr_v6: None,
            default_gateway: None,
            default_gateway_v6: None,
            default_network_options: BTreeMap::new(),
            direct_routing: false,
            default_address_pools: Vec::new(),
            mtu: 1500,
            icc: true,
            masquerade: true,
            ip_forward: true,
            default_host_ip: Ipv4Addr::UNSPECIFIED,
            table: None,
            namespace_pool: 1,
            endpoint_pool: 2,
            founder: None,
            id_map: None,
        }
    }
}
