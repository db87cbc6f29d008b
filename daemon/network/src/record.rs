// SPDX-License-Identifier: Apache-2.0
//! What is kept on disk: networks (`data-root/networks/<id>.json`, ours) and sandboxes (inside the
//! container's state, the engine's). Unknown fields are ignored and new ones have defaults, so that a
//! daemon reads what its neighbours in version wrote.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use berth_domain::Error;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Mac;

/// Who makes a network's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A Linux bridge on this host.
    Bridge,
    /// Links with Ethernet addresses of their own on an interface of the host's.
    Macvlan,
    /// Links with IP addresses of their own and the Ethernet address of an interface of the host's.
    Ipvlan,
    /// The host's own network namespace.
    Host,
    /// A namespace with nothing but loopback (the API calls the driver `null`).
    Null,
}

impl Driver {
    /// Whether containers on such a network have a link there.
    #[must_use]
    pub fn has_links(self) -> bool {
        matches!(self, Self::Bridge | Self::Macvlan | Self::Ipvlan)
    }

    /// As the API names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Host => "host",
            Self::Null => "null",
        }
    }
}

/// One subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    /// The subnet.
    pub subnet: IpNet,
    /// Addresses are given out from this part of it only.
    #[serde(default)]
    pub range: Option<IpNet>,
    /// The bridge's address; none on networks made without a gateway.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Addresses that are never given out, by the name the user gave them.
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
    /// The user chose the subnet.
    #[serde(default)]
    pub chosen_by_user: bool,
    /// The user chose the gateway (`inspect` shows it only then, or on the default network).
    #[serde(default)]
    pub gateway_chosen_by_user: bool,
}

/// What only bridge networks have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeRecord {
    /// The bridge's interface.
    pub link: String,
    /// MTU of the bridge and of endpoints on it.
    pub mtu: u32,
    /// Containers on it reach one another.
    pub icc: bool,
    /// What leaves it for elsewhere is masqueraded.
    pub masquerade: bool,
    /// Host address for ports published without one.
    pub host_binding_ipv4: Ipv4Addr,
    /// The interface was there before us: it is not ours to remove.
    #[serde(default)]
    pub adopted: bool,
    /// How it was then.
    #[serde(default)]
    pub found: Option<FoundBridge>,
    /// The bridge has no address of IPv4, though the network has a gateway.
    #[serde(default)]
    pub inhibit_ipv4: bool,
    /// How IPv4 leads in and out.
    #[serde(default)]
    pub gateway_mode_ipv4: GatewayMode,
    /// How IPv6 leads in and out.
    #[serde(default)]
    pub gateway_mode_ipv6: GatewayMode,
}

/// What an adopted bridge is left with when its network goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FoundBridge {
    /// `net.ipv4.conf.<bridge>.route_localnet` was on.
    #[serde(default)]
    pub route_localnet: bool,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
}

/// How a bridge network is joined to the world outside, by Docker's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Out by masquerade, in by published ports, which are translated.
    #[default]
    Nat,
    /// As `Nat`, but ports that are not published can be reached too by who has a route.
    NatUnprotected,
    /// No translation: published ports can be reached at the container's own address.
    Routed,
    /// The host has no address on the (internal) network.
    Isolated,
}

/// What only macvlan and ipvlan networks have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacvlanRecord {
    /// The host's interface.
    pub parent: String,
    /// How links on one parent see each other.
    pub mode: MacvlanMode,
    /// MTU of endpoints; the parent's when none.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The parent is called as a VLAN of this number on another interface is, and is made where it is missing.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// That VLAN was made by us, and is removed with the last network on it.
    #[serde(default)]
    pub made: bool,
    /// The links are ipvlans.
    #[serde(default)]
    pub ipvlan: Option<IpvlanRecord>,
}

/// What only ipvlan networks have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct IpvlanRecord {
    /// How packets find their way.
    pub mode: IpvlanMode,
    /// How links on one parent see each other.
    pub flag: IpvlanFlag,
}

/// `ipvlan_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// By Ethernet, as on any link.
    #[default]
    L2,
    /// The parent's namespace routes; there is no gateway, and no broadcast.
    L3,
    /// The same, by way of the parent's netfilter too.
    L3s,
}

/// `ipvlan_flag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanFlag {
    /// They reach one another without leaving the host.
    #[default]
    Bridge,
    /// They do not.
    Private,
    /// By way of the switch that the parent is connected to.
    Vepa,
}

