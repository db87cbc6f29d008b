// SPDX-License-Identifier: Apache-2.0
//! The world around a bed's host: two routers and somebody beyond them. And an ear at the host's interfaces.
//!
//! ```text
//! outsider 203.0.113.2 ── 203.0.113.1 [far] 198.51.100.2 ── 198.51.100.1 [near] 192.0.2.1 ── 192.0.2.10 lan0 [host]
//!   2001:db8:c::2          2001:db8:c::1     2001:db8:b::2     2001:db8:b::1   2001:db8:a::1   2001:db8:a::10
//! ```

use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::Command;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use super::bed::Bed;
use super::cli::Output;
use super::netns::NetNs;

/// The routers and the outsider; their links go with them.
pub struct World {
    /// The router on the host's own network.
    pub near: NetNs,
    /// The one behind it.
    pub far: NetNs,
    /// Somebody elsewhere.
    pub outsider: NetNs,
}

/// Addresses of the host, towards the world.
pub const HOST: [&str; 2] = ["192.0.2.10", "2001:db8:a::10"];
/// Addresses of the outsider.
pub const OUTSIDER: [&str; 2] = ["203.0.113.2", "2001:db8:c::2"];

impl World {
    /// Puts a world around the bed's host. Call it before networks with IPv6 are made, or after: routes are fixed.
    #[must_use]
    pub fn around(bed: &Bed) -> Self {
        let world = Self { near: NetNs::new(), far: NetNs::new(), outsider: NetNs::new() };
        let wire =
            |a: &NetNs, a_link: &str, a_nets: [&str; 2], b: &NetNs, b_link: &str, b_nets: [&str; 2]| {
                a.sh(&format!("ip link add {a_link} type veth peer name {b_link} netns {}", b.path()));
                for (ns, link, nets) in [(a, a_link, a_nets), (b, b_link, b_nets)] {
                    let [v4, v6] = nets;
                    ns.sh(&format!(
                        "echo 0 >/proc/sys/net/ipv6/conf/{link}/accept_dad; ip addr add {v4} dev {link}
                     ip addr add {v6} dev {link} nodad; ip link set {link} up"
                    ));
                }
            };
        let (near, far) = (&world.near, &world.far);
        wire(
            near,
            "lan0",
            ["192.0.2.1/24", "2001:db8:a::1/64"],
            &bed.netns,
            "lan0",
            ["192.0.2.10/24", "2001:db8:a::10/64"],
        );
        wire(
            far,
            "mid0",
            ["198.51.100.2/30", "2001:db8:b::2/64"],
            near,
            "mid0",
            ["198.51.100.1/30", "2001:db8:b::1/64"],
        );
        wire(
            &world.outsider,
            "eth0",
            ["203.0.113.2/24", "2001:db8:c::2/64"],
            far,
            "out0",
            ["203.0.113.1/24", "2001:db8:c::1/64"],
        );
        for router in [near, far] {
            router
                .sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
        }
        for (ns, v4, v6) in [
            (&bed.netns, "192.0.2.1", "2001:db8:a::1"),
            (near, "198.51.100.2", "2001:db8:b::2"),
            (far, "198.51.100.1", "2001:db8:b::1"),
            (&world.outsider, "203.0.113.1", "2001:db8:c::1"),
        ] {
            ns.sh(&format!("ip route replace default via {v4}; ip -6 route replace default via {v6}"));
        }
        world
    }
}

impl NetNs {
    /// A path that names it to programs that this process starts.
    #[must_use]
    pub fn path(&self) -> String {
        use std::os::fd::AsRawFd as _;
        format!("/proc/{}/fd/{}", std::process::id(), self.file().as_raw_fd())
    }

    /// Runs a shell script in it; its output.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-ec", script]);
        self.place(&mut command);
        Output::of(&mut command).ok()
    }
}

/// Hears every frame on every interface of a namespace.
pub struct Capture {
    socket: OwnedFd,
}

/// `ETH_P_ALL`, in network order as the kernel wants it.
const ALL: u32 = 0x0003_u16.to_be() as u32;

impl Capture {
    /// Hears from now on.
    #[must_use]
    pub fn start(netns: &NetNs) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let all = Protocol::from_raw(NonZero::new(ALL).expect("a protocol"));
        let socket = netns.run(|| socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(all)));
        Self { socket: socket.expect("a packet socket") }
    }

    /// What was heard since the last time.
    #[must_use]
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 65_536];
        while let Ok((length, _)) = recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            frames.push(buffer[..length].to_vec());
        }
        frames
    }
}

/// Whether a frame is on its way to port 53 of somebody: UDP or TCP, IPv4 or IPv6.
#[must_use]
pub fn is_dns_question(frame: &[u8]) -> bool {
    let port = |transport: usize| frame.get(transport + 2..transport + 4) == Some(&[0, 53]);
    let carries = |protocol: Option<&u8>| matches!(protocol, Some(6 | 17));
    match frame.get(12..14) {
        Some([0x08, 0x00]) => {
            let header = frame.get(14).map_or(0, |first| usize::from(first & 15) * 4);
            carries(frame.get(23)) && port(14 + header)
        }
        Some([0x86, 0xdd]) => carries(frame.get(20)) && port(54),
        _ => false,
    }
}
