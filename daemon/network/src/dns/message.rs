// SPDX-License-Identifier: Apache-2.0
//! Questions and answers on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::{A, AAAA, OPT, PTR, RData};
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
};

use crate::dns::names::Asker;

/// Seconds for which an answer of ours holds, as long as the reference's. Others' answers are handed on as they come, with
/// the time that they hold; nothing is kept here.
const TTL: u32 = 600;
/// The largest UDP message that we say we take, and that we send: it passes every path unfragmented.
const EDNS: u16 = 1232;
/// What every resolver takes.
const PLAIN: u16 = 512;
/// Bytes of a header.
pub(crate) const HEADER: usize = 12;

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is no question.
    Ignore,
    /// This is the answer.
    Answer(Vec<u8>),
    /// Somebody else knows.
    Forward(Ask),
}

/// A question to be forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// As it came.
    pub(crate) query: Vec<u8>,
    /// Where its question ends.
    pub(crate) end: usize,
    /// The largest answer that the asker takes.
    pub(crate) limit: usize,
}

/// Looks at a message; `tcp` answers have no limit.
pub(crate) fn consider(asker: &Asker, bytes: &[u8], tcp: bool) -> Outcome {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Outcome::Ignore };
    if header[2] & 0x80 != 0 {
        return Outcome::Ignore;
    }
    let counts = [4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    // More than that no honest question has; it is not looked into.
    let plain = counts[0] == 1 && counts[1] == 0 && counts[2] == 0 && counts[3] <= 4;
    let parsed = if plain { Packet::parse(bytes).ok() } else { None };
    let (Some(query), Some(end)) = (parsed, question_end(bytes)) else {
        return Outcome::Answer(bare(header, 1));
    };
    if query.opcode() != OPCODE::StandardQuery {
        return Outcome::Answer(bare(header, 4));
    }
    let Some(question) = query.questions.first() else { return Outcome::Ignore };
    let limit = match (tcp, query.opt()) {
        (true, _) => usize::from(u16::MAX),
        (false, Some(opt)) => usize::from(opt.udp_packet_size.clamp(PLAIN, 4096)),
        (false, None) => usize::from(PLAIN),
    };
    if let Some(answers) = local(asker, question) {
        return match reply(&query, question, answers, limit) {
            Ok(bytes) => Outcome::Answer(bytes),
            Err(error) => {
                tracing::warn!(%error, "a name could not be answered");
                Outcome::Answer(failure(bytes, end))
            }
        };
    }
    Outcome::Forward(Ask { query: bytes.to_vec(), end, limit })
}

/// What we know ourselves; `None` is for others to say. A name that is known has no other records than those known.
fn local<'a>(asker: &Asker, question: &Question<'a>) -> Option<Vec<ResourceRecord<'a>>> {
    if question.qclass != QCLASS::CLASS(CLASS::IN) && question.qclass != QCLASS::ANY {
        return None;
    }
    let record = |rdata| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, rdata);
    let name = text(&question.qname)?;
    if let Some(ip) = reverse(&name) {
        let target = asker.name(ip)?;
        let target = Name::new(&target).ok()?.into_owned();
        let asked = matches!(question.qtype, QTYPE::TYPE(TYPE::PTR) | QTYPE::ANY);
        return Some(if asked { vec![record(RData::PTR(PTR(target)))] } else { Vec::new() });
    }
    let addresses = asker.addresses(&name)?;
    let asked = |kind| question.qtype == QTYPE::TYPE(kind) || question.qtype == QTYPE::ANY;
    let a = |ip: Ipv4Addr| record(RData::A(A { address: ip.into() }));
    let aaaa = |ip: Ipv6Addr| record(RData::AAAA(AAAA { address: ip.into() }));
    let v4 = addresses.v4.into_iter().filter(|_| asked(TYPE::A)).map(a);
    let v6 = addresses.v6.into_iter().filter(|_| asked(TYPE::AAAA)).map(aaaa);
    Some(v4.chain(v6).collect())
}

