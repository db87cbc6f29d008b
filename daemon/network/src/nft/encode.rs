// SPDX-License-Identifier: Apache-2.0
//! The wire form of nfnetlink transactions (`linux/netfilter/nfnetlink.h`, `nf_tables.h`).

use std::borrow::Cow;

use crate::netlink::{Netlink, Refused, align4};

const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NLA_F_NESTED: u16 = 0x8000;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Tell what was made.
pub(super) const ECHO: u16 = 8;
/// Refuse to make what is there.
pub(super) const EXCL: u16 = 0x200;
/// Make what is not there.
pub(super) const CREATE: u16 = 0x400;
/// Put a rule at the end of its chain.
pub(super) const APPEND: u16 = 0x800;

/// `enum nf_tables_msg_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    GetSet = 10,
    DelSet = 11,
    NewSetElem = 12,
    GetSetElem = 13,
    DelSetElem = 14,
}

impl Kind {
    pub(super) fn number(self) -> u16 {
        u16::from(NFNL_SUBSYS_NFTABLES) << 8 | self as u16
    }
}

/// Writes attributes. Numbers are big-endian, as everywhere in nf_tables.
#[derive(Debug)]
pub(super) struct Attrs<'a>(&'a mut Vec<u8>);

impl Attrs<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.head(kind, value.len());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.head(kind, value.len() + 1);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.pad();
        self
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Attrs<'_>)) -> &mut Self {
        let start = self.0.len();
        self.head(kind | NLA_F_NESTED, 0);
        body(&mut Attrs(self.0));
        let len = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        debug_assert!(len < u16::MAX, "an attribute holds 64 KiB at most");
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    fn head(&mut self, kind: u16, len: usize) {
        let len = u16::try_from(len + 4).unwrap_or(u16::MAX);
        debug_assert!(len < u16::MAX, "an attribute holds 64 KiB at most");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.0.resize(align4(self.0.len()), 0);
    }
}

/// A transaction: all of it, or nothing.
#[derive(Debug)]
pub(super) struct Batch<'n> {
    netlink: &'n mut Netlink,
    family: u8,
    buffer: Vec<u8>,
    /// What each message is about, in order, for errors.
    about: Vec<(u32, Cow<'static, str>)>,
    last_flags_at: usize,
}

/// A transaction the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{about}")]
pub(crate) struct BatchError {
    /// The first message that was refused.
    pub(crate) about: String,
    /// Why.
    #[source]
    pub(crate) refused: Refused,
}

impl<'n> Batch<'n> {
    pub(super) fn new(netlink: &'n mut Netlink, family: u8) -> Self {
        let mut batch =
            Self { netlink, family, buffer: Vec::with_capacity(1024), about: Vec::new(), last_flags_at: 0 };
        let seq = batch.netlink.next_seq();
        batch.raw(NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES.into(), seq, |_| {});
        batch.about.push((seq, "opening a transaction".into()));
        batch
    }

    /// Adds a message. `about` completes "the kernel refused ...".
    pub(super) fn message(
        &mut self,
        kind: Kind,
        flags: u16,
        about: impl Into<Cow<'static, str>>,
        body: impl FnOnce(&mut Attrs<'_>),
    ) {
        let seq = self.netlink.next_seq();
        self.about.push((seq, about.into()));
        self.last_flags_at = self.buffer.len() + 6;
        self.raw(kind.number(), flags, self.family, 0, seq, body);
    }

    /// Commits.
    pub(super) fn commit(self) -> Result<(), BatchError> {
        self.commit_echoed(|_, _| {})
    }

    /// Commits. `each` gets what messages with [`ECHO`] made: message type and attributes.
    pub(super) fn commit_echoed(mut self, mut each: impl FnMut(u16, &[u8])) -> Result<(), BatchError> {
        let Some((last, _)) = self.about.get(1..).and_then(<[_]>::last) else { return Ok(()) };
        let last = *last;
        // One acknowledgement says that all went well: errors come unasked.
        let flags = NLM_F_ACK
            | u16::from_ne_bytes([self.buffer[self.last_flags_at], self.buffer[self.last_flags_at + 1]]);
        self.buffer[self.last_flags_at..self.last_flags_at + 2].copy_from_slice(&flags.to_ne_bytes());
        let seq = self.netlink.next_seq();
        self.raw(NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES.into(), seq, |_| {});
        self.netlink
            .exchange(&self.buffer, last, |kind, payload| each(kind, payload.get(4..).unwrap_or_default()))
            .map_err(|refused| {
                let about = self.about.into_iter().find(|(seq, _)| *seq == refused.seq);
                BatchError {
                    about: about.map_or_else(|| "a transaction".into(), |(_, about)| about.into_owned()),
                    refused,
                }
            })
    }

    fn raw(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        seq: u32,
        body: impl FnOnce(&mut Attrs<'_>),
    ) {
        message(&mut self.buffer, kind, flags | NLM_F_REQUEST, family, resource, seq, body);
    }
}

fn message(
    buffer: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    family: u8,
    resource: u16,
    seq: u32,
    body: impl FnOnce(&mut Attrs<'_>),
) {
    let start = buffer.len();
    buffer.extend_from_slice(&0_u32.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(&flags.to_ne_bytes());
    buffer.extend_from_slice(&seq.to_ne_bytes());
    buffer.extend_from_slice(&0_u32.to_ne_bytes());
    // struct nfgenmsg
    buffer.extend_from_slice(&[family, 0]);
    buffer.extend_from_slice(&resource.to_be_bytes());
    body(&mut Attrs(buffer));
    let len = u32::try_from(buffer.len() - start).unwrap_or(u32::MAX);
    buffer[start..start + 4].copy_from_slice(&len.to_ne_bytes());
}

/// Asks for all objects of a kind. `each` gets the attributes of one object.
pub(super) fn dump(
    netlink: &mut Netlink,
    kind: Kind,
    family: u8,
    filter: impl FnOnce(&mut Attrs<'_>),
    mut each: impl FnMut(&[u8]),
) -> Result<(), Refused> {
    let seq = netlink.next_seq();
    let mut buffer = Vec::with_capacity(128);
    message(&mut buffer, kind.number(), NLM_F_REQUEST | NLM_F_DUMP, family, 0, seq, filter);
    netlink.exchange(&buffer, seq, |_, payload| each(payload.get(4..).unwrap_or_default()))
}
