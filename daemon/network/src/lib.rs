// SPDX-License-Identifier: Apache-2.0
//! Networks of containers on one host: bridges, addresses, the firewall, published ports.
//!
//! A container's place in the world is its *sandbox*: a network namespace, the *endpoints* in it (one
//! per network it is on) and the ports it publishes. A [`SandboxRecord`] says all of it; the engine keeps
//! it beside the container's state and hands it back after a restart ([`Networks::sandbox_adopt`]). There is
//! no other book of addresses or ports, so there is nothing that could leak: a lease exists while a
//! sandbox with it is known.
//!
//! The order at start is [`Networks::open`], then `sandbox_adopt` for every container that still
//! runs, then [`Networks::sweep`], which removes what belongs to nobody. Published ports of running containers
//! answer during all of it.
//!
//! Everything that changes the kernel's state is done by one thread (`worker`), in the order in which it was
//! asked: netlink calls take the kernel's one lock anyway, and a task of the async runtime must not wait for that
//! lock. What reads (`list`, `inspect`, `resolve`) never waits for that thread.
//!
//! | module | what it knows |
//! |---|---|
//! | `config`, `request`, `record` | what callers say and what is kept |
//! | `networks`, `worker` | the public doors, and the thread behind them |
//! | `books` | who has which address, port and link, in memory |
//! | `ipam` | choosing subnets and addresses |
//! | `ports` | reserving host ports by binding them |
//! | `netns`, `pool` | making network namespaces, ahead of need |
//! | `endpoint`, `sandbox` | plugging containers into networks |
//! | `route` | links, addresses and routes (rtnetlink) |
//! | `nft` | the nftables encoder, and our table |
//! | `dns` | names and addresses told to containers on user-defined networks |
//! | `changing` | what running containers are joining and leaving |
//! | `conntrack` | forgetting flows of ports that moved |
#![forbid(unsafe_code)]

mod adopt;
mod books;
mod bridge;
mod bridge_options;
mod changing;
mod config;
mod connect;
mod conntrack;
mod dns;
mod endpoint;
mod ipam;
mod mac;
mod macvlan;
mod netlink;
mod netns;
mod networks;
mod nft;
mod pool;
mod ports;
mod predefined;
mod record;
mod records;
mod request;
mod route;
mod sandbox;
mod subnets;
mod sysctl;
#[cfg(test)]
mod testing;
mod user_defined;
mod worker;

pub use config::{AddressPool, Founded, Founder, NetworkConfig};
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use mac::Mac;
pub use networks::{NetworkView, Networks, Sandbox};
pub use record::{
    AddressRange, BridgeRecord, Driver, EndpointRecord, FoundBridge, GatewayMode, IpvlanFlag, IpvlanMode,
    IpvlanRecord, MacvlanMode, MacvlanRecord, NetworkRecord, Protocol, PublishedPort, SandboxRecord,
};
pub use request::{
    EndpointRequest, HostPorts, Mode, NetworkRequest, PortRequest, SandboxRequest, UserNamespace,
};
