// SPDX-License-Identifier: Apache-2.0
//! Expressions that rules are made of. Only those that our table uses.

use super::encode::Attrs;
use crate::ipam::Family;

/// A register. `R1` and `R2` hold 16 bytes; `Word(n)` is the nth 4 bytes of the same memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reg {
    R1,
    R2,
    Word(u8),
}

impl Reg {
    fn number(self) -> u32 {
        match self {
            Self::R1 => 1,
            Self::R2 => 2,
            Self::Word(n) => 8 + u32::from(n),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Meta {
    InName = 6,
    OutName = 7,
    Family = 15,
    Protocol = 16,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Header {
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Ct {
    State = 0,
    Status = 2,
}

#[derive(Debug, Clone)]
pub(super) enum Expr {
    /// Load something about the packet.
    Meta(Meta, Reg),
    /// Load bytes of a header.
    Payload(Header, u32, u32, Reg),
    /// Load something about its connection.
    Ct(Ct, Reg),
    /// Load the kind of its destination address (`fib daddr type`).
    DestinationType(Reg),
    /// `reg & mask`, four bytes.
    Mask(Reg, u32),
    /// Go on if register 1 is this.
    Equals(Vec<u8>),
    /// Go on if register 1 is not this.
    Differs(Vec<u8>),
    /// Go on if register 1 is in a set.
    In(&'static str),
    /// Go on if register 1 is in a map, with its value in register 1.
    Map(&'static str),
    /// Rewrite the destination to the address from word 0 on and the port in the word behind it.
    Dnat(Family),
    /// Rewrite the destination's port to the one in word 0.
    DnatPort(Family),
    /// Load a value into register 1.
    Load(Vec<u8>),
    /// Rewrite the source to the leaving interface's address.
    Masquerade,
    Accept,
    Drop,
    Return,
    Jump(&'static str),
    Goto(&'static str),
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

impl Expr {
    pub(super) fn emit(&self, list: &mut Attrs<'_>) {
        // NFTA_LIST_ELEM { NFTA_EXPR_NAME, NFTA_EXPR_DATA }
        list.nest(1, |e| {
            e.text(1, self.name()).nest(2, |d| self.data(d));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta(..) => "meta",
            Self::Payload(..) => "payload",
            Self::Ct(..) => "ct",
            Self::DestinationType(_) => "fib",
            Self::Mask(..) => "bitwise",
            Self::Equals(_) | Self::Differs(_) => "cmp",
            Self::In(_) | Self::Map(_) => "lookup",
            Self::Dnat(_) | Self::DnatPort(_) => "nat",
            Self::Masquerade => "masq",
            Self::Load(_) | Self::Accept | Self::Drop | Self::Return | Self::Jump(_) | Self::Goto(_) => {
                "immediate"
            }
        }
    }

    fn data(&self, d: &mut Attrs<'_>) {
        let r1 = Reg::R1.number();
        match self {
            Self::Meta(key, reg) => {
                d.number(2, *key as u32).number(1, reg.number());
            }
            Self::Payload(header, offset, len, reg) => {
                d.number(1, reg.number()).number(2, *header as u32).number(3, *offset).number(4, *len);
            }
            Self::Ct(key, reg) => {
                d.number(2, *key as u32).number(1, reg.number());
            }
            Self::DestinationType(reg) => {
                // NFTA_FIB_F_DADDR, NFT_FIB_RESULT_ADDRTYPE
                d.number(3, 2).number(2, 3).number(1, reg.number());
            }
            Self::Mask(reg, mask) => {
                d.number(1, reg.number()).number(2, reg.number()).number(3, 4);
                d.nest(4, |v| {
                    v.bytes(1, &mask.to_ne_bytes());
                });
                d.nest(5, |v| {
                    v.bytes(1, &[0; 4]);
                });
            }
            Self::Equals(value) | Self::Differs(value) => {
                d.number(1, r1).number(2, matches!(self, Self::Differs(_)).into()).nest(3, |v| {
                    v.bytes(1, value);
                });
            }
            Self::In(set) => {
                d.text(1, set).number(2, r1);
            }
            Self::Map(map) => {
                d.text(1, map).number(2, r1).number(3, r1);
            }
            Self::Dnat(family) => {
                let words = match family {
                    Family::V4 => 1,
                    Family::V6 => 4,
                };
                let (address, port) = (r1, Reg::Word(words).number());
                d.number(1, 1).number(2, nfproto(*family).into());
                d.number(3, address).number(4, address).number(5, port).number(6, port);
            }
            Self::DnatPort(family) => {
                d.number(1, 1).number(2, nfproto(*family).into());
                d.number(5, r1).number(6, r1);
            }
            Self::Load(value) => {
                d.number(1, r1).nest(2, |v| {
                    v.bytes(1, value);
                });
            }
            Self::Masquerade => {}
            Self::Accept => verdict(d, 1, None),
            Self::Drop => verdict(d, 0, None),
            Self::Return => verdict(d, -5, None),
            Self::Jump(chain) => verdict(d, -3, Some(chain)),
            Self::Goto(chain) => verdict(d, -4, Some(chain)),
        }
    }
}

fn verdict(d: &mut Attrs<'_>, code: i32, chain: Option<&str>) {
    d.number(1, 0).nest(2, |data| {
        data.nest(2, |v| {
            v.bytes(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                v.text(2, chain);
            }
        });
    });
}

// What rules say often.

/// An interface's name as registers and set elements hold it.
pub(super) fn ifname(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let len = name.len().min(15);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

pub(super) fn in_name() -> Expr {
    Expr::Meta(Meta::InName, Reg::R1)
}

pub(super) fn out_name() -> Expr {
    Expr::Meta(Meta::OutName, Reg::R1)
}

/// The packet is of this family.
pub(super) fn is(family: Family) -> [Expr; 2] {
    [Expr::Meta(Meta::Family, Reg::R1), Expr::Equals(vec![nfproto(family)])]
}

/// The packet is of this protocol.
pub(super) fn is_protocol(number: u8) -> [Expr; 2] {
    [Expr::Meta(Meta::Protocol, Reg::R1), Expr::Equals(vec![number])]
}

/// The source address, from a register on.
pub(super) fn source(family: Family, into: Reg) -> Expr {
    match family {
        Family::V4 => Expr::Payload(Header::Network, 12, 4, into),
        Family::V6 => Expr::Payload(Header::Network, 8, 16, into),
    }
}

/// The destination address, from a register on.
pub(super) fn destination(family: Family, into: Reg) -> Expr {
    match family {
        Family::V4 => Expr::Payload(Header::Network, 16, 4, into),
        Family::V6 => Expr::Payload(Header::Network, 24, 16, into),
    }
}

/// What is loopback: the first byte is 127, or all of it is `::1`.
fn loopback(family: Family, load: Expr) -> Vec<Expr> {
    let compare = match (family, load) {
        (Family::V4, Expr::Payload(header, offset, _, reg)) => {
            [Expr::Payload(header, offset, 1, reg), Expr::Equals(vec![127])]
        }
        (_, load) => [load, Expr::Equals(std::net::Ipv6Addr::LOCALHOST.octets().to_vec())],
    };
    is(family).into_iter().chain(compare).collect()
}

/// The source is loopback.
pub(super) fn from_loopback(family: Family) -> Vec<Expr> {
    loopback(family, source(family, Reg::R1))
}

/// The destination is loopback.
pub(super) fn to_loopback(family: Family) -> Vec<Expr> {
    loopback(family, destination(family, Reg::R1))
}

/// `ct status dnat` (`IPS_DST_NAT`).
pub(super) fn was_dnat() -> [Expr; 3] {
    [Expr::Ct(Ct::Status, Reg::R1), Expr::Mask(Reg::R1, 1 << 5), Expr::Differs(vec![0; 4])]
}

/// `ct state established,related`.
pub(super) fn is_reply() -> [Expr; 3] {
    [Expr::Ct(Ct::State, Reg::R1), Expr::Mask(Reg::R1, 2 | 4), Expr::Differs(vec![0; 4])]
}

/// `fib daddr type local` (`RTN_LOCAL`).
pub(super) fn to_this_host() -> [Expr; 2] {
    [Expr::DestinationType(Reg::R1), Expr::Equals(2_u32.to_ne_bytes().to_vec())]
}
