// SPDX-License-Identifier: Apache-2.0
//! Links, addresses and routes (rtnetlink).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoIpVlan, InfoKind, InfoMacVlan,
    InfoPortData, InfoPortKind, InfoVeth, InfoVlan, IpVlanFlags, IpVlanMode, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::netlink::{NETLINK_ROUTE, Netlink, Refused};
use crate::{IpvlanFlag, IpvlanMode, IpvlanRecord, Mac};

/// `RT_TABLE_LOCAL`.
const RT_TABLE_LOCAL: u8 = 255;

/// Beyond that of every route that others make.
const LOOPBACK_PRIORITY: u32 = 65_535;

/// A link, as far as we look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `bridge`, `veth`, ...; empty for hardware.
    pub(crate) kind: String,
    /// Index of the bridge it is a port of.
    pub(crate) master: Option<u32>,
    /// Its Ethernet address.
    pub(crate) mac: Option<Mac>,
}

/// A pair to make: one end a port of a bridge here, the other `eth0` there.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) host: &'a str,
    pub(crate) container: &'a str,
    pub(crate) bridge: u32,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) port: PortOptions,
}

/// What a bridge port is to do beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PortOptions {
    /// Send frames back out of the port they came in by. A container that uses its own published port needs it where bridged
    /// frames pass through netfilter (`br_netfilter`), as they are then rewritten without leaving the bridge.
    pub(crate) hairpin: bool,
    /// No frames to or from other isolated ports (`icc: false`).
    pub(crate) isolated: bool,
}

/// A link's addressing inside a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inside {
    pub(crate) addresses: Vec<IpNet>,
    /// For packets to elsewhere, one of a family.
    pub(crate) gateways: Vec<IpAddr>,
}

/// A rtnetlink socket; it acts in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Routes {
    netlink: Netlink,
}

type Request = (RouteNetlinkMessage, u16);