/// `macvlan_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// They reach one another without leaving the host.
    #[default]
    Bridge,
    /// They do not.
    Private,
    /// By way of the switch that the parent is connected to.
    Vepa,
    /// There is only one.
    Passthru,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Layout of this record.
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique on this host.
    pub name: String,
    /// Who makes its links.
    pub driver: Driver,
    /// When it was made.
    pub created_at: jiff::Timestamp,
    /// IPv4 on it.
    pub ipv4: bool,
    /// IPv6 on it.
    #[serde(default)]
    pub ipv6: bool,
    /// No way out of it, nor in.
    #[serde(default)]
    pub internal: bool,
    /// Kept for clients; only Swarm gives it a meaning.
    #[serde(default)]
    pub attachable: bool,
    /// Its subnets.
    #[serde(default)]
    pub ranges: Vec<AddressRange>,
    /// Set for [`Driver::Bridge`].
    #[serde(default)]
    pub bridge: Option<BridgeRecord>,
    /// Set for [`Driver::Macvlan`] and [`Driver::Ipvlan`].
    #[serde(default)]
    pub macvlan: Option<MacvlanRecord>,
    /// How the container's links are called, with a number behind it; `eth` when none.
    #[serde(default)]
    pub interface_prefix: Option<String>,
    /// Nothing but settings, for other networks to take.
    #[serde(default)]
    pub config_only: bool,
    /// The network that the settings were taken from.
    #[serde(default)]
    pub config_from: String,
    /// Options as the user gave them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Options of address management as the user gave them.
    #[serde(default)]
    pub ipam_options: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl EndpointRecord {
    /// Its addresses with the prefix lengths of their subnets.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.ipv4.and_then(|ip| IpNet::new(ip.into(), self.ipv4_prefix).ok());
        let v6 = self.ipv6.and_then(|ip| IpNet::new(ip.into(), self.ipv6_prefix).ok());
        v4.into_iter().chain(v6)
    }

    /// Where packets for elsewhere go, by family.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.gateway.map(IpAddr::V4).into_iter().chain(self.ipv6_gateway.map(IpAddr::V6))
    }
}

/// A container's place on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The network's id.
    pub network_id: String,
    /// The network's name when the endpoint was made.
    pub network_name: String,
    /// 64 hexadecimal digits.
    pub endpoint_id: String,
    /// Address; none on `host` and `none`.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// Prefix length of the subnet; 0 without an address.
    #[serde(default)]
    pub ipv4_prefix: u8,
    /// Where its packets for elsewhere go; none on internal networks, unspecified where the link itself is the way.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 address.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// Prefix length of the IPv6 subnet; 0 without an address.
    #[serde(default)]
    pub ipv6_prefix: u8,
    /// Where its IPv6 packets for elsewhere go.
    #[serde(default)]
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Ethernet address inside the container.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Host's end of the pair (`vb…`).
    #[serde(default)]
    pub link: Option<String>,
    /// Container's end (`eth0`).
    #[serde(default)]
    pub interface: Option<String>,
    /// The address that the user asked for.
    #[serde(default)]
    pub asked_ipv4: Option<Ipv4Addr>,
    /// The IPv6 address that the user asked for.
    #[serde(default)]
    pub asked_ipv6: Option<Ipv6Addr>,
    /// Further names on this network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Names that this container alone calls others by: the alias, and the other's name or id.
    #[serde(default)]
    pub links: Vec<(String, String)>,
    /// Options as the user gave them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Which network gives the default gateway: the highest wins.
    #[serde(default)]
    pub gateway_priority: i64,
}

/// Protocols whose ports can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp`, `sctp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The number in IP headers.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(Error::invalid(format!("invalid proto: {s}"))),
        }
    }
}

/// A host port that leads into a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Port inside.
    pub container_port: u16,
    /// Host address; unspecified (`0.0.0.0`) means all of them.
    pub host_ip: IpAddr,
    /// Port on the host; 0 where the container is reached at its own address ([`GatewayMode::Routed`]).
    pub host_port: u16,
}

/// A container's sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// 64 hexadecimal digits; empty when the namespace is another's (`container:ID`).
    #[serde(default)]
    pub sandbox_id: String,
    /// The container's name when the sandbox was made.
    #[serde(default)]
    pub name: String,
    /// Endpoints, the one with the default gateway first.
    #[serde(default)]
    pub endpoints: Vec<EndpointRecord>,
    /// Ports in force.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// Its host name, by which others on its networks find it too.
    #[serde(default)]
    pub hostname: String,
    /// Where its resolver forwards to; the host's own servers when empty.
    #[serde(default)]
    pub dns_servers: Vec<IpAddr>,
    /// The embedded resolver answers in its namespace.
    #[serde(default)]
    pub resolver: bool,
}
