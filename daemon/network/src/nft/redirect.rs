// SPDX-License-Identifier: Apache-2.0
//! Leading one address and port of a container to others: the embedded resolver's.

use std::net::SocketAddrV4;

use berth_domain::{Error, Result};
use rustix::io::Errno;

use super::encode::{APPEND, Batch, BatchError, CREATE, EXCL, Kind};
use super::expr::{Expr, Header, Reg, destination, is_protocol};
use crate::Protocol;
use crate::ipam::Family;
use crate::netlink::{NETLINK_NETFILTER, Netlink};

const NFPROTO_IPV4: u8 = 2;
/// Its name inside the container, where nothing else of ours is.
const TABLE: &str = "berth_resolver";
const CHAIN: &str = "output";
/// `NF_INET_LOCAL_OUT` and the usual priority of DNAT.
const HOOK: (u32, i32) = (3, -100);

/// In the calling thread's network namespace: what is sent to `from` arrives at these ports of UDP and TCP of the same
/// address. One transaction.
pub(crate) fn redirect(from: SocketAddrV4, ports: (u16, u16)) -> Result<()> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)
        .map_err(|e| Error::internal("opening a netfilter socket in a container").because(e))?;
    let mut put = put(&mut netlink, &[(Kind::NewTable, CREATE | EXCL)], from, ports);
    if put.as_ref().is_err_and(|e| e.refused.is(Errno::EXIST)) {
        // An earlier daemon's. This takes a grace period of RCU, which closing the socket waits for: 10 ms and more.
        put = self::put(&mut netlink, &[(Kind::DelTable, 0), (Kind::NewTable, CREATE)], from, ports);
    }
    put.map_err(|e| Error::internal("leading a container's questions to its resolver").because(e))
}

fn put(
    netlink: &mut Netlink,
    table: &[(Kind, u16)],
    from: SocketAddrV4,
    (udp, tcp): (u16, u16),
) -> std::result::Result<(), BatchError> {
    let mut batch = Batch::new(netlink, NFPROTO_IPV4);
    for (kind, flags) in table {
        batch.message(*kind, *flags, "the resolver's table", |a| {
            a.text(1, TABLE);
        });
    }
    batch.message(Kind::NewChain, CREATE, "the resolver's chain", |a| {
        a.text(1, TABLE).text(3, CHAIN);
        a.nest(4, |h| {
            h.number(1, HOOK.0).bytes(2, &HOOK.1.to_be_bytes());
        });
        // NF_ACCEPT
        a.number(5, 1).text(7, "nat");
    });
    for (protocol, port) in [(Protocol::Udp, udp), (Protocol::Tcp, tcp)] {
        let body: Vec<Expr> = [destination(Family::V4, Reg::R1), Expr::Equals(from.ip().octets().to_vec())]
            .into_iter()
            .chain(is_protocol(protocol.number()))
            .chain([
                Expr::Payload(Header::Transport, 2, 2, Reg::R1),
                Expr::Equals(from.port().to_be_bytes().to_vec()),
                Expr::Load(port.to_be_bytes().to_vec()),
                Expr::DnatPort(Family::V4),
            ])
            .collect();
        batch.message(
            Kind::NewRule,
            CREATE | APPEND,
            "the resolver's rule, which needs nft_nat (CONFIG_NFT_NAT)",
            |a| {
                a.text(1, TABLE).text(2, CHAIN).nest(4, |list| {
                    for expr in &body {
                        expr.emit(list);
                    }
                });
            },
        );
    }
    batch.commit()
}