impl Routes {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(NETLINK_ROUTE)? })
    }

    /// Makes the pair, its host end up. One message makes it, with both ends where they belong; a second one, in the same
    /// send, sets what can only be set on a port that exists.
    pub(crate) fn create_pair(&mut self, pair: &Pair<'_>) -> Result<(), Refused> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(pair.container.into()),
            LinkAttribute::Address(pair.mac.0.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::NetNsFd(pair.netns.as_raw_fd()),
        ];
        let mut create = LinkMessage::default();
        create.attributes = vec![
            LinkAttribute::IfName(pair.host.into()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::Controller(pair.bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        let mut finish = LinkMessage::default();
        finish.header.flags = LinkFlags::Up;
        finish.header.change_mask = LinkFlags::Up;
        finish.attributes = vec![
            LinkAttribute::IfName(pair.host.into()),
            // A bridge port needs no IPv6 address; without one it also sends no solicitations into the container.
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
                In6AddrGenMode::None,
            )])]),
        ];
        if pair.port != PortOptions::default() {
            finish.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![
                    InfoBridgePort::HairpinMode(pair.port.hairpin),
                    InfoBridgePort::Isolated(pair.port.isolated),
                ])),
            ]));
        }
        self.send(vec![
            (RouteNetlinkMessage::NewLink(create), NLM_F_CREATE | NLM_F_EXCL),
            (RouteNetlinkMessage::NewLink(finish), 0),
        ])
    }

    /// Addresses a link and brings it up, in one send. `likely` is the index it probably has.
    pub(crate) fn configure(&mut self, name: &str, likely: u32, inside: &Inside) -> Result<(), Refused> {
        match self.try_configure(likely, inside) {
            Err(refused) if refused.is(Errno::NODEV) || refused.is(Errno::INVAL) => {
                let Some(link) = self.link(name)? else { return Err(refused) };
                self.try_configure(link.index, inside)
            }
            result => result,
        }
    }

    fn try_configure(&mut self, index: u32, inside: &Inside) -> Result<(), Refused> {
        let mut requests: Vec<Request> = inside.addresses.iter().map(|net| address(index, *net)).collect();
        requests.push(up(index));
        requests.extend(inside.gateways.iter().map(|gateway| default_route(index, *gateway)));
        self.send(requests)
    }

    /// Has packets for elsewhere leave by this link, whichever they left by before.
    pub(crate) fn route_outward(&mut self, name: &str, gateway: IpAddr) -> Result<(), Refused> {
        let Some(link) = self.link(name)? else { return Ok(()) };
        let (message, _) = default_route(link.index, gateway);
        self.send(vec![(message, NLM_F_CREATE | NLM_F_REPLACE)])
    }

    /// Has packets for elsewhere leave by this gateway no longer; that they did not is fine.
    pub(crate) fn no_longer_outward(&mut self, name: &str, gateway: IpAddr) -> Result<(), Refused> {
        let Some(link) = self.link(name)? else { return Ok(()) };
        let (RouteNetlinkMessage::NewRoute(message), _) = default_route(link.index, gateway) else {
            return Ok(());
        };
        match self.send(vec![(RouteNetlinkMessage::DelRoute(message), 0)]) {
            Err(refused) if refused.is(Errno::SRCH) => Ok(()),
            result => result,
        }
    }

    /// Lets answers for `::1` come in by this link: those of containers to connections from this host's loopback, once the
    /// firewall has translated them back. What IPv4 has `route_localnet` for. Being there already is fine.
    pub(crate) fn let_loopback_in(&mut self, index: u32) -> Result<(), Refused> {
        let message = RouteNetlinkMessage::NewRoute(loopback_route(index));
        match self.send(vec![(message, NLM_F_CREATE | NLM_F_EXCL)]) {
            Err(refused) if refused.is(Errno::EXIST) => Ok(()),
            result => result,
        }
    }

    /// Undoes [`Routes::let_loopback_in`]; nothing to undo is fine.
    pub(crate) fn keep_loopback_out(&mut self, index: u32) -> Result<(), Refused> {
        match self.send(vec![(RouteNetlinkMessage::DelRoute(loopback_route(index)), 0)]) {
            Err(refused) if refused.is(Errno::SRCH) => Ok(()),
            result => result,
        }
    }

    /// Makes a macvlan link inside a namespace, on a parent here.
    pub(crate) fn create_macvlan(
        &mut self,
        name: &str,
        parent: u32,
        mode: MacVlanMode,
        (mac, mtu): (Mac, Option<u32>),
        netns: BorrowedFd<'_>,
    ) -> Result<(), Refused> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Link(parent),
            LinkAttribute::NetNsFd(netns.as_raw_fd()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVlan),
                LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)])),
            ]),
        ];
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.send(vec![(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)])
    }

    /// Makes an ipvlan link inside a namespace, on a parent here.
    pub(crate) fn create_ipvlan(
        &mut self,
        name: &str,
        parent: u32,
        ipvlan: IpvlanRecord,
        mtu: Option<u32>,
        netns: BorrowedFd<'_>,
    ) -> Result<(), Refused> {
        let mode = match ipvlan.mode {
            IpvlanMode::L2 => IpVlanMode::L2,
            IpvlanMode::L3 => IpVlanMode::L3,
            IpvlanMode::L3s => IpVlanMode::L3S,
        };
        let flags = match ipvlan.flag {
            IpvlanFlag::Bridge => IpVlanFlags::empty(),
            IpvlanFlag::Private => IpVlanFlags::Private,
            IpvlanFlag::Vepa => IpVlanFlags::Vepa,
        };
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Link(parent),
            LinkAttribute::NetNsFd(netns.as_raw_fd()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::IpVlan),
                LinkInfo::Data(InfoData::IpVlan(vec![InfoIpVlan::Mode(mode), InfoIpVlan::Flags(flags)])),
            ]),
        ];
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.send(vec![(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)])
    }

    /// Makes a VLAN on a link, up.
    pub(crate) fn create_vlan(&mut self, name: &str, parent: u32, id: u16) -> Result<(), Refused> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Link(parent),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)])),
            ]),
        ];
        self.send(vec![(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)])
    }

    /// Makes a link to nowhere, up.
    pub(crate) fn create_dummy(&mut self, name: &str) -> Result<(), Refused> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
        ];
        self.send(vec![(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)])
    }

    /// Brings a link up.
    pub(crate) fn set_up(&mut self, index: u32) -> Result<(), Refused> {
        self.send(vec![up(index)])
    }

    /// Makes a bridge, down.
    pub(crate) fn create_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> Result<(), Refused> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            // A bridge without an address of its own takes the lowest of its ports', and so changes it as containers come and go.
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.send(vec![(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)])
    }

    /// Gives a link an address; having it already is fine.
    pub(crate) fn add_address(&mut self, index: u32, net: IpNet) -> Result<(), Refused> {
        let (message, _) = address(index, net);
        self.send(vec![(message, NLM_F_CREATE | NLM_F_REPLACE)])
    }

    /// Takes an address from a link.
    pub(crate) fn remove_address(&mut self, index: u32, net: IpNet) -> Result<(), Refused> {
        let (message, _) = address(index, net);
        let RouteNetlinkMessage::NewAddress(message) = message else { return Ok(()) };
        self.send(vec![(RouteNetlinkMessage::DelAddress(message), 0)])
    }

    /// Removes a link. The kernel makes the caller wait for it.
    pub(crate) fn delete(&mut self, index: u32) -> Result<(), Refused> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.send(vec![(RouteNetlinkMessage::DelLink(message), 0)])
    }

    /// The link with this name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, Refused> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.into())];
        let mut found = None;
        let result = self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_ACK, |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                found = Some(read_link(&message));
            }
        });
        match result {
            Ok(()) => Ok(found),
            Err(refused) if refused.is(Errno::NODEV) => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    /// All links.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, Refused> {
        let mut links = Vec::new();
        self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                links.push(read_link(&message));
            }
        })?;
        Ok(links)
    }

    /// All addresses but those of links alone: index of the link, address with its subnet.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>, Refused> {
        let message = AddressMessage::default();
        let mut addresses = Vec::new();
        self.ask(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else { return };
            if message.header.scope != AddressScope::Universe {
                return;
            }
            let find =
                |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
            let local = find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
            // IPv6 has only this one.
            let address = find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
            if let Some(Ok(net)) = local.or(address).map(|ip| IpNet::new(ip, message.header.prefix_len)) {
                addresses.push((message.header.index, net));
            }
        })?;
        Ok(addresses)
    }

    /// Where unicast routes lead, default routes left out: index of the link, destination.
    pub(crate) fn destinations(&mut self) -> Result<Vec<(Option<u32>, IpNet)>, Refused> {
        let message = RouteMessage::default();
        let mut destinations = Vec::new();
        self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewRoute(message) = answer else { return };
            if message.header.kind != RouteType::Unicast {
                return;
            }
            let to = message.attributes.iter().find_map(|a| match a {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
                RouteAttribute::Destination(RouteAddress::Inet6(ip)) if !ip.is_unicast_link_local() => {
                    Some(IpAddr::V6(*ip))
                }
                _ => None,
            });
            let oif = message.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            if let Some(Ok(net)) = to.map(|ip| IpNet::new(ip, message.header.destination_prefix_length)) {
                destinations.push((oif, net));
            }
        })?;
        Ok(destinations)
    }

    fn send(&mut self, requests: Vec<Request>) -> Result<(), Refused> {
        let mut datagram = Vec::with_capacity(512);
        let mut last = 0;
        let count = requests.len();
        for (n, (message, flags)) in requests.into_iter().enumerate() {
            // Errors come unasked: one acknowledgement, of the last, says that all went well.
            let ack = if n + 1 == count { NLM_F_ACK } else { 0 };
            last = self.append(&mut datagram, message, flags | ack);
        }
        self.netlink.exchange(&datagram, last, |_, _| {})
    }

    fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), Refused> {
        let mut datagram = Vec::with_capacity(128);
        let seq = self.append(&mut datagram, message, flags);
        self.netlink.exchange(&datagram, seq, |kind, payload| {
            let mut header = NetlinkHeader::default();
            header.message_type = kind;
            match RouteNetlinkMessage::deserialize(&header, payload) {
                Ok(message) => each(message),
                // One strange link must not hide the others.
                Err(error) => tracing::debug!(%error, kind, "a netlink message that cannot be read"),
            }
        })
    }

    fn append(&mut self, datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) -> u32 {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.netlink.next_seq();
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let start = datagram.len();
        datagram.resize(start + crate::netlink::align4(packet.buffer_len()), 0);
        packet.serialize(&mut datagram[start..]);
        header.sequence_number
    }
}

