// SPDX-License-Identifier: Apache-2.0
//! What callers ask for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use berth_domain::IdMap;

use crate::{AddressRange, Driver, Mac, Protocol};

/// Where a container's network comes from.
#[derive(Debug)]
pub enum Mode {
    /// A namespace with loopback only.
    None,
    /// The host's namespace.
    Host,
    /// Another container's namespace.
    Container(OwnedFd),
    /// A namespace of its own on these networks. Empty means the same as [`Mode::None`], without the endpoint on `none`.
    Networks(Vec<EndpointRequest>),
}

/// A place on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointRequest {
    /// Name or id of the network (`default` is the default bridge).
    pub network: String,
    /// This address and no other.
    pub ipv4: Option<Ipv4Addr>,
    /// This IPv6 address and no other.
    pub ipv6: Option<Ipv6Addr>,
    /// This Ethernet address.
    pub mac: Option<Mac>,
    /// Further names on the network.
    pub aliases: Vec<String>,
    /// Names that this container alone calls others by: the alias, and the other's name or id.
    pub links: Vec<(String, String)>,
    /// Options for the driver.
    pub options: BTreeMap<String, String>,
    /// Which network gives the default gateway: the highest wins.
    pub gateway_priority: i64,
}

impl EndpointRequest {
    /// On this network, everything else chosen.
    #[must_use]
    pub fn on(network: impl Into<String>) -> Self {
        Self { network: network.into(), ..Self::default() }
    }
}

/// Host ports to publish on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostPorts {
    /// Any free one.
    Any,
    /// The first free one from the first to the last; one port is a range of one.
    Range(u16, u16),
}

/// A container port to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRequest {
    /// Protocol.
    pub protocol: Protocol,
    /// Port inside, 1 or more.
    pub container_port: u16,
    /// Host address; `None` means the network's default (every address, of IPv6 too where the container has it).
    pub host_ip: Option<IpAddr>,
    /// Host ports.
    pub host_ports: HostPorts,
}

/// Which user namespace a container's network belongs to.
#[derive(Debug, Default)]
pub enum UserNamespace {
    /// The host's.
    #[default]
    Host,
    /// One of its own with these mappings.
    Mapped(IdMap),
    /// One that is there.
    Of(OwnedFd),
}

/// A sandbox to make.
#[derive(Debug)]
pub struct SandboxRequest {
    /// The container's name, without a slash: for messages and for `inspect` of networks.
    pub name: String,
    /// Where its network comes from.
    pub mode: Mode,
    /// Ports to publish. Ignored on `host`; an internal network publishes none.
    pub ports: Vec<PortRequest>,
    /// The container's host name, by which others on its networks find it too.
    pub hostname: String,
    /// Where its resolver forwards to, from inside its namespace; the host's own servers, asked by the host, when empty.
    pub dns_servers: Vec<IpAddr>,
    /// Who owns its namespace, unless that is another container's or the host's.
    pub user: UserNamespace,
}

/// A network to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRequest {
    /// Its name, unique on this host.
    pub name: String,
    /// Who makes its links; users can ask for bridges, macvlans and ipvlans.
    pub driver: Driver,
    /// IPv4 on it.
    pub ipv4: bool,
    /// IPv6 on it.
    pub ipv6: bool,
    /// No way out of it, nor in.
    pub internal: bool,
    /// Kept for clients.
    pub attachable: bool,
    /// Subnets; chosen from the pools for a family that has none here.
    pub ranges: Vec<AddressRange>,
    /// Options (`com.docker.network.bridge.name` and the like).
    pub options: BTreeMap<String, String>,
    /// Options of address management.
    pub ipam_options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Nothing but settings, for other networks to take.
    pub config_only: bool,
    /// Take the settings of this network.
    pub config_from: Option<String>,
}
