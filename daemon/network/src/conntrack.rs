// SPDX-License-Identifier: Apache-2.0
//! Forgetting the flows of UDP ports that were published or given back.
//!
//! The kernel decides once a flow where its packets go. A client that keeps sending to a port keeps its flow
//! alive, and with it the decision of the time before: nowhere, or the container that is gone. TCP has no such trouble: its
//! connections end.

use std::net::IpAddr;

use rustix::io::Errno;

use crate::Protocol;
use crate::netlink::{Attributes, NETLINK_NETFILTER, Netlink, Refused, align4};
use crate::nft::Forward;
use crate::worker::Worker;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;

/// A few milliseconds' worth.
const FEW: u32 = 4096;

impl Worker {
    /// Forgets the flows to these ports. Nothing is said to have failed: a flow that stays ends by itself once its client pauses.
    pub(crate) fn forget_flows(&mut self, forwards: &[Forward]) {
        let udp: Vec<Forward> =
            forwards.iter().filter(|f| f.protocol == Protocol::Udp && !f.routed).cloned().collect();
        if udp.is_empty() {
            return;
        }
        // All flows have to be looked at. Where that takes long, nobody waits for it.
        let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
        if count.is_ok_and(|c| c.trim().parse().is_ok_and(|n: u32| n <= FEW)) {
            // Kept: closing a netfilter socket waits for what others have just removed from nftables, 10 ms and more.
            if self.conntrack.is_none() {
                self.conntrack = opened();
            }
            if let Some(netlink) = &mut self.conntrack {
                forget_all(netlink, &udp);
            }
            return;
        }
        let body = move || {
            if let Some(mut netlink) = opened() {
                forget_all(&mut netlink, &udp);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("conntrack".into()).spawn(body) {
            tracing::warn!(%error, "starting a thread that forgets flows");
        }
    }
}

fn opened() -> Option<Netlink> {
    Netlink::open(NETLINK_NETFILTER)
        .inspect_err(
            |error| tracing::warn!(%error, "opening a netfilter socket to forget flows of UDP ports"),
        )
        .ok()
}

fn forget_all(netlink: &mut Netlink, udp: &[Forward]) {
    for family in [AF_INET, AF_INET6] {
        if !udp.iter().any(|f| f.host_ip.is_ipv4() == (family == AF_INET)) {
            continue;
        }
        if let Err(error) = forget(netlink, family, udp) {
            tracing::warn!(%error, "forgetting flows of UDP ports");
        }
    }
}

fn forget(netlink: &mut Netlink, family: u8, udp: &[Forward]) -> Result<(), Refused> {
    let mut stale: Vec<Vec<u8>> = Vec::new();
    let seq = netlink.next_seq();
    let dump = message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, family, seq, &[]);
    netlink.exchange(&dump, seq, |_, payload| {
        let attributes = payload.get(4..).unwrap_or_default();
        if let Some((_, tuple)) = Attributes(attributes).find(|(kind, _)| *kind == CTA_TUPLE_ORIG) {
            if leads_to(tuple, udp) {
                stale.push(tuple.to_vec());
            }
        }
    })?;
    for tuple in stale {
        let seq = netlink.next_seq();
        let delete = message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, family, seq, &tuple);
        match netlink.exchange(&delete, seq, |_, _| {}) {
            Err(error) if !error.is(Errno::NOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a flow was begun to one of these ports.
fn leads_to(tuple: &[u8], udp: &[Forward]) -> bool {
    let (mut to, mut protocol, mut port): (Option<IpAddr>, _, _) = (None, None, None);
    for (kind, value) in Attributes(tuple) {
        for (inner, value) in Attributes(value) {
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_DST) => to = value.first_chunk::<4>().map(|b| (*b).into()),
                (CTA_TUPLE_IP, CTA_IP_V6_DST) => to = value.first_chunk::<16>().map(|b| (*b).into()),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => {
                    port = value.first_chunk::<2>().map(|p| u16::from_be_bytes(*p));
                }
                _ => {}
            }
        }
    }
    protocol == Some(Protocol::Udp.number())
        && udp.iter().any(|f| {
            let here = f.host_ip.is_unspecified() || Some(f.host_ip) == to;
            Some(f.host_port) == port && here && to.is_some_and(|to| to.is_ipv4() == f.host_ip.is_ipv4())
        })
}

fn message(kind: u16, flags: u16, family: u8, seq: u32, tuple: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&(NFNL_SUBSYS_CTNETLINK << 8 | kind).to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&seq.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    // struct nfgenmsg
    bytes.extend_from_slice(&[family, 0, 0, 0]);
    if !tuple.is_empty() {
        let len = u16::try_from(tuple.len() + 4).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes.extend_from_slice(&(CTA_TUPLE_ORIG | NLA_F_NESTED).to_ne_bytes());
        bytes.extend_from_slice(tuple);
        bytes.resize(align4(bytes.len()), 0);
    }
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    bytes
}