fn up(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    (RouteNetlinkMessage::NewLink(message), 0)
}

fn address(index: u32, net: IpNet) -> Request {
    let mut message = AddressMessage::default();
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    match net {
        IpNet::V4(net) => {
            message.header.family = AddressFamily::Inet;
            if net.prefix_len() < 31 {
                message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
            }
        }
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            // Nobody else has it, and waiting to find that out would take a second.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    (RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// By a gateway; by the link itself if that is unspecified.
fn default_route(index: u32, gateway: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    let by_link = gateway.is_unspecified();
    let (family, gateway) = match gateway {
        IpAddr::V4(ip) => (AddressFamily::Inet, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, RouteAddress::Inet6(ip)),
    };
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(index)];
    if by_link {
        message.header.scope = RouteScope::Link;
    } else {
        message.attributes.push(RouteAttribute::Gateway(gateway));
    }
    (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn loopback_route(index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.destination_prefix_length = 128;
    message.header.table = RT_TABLE_LOCAL;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Local;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet6(std::net::Ipv6Addr::LOCALHOST)),
        RouteAttribute::Oif(index),
        // Behind loopback's own, which is what this host's packets take.
        RouteAttribute::Priority(LOOPBACK_PRIORITY),
    ];
    message
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, ..Link::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Address(mac) => link.mac = mac[..].try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}