fn reply(
    query: &Packet<'_>,
    question: &Question<'_>,
    answers: Vec<ResourceRecord<'_>>,
    limit: usize,
) -> simple_dns::Result<Vec<u8>> {
    let build = |answers: Vec<ResourceRecord<'_>>, flags: PacketFlag| {
        let mut packet = Packet::new_reply(query.id());
        let asked = if query.has_flags(PacketFlag::RECURSION_DESIRED) {
            PacketFlag::RECURSION_DESIRED
        } else {
            PacketFlag::empty()
        };
        packet.set_flags(PacketFlag::RECURSION_AVAILABLE | asked | flags);
        *packet.rcode_mut() = RCODE::NoError;
        packet.questions.push(question.clone());
        packet.answers = answers;
        if query.opt().is_some() {
            *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: EDNS, version: 0 });
        }
        packet.build_bytes_vec_compressed()
    };
    let whole = build(answers, PacketFlag::empty())?;
    if whole.len() <= limit { Ok(whole) } else { build(Vec::new(), PacketFlag::TRUNCATION) }
}

/// A name as text without its last dot; `None` where it has bytes that no name of ours has.
fn text(name: &Name<'_>) -> Option<String> {
    let mut text = String::new();
    for label in name.get_labels() {
        let label = std::str::from_utf8(label.as_ref()).ok().filter(|l| !l.contains('.'))?;
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(label);
    }
    Some(text)
}

/// The address in a name beneath `in-addr.arpa` or `ip6.arpa`.
fn reverse(name: &str) -> Option<IpAddr> {
    let beneath = |zone: &str| {
        let at = name.len().checked_sub(zone.len())?;
        name.get(at..).filter(|end| end.eq_ignore_ascii_case(zone)).and_then(|_| name.get(..at))
    };
    if let Some(numbers) = beneath(".in-addr.arpa") {
        let ip: Ipv4Addr = numbers.parse().ok()?;
        return Some(Ipv4Addr::from(u32::from(ip).swap_bytes()).into());
    }
    let mut ip: u128 = 0;
    let mut count = 0;
    for digit in beneath(".ip6.arpa")?.rsplit('.') {
        let digit = (digit.len() == 1).then(|| u128::from_str_radix(digit, 16).ok()).flatten()?;
        ip = ip << 4 | digit;
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(ip).into())
}

/// Where the one question ends. Names in questions are not compressed.
fn question_end(bytes: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *bytes.get(at)? {
            0 => break,
            label @ 1..=63 => at += usize::from(label) + 1,
            _ => return None,
        }
    }
    Some(at + 5).filter(|end| *end <= bytes.len())
}

/// An answer of nothing but a header.
fn bare(header: &[u8; HEADER], code: u8) -> Vec<u8> {
    let mut answer = header.to_vec();
    answer[2] = 0x80 | (header[2] & 0x79);
    answer[3] = 0x80 | code;
    answer[4..].fill(0);
    answer
}

/// SERVFAIL: we could not find out, or it is not for this asker to know.
pub(crate) fn failure(query: &[u8], end: usize) -> Vec<u8> {
    let mut answer = query.get(..end).unwrap_or(query).to_vec();
    if answer.len() >= HEADER {
        answer[2] = 0x80 | (answer[2] & 0x79);
        answer[3] = 0x80 | 2;
        answer[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    }
    answer
}

/// Whether these bytes answer that question.
pub(crate) fn answers(ask: &Ask, id: [u8; 2], answer: &[u8]) -> bool {
    let same = |asked: &[u8], said: &[u8]| asked.eq_ignore_ascii_case(said);
    answer.len() >= ask.end
        && answer[..2] == id
        && answer[2] & 0x80 != 0
        && answer[4..6] == [0, 1]
        && same(&ask.query[HEADER..ask.end], &answer[HEADER..ask.end])
}

/// Whether a server said that it could not help.
pub(crate) fn is_failure(answer: &[u8]) -> bool {
    matches!(answer.get(3).map(|b| b & 0x0f), Some(2 | 4 | 5))
}

/// Another's answer as the asker gets it: under the number of his question, cut down to what he takes.
pub(crate) fn hand_on(ask: &Ask, mut answer: Vec<u8>) -> Vec<u8> {
    answer[..2].copy_from_slice(&ask.query[..2]);
    if answer.len() > ask.limit {
        answer.truncate(ask.end);
        answer[2] |= 0x02;
        answer[6..HEADER].fill(0);
    }
    answer
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
