// SPDX-License-Identifier: Apache-2.0
//! Bridge, veth, address and route, as bytes on a netlink socket.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `NLM_F_REQUEST`, `NLM_F_ACK`; for what is new `NLM_F_CREATE` and `NLM_F_EXCL` too.
const CHANGE: u16 = 1 | 4;
const CREATE: u16 = CHANGE | 0x400 | 0x200;
const BRIDGE: &str = "floor0";
/// Attributes of `linux/if_link.h` and `linux/veth.h` that libc does not name.
const VETH_INFO_PEER: u16 = 1;
const NESTED: u16 = 0x8000;

/// Messages for one send.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

/// An attribute.
fn attribute(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len() + 8);
    bytes.extend(u16::try_from(data.len() + 4).unwrap_or(0).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), b"\0"].concat())
}

/// `struct ifinfomsg`.
fn link_head(index: u32, up: bool) -> Vec<u8> {
    let flag = if up { 1u32 } else { 0 };
    [&[0u8; 4][..], &index.to_ne_bytes(), &flag.to_ne_bytes(), &flag.to_ne_bytes()].concat()
}

impl Batch {
    fn push(&mut self, kind: u16, flags: u16, body: &[u8]) {
        self.count += 1;
        self.bytes.extend(u32::try_from(body.len() + 16).unwrap_or(0).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Sends all and collects an acknowledgement for each.
    fn send(self) {
        // SAFETY: no pointers; the descriptor is new and owned from here on.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
            assert!(fd >= 0, "a netlink socket");
            OwnedFd::from_raw_fd(fd)
        };
        let sent = rustix::net::send(&socket, &self.bytes, rustix::net::SendFlags::empty()).expect("netlink");
        assert_eq!(sent, self.bytes.len());
        let mut left = self.count;
        let mut buffer = [0u8; 16 * 1024];
        while left > 0 {
            // SAFETY: the buffer lives through the call.
            let n = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let mut rest = &buffer[..usize::try_from(n).expect("netlink's answer")];
            while rest.len() >= 20 {
                let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
                let kind = u16::from_ne_bytes(rest[4..6].try_into().unwrap());
                if i32::from(kind) == libc::NLMSG_ERROR {
                    let error = i32::from_ne_bytes(rest[16..20].try_into().unwrap());
                    assert_eq!(error, 0, "netlink: {}", std::io::Error::from_raw_os_error(-error));
                    left -= 1;
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).expect("a name");
    // SAFETY: the string lives through the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// `struct ifaddrmsg` and the address.
fn address(index: u32, last: [u8; 2]) -> Vec<u8> {
    let ip = [10, 99, last[0], last[1]];
    let mut body = vec![2, 16, 0, 0];
    body.extend(index.to_ne_bytes());
    body.extend(attribute(libc::IFA_LOCAL, &ip));
    body.extend(attribute(libc::IFA_ADDRESS, &ip));
    body
}

/// Once: the bridge of all.
pub(crate) fn make_bridge() {
    let mut batch = Batch::default();
    let info = attribute(libc::IFLA_LINKINFO | NESTED, &text(libc::IFLA_INFO_KIND, "bridge"));
    batch.push(
        libc::RTM_NEWLINK,
        CREATE,
        &[link_head(0, true), text(libc::IFLA_IFNAME, BRIDGE), info].concat(),
    );
    batch.send();
    let mut batch = Batch::default();
    batch.push(libc::RTM_NEWADDR, CREATE, &address(index(BRIDGE), [0, 1]));
    batch.send();
}

/// A veth pair: one end on the bridge and up, the other in the namespace of `pid`.
pub(crate) fn make_veth(number: u32, pid: u32) {
    let peer = [
        link_head(0, false),
        text(libc::IFLA_IFNAME, "eth0"),
        attribute(libc::IFLA_NET_NS_PID, &pid.to_ne_bytes()),
    ];
    let data = attribute(libc::IFLA_INFO_DATA | NESTED, &attribute(VETH_INFO_PEER | NESTED, &peer.concat()));
    let info = [text(libc::IFLA_INFO_KIND, "veth"), data].concat();
    let mut batch = Batch::default();
    let body = [
        link_head(0, true),
        text(libc::IFLA_IFNAME, &format!("fl{number}")),
        attribute(libc::IFLA_MASTER, &index(BRIDGE).to_ne_bytes()),
        attribute(libc::IFLA_LINKINFO | NESTED, &info),
    ];
    batch.push(libc::RTM_NEWLINK, CREATE, &body.concat());
    batch.send();
}

/// In the container: loopback, and what is behind the bridge.
pub(crate) fn up(bridged: bool) {
    let mut batch = Batch::default();
    batch.push(libc::RTM_NEWLINK, CHANGE, &link_head(1, true));
    if bridged {
        let eth0 = index("eth0");
        batch.push(libc::RTM_NEWLINK, CHANGE, &link_head(eth0, true));
        batch.push(libc::RTM_NEWADDR, CREATE, &address(eth0, [0, 2]));
        // `struct rtmsg`: IPv4, everything, main table, boot, universe, unicast.
        let mut route = vec![2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        route.extend(attribute(libc::RTA_GATEWAY, &[10, 99, 0, 1]));
        batch.push(libc::RTM_NEWROUTE, CREATE, &route);
    }
    batch.send();
}
