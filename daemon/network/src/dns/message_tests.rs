// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};

use berth_domain::ContainerId;

use super::*;
use crate::books::{Books, Held};
use crate::predefined::blank;
use crate::{Driver, EndpointRecord, SandboxRecord};

fn id(n: u8) -> ContainerId {
    ContainerId::from_bytes([n; 32])
}

fn put(books: &mut Books, n: u8, name: &str, on: &[(&str, &str, [u8; 4], &[&str])]) {
    let endpoint = |(id, network, ip, aliases): &(&str, &str, [u8; 4], &[&str])| -> EndpointRecord {
        let text = serde_json::json!({
            "network_id": id, "network_name": network, "endpoint_id": "", "aliases": aliases, "ipv4": Ipv4Addr::from(*ip),
        });
        serde_json::from_value(text).unwrap()
    };
    let record = SandboxRecord {
        name: name.into(),
        hostname: format!("h-{name}"),
        endpoints: on.iter().map(endpoint).collect(),
        ..SandboxRecord::default()
    };
    books.put(id(n), Held { record, ..Held::default() });
}

/// `one` and `two` are networks of the user's; the container 1 is on `one` and on the default bridge.
fn asker() -> Asker {
    let mut books = Books::default();
    let mut ids = Vec::new();
    for name in ["one", "two", "bridge"] {
        let network = blank(name, Driver::Bridge).unwrap();
        ids.push(network.id.clone());
        books.add_network(network);
    }
    let [one, two, bridge] = ids.iter().map(String::as_str).collect::<Vec<_>>()[..] else { panic!() };
    put(&mut books, 1, "asker", &[(one, "one", [10, 0, 0, 1], &[]), (bridge, "bridge", [10, 0, 9, 1], &[])]);
    put(&mut books, 2, "Web.1", &[(one, "one", [10, 0, 0, 2], &["svc"])]);
    put(&mut books, 3, "other", &[(one, "one", [10, 0, 0, 3], &["svc"])]);
    put(&mut books, 4, "apart", &[(two, "two", [10, 0, 1, 4], &["svc"])]);
    {
        // The container 1 has a name of its own for another; that one has IPv6 too.
        let asker = books.sandbox_mut(&id(1)).unwrap();
        asker.endpoints[0].links.push(("Db".into(), "other".into()));
        let other = books.sandbox_mut(&id(3)).unwrap();
        (other.endpoints[0].ipv6, other.endpoints[0].ipv6_prefix) = (Some("fd00::3".parse().unwrap()), 64);
        for n in [1, 2, 3, 4] {
            books.sandbox_mut(&id(n)).unwrap().endpoints.iter_mut().for_each(|e| e.ipv4_prefix = 24);
        }
    }
    put(&mut books, 5, "plain", &[(bridge, "bridge", [10, 0, 9, 5], &[])]);
    Asker { books: Arc::new(Mutex::new(books)), container: id(1) }
}

fn query(name: &str, kind: TYPE, edns: Option<u16>) -> Vec<u8> {
    let mut packet = Packet::new_query(0x1234);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).unwrap();
    packet.questions.push(Question::new(name, kind.into(), CLASS::IN.into(), false));
    if let Some(udp_packet_size) = edns {
        *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size, version: 0 });
    }
    packet.build_bytes_vec().unwrap()
}

/// The addresses or name in an answer of ours; `None` if it is for others to say.
fn ask(asker: &Asker, name: &str, kind: TYPE) -> Option<Vec<String>> {
    match consider(asker, &query(name, kind, Some(4096)), false) {
        Outcome::Ignore => panic!("ignored"),
        Outcome::Forward(_) => None,
        Outcome::Answer(bytes) => {
            let packet = Packet::parse(&bytes).unwrap();
            assert_eq!((packet.id(), packet.rcode()), (0x1234, RCODE::NoError));
            assert!(packet.has_flags(
                PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE
            ));
            assert_eq!(packet.questions[0].qname.to_string(), name);
            assert!(packet.opt().is_some());
            let shown = packet.answers.iter().map(|record| match &record.rdata {
                RData::A(a) => Ipv4Addr::from(a.address).to_string(),
                RData::AAAA(aaaa) => std::net::Ipv6Addr::from(aaaa.address).to_string(),
                RData::PTR(name) => name.0.to_string(),
                other => panic!("{other:?}"),
            });
            let mut shown: Vec<String> = shown.collect();
            shown.sort();
            Some(shown)
        }
    }
}

#[test]
fn names_within_sight() {
    let asker = asker();
    let a = |name: &str| ask(&asker, name, TYPE::A);
    let is = |ip: &str| Some(vec![ip.to_owned()]);
    assert_eq!(a("other"), is("10.0.0.3"));
    assert_eq!(a("OTHER"), is("10.0.0.3"));
    assert_eq!(a("other.one"), is("10.0.0.3"));
    assert_eq!(a("web.1"), is("10.0.0.2"));
    assert_eq!(a("web.1.One"), is("10.0.0.2"));
    assert_eq!(a("h-other"), is("10.0.0.3"));
    assert_eq!(a(id(3).short()), is("10.0.0.3"));
    assert_eq!(a("svc"), Some(vec!["10.0.0.2".into(), "10.0.0.3".into()]));
    for beyond in ["apart", "other.two", "plain", "example.com", "one", ".one"] {
        if beyond != ".one" {
            assert_eq!(a(beyond), None, "{beyond}");
        }
    }
}

#[test]
fn other_records() {
    let asker = asker();
    assert_eq!(ask(&asker, "web.1", TYPE::AAAA), Some(vec![]), "known, and without such an address");
    assert_eq!(ask(&asker, "other", TYPE::AAAA), Some(vec!["fd00::3".into()]));
    for own in ["db", "DB"] {
        assert_eq!(ask(&asker, own, TYPE::A), Some(vec!["10.0.0.3".into()]));
    }
    let others = Asker { container: id(2), ..asker.clone() };
    assert_eq!(
        ask(&others, "db", TYPE::A),
        None,
        "a name that one container has for another is nobody else's"
    );
    assert_eq!(ask(&asker, "other", TYPE::MX), Some(vec![]));
    let ptr = |name: &str| ask(&asker, name, TYPE::PTR);
    assert_eq!(ptr("3.0.0.10.in-addr.arpa"), Some(vec!["other.one".into()]));
    assert_eq!(ptr("3.0.0.10.IN-ADDR.ARPA"), Some(vec!["other.one".into()]));
    assert_eq!(ptr("4.1.0.10.in-addr.arpa"), None);
    let zeros = "0.".repeat(27);
    assert_eq!(ptr(&format!("3.{zeros}0.d.f.ip6.arpa")), None, "a digit is missing");
    assert_eq!(ptr(&format!("3.0.{zeros}0.d.f.ip6.arpa")), Some(vec!["other.one".into()]));
}

#[test]
fn what_is_too_long_is_cut() {
    let asker = asker();
    {
        let mut books = asker.books.lock().unwrap();
        let one = books.by_name("one").unwrap().id.clone();
        for n in 10..110 {
            put(&mut books, n, &format!("c{n}"), &[(&one, "one", [10, 0, 2, n], &["many"])]);
        }
    }
    let answer = |edns, tcp| match consider(&asker, &query("many", TYPE::A, edns), tcp) {
        Outcome::Answer(bytes) => bytes,
        other => panic!("{other:?}"),
    };
    let cut = answer(None, false);
    assert!(cut.len() <= 512);
    assert!(Packet::parse(&cut).unwrap().has_flags(PacketFlag::TRUNCATION));
    assert_eq!(Packet::parse(&answer(Some(4096), false)).unwrap().answers.len(), 100);
    assert_eq!(Packet::parse(&answer(None, true)).unwrap().answers.len(), 100);
}

#[test]
fn what_is_no_question() {
    let asker = asker();
    assert_eq!(consider(&asker, b"short", false), Outcome::Ignore);
    let good = query("other", TYPE::A, None);
    let mut answer = good.clone();
    answer[2] |= 0x80;
    assert_eq!(consider(&asker, &answer, false), Outcome::Ignore);
    let code = |bytes: &[u8]| match consider(&asker, bytes, false) {
        Outcome::Answer(answer) => answer[3] & 0x0f,
        other => panic!("{other:?}"),
    };
    let mut two = good.clone();
    two[5] = 2;
    assert_eq!(code(&two), 1);
    let mut many = good.clone();
    many[7] = 200;
    assert_eq!(code(&many), 1);
    assert_eq!(code(&good[..good.len() - 1]), 1);
    let mut update = good.clone();
    update[2] |= 5 << 3;
    assert_eq!(code(&update), 4);
}

#[test]
fn only_the_answer_is_taken_for_it() {
    let Outcome::Forward(ask) = consider(&asker(), &query("Example.com", TYPE::A, None), false) else {
        panic!("forwarded");
    };
    assert_eq!((ask.limit, ask.end), (512, ask.query.len()));
    let answer = failure(&ask.query, ask.end);
    let id = [0x12, 0x34];
    assert!(answers(&ask, id, &answer) && is_failure(&answer));
    assert!(answers(&ask, id, &answer.to_ascii_uppercase()));
    assert!(!answers(&ask, [0, 0], &answer));
    assert!(!answers(&ask, id, &ask.query), "a question is no answer");
    assert!(!answers(&ask, id, &answer[..HEADER]));
    let other = failure(&query("example.org", TYPE::A, None), ask.end);
    assert!(!answers(&ask, id, &other));
    let mut long = answer;
    long.resize(600, 0);
    long[..2].copy_from_slice(&[9, 9]);
    let cut = hand_on(&ask, long);
    assert_eq!((cut.len(), &cut[..2], cut[2] & 2), (ask.end, &id[..], 2));
}

proptest::proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let asker = asker();
        let mut shaped = query("other", TYPE::A, Some(4096));
        let at = shaped.len().min(bytes.len());
        shaped[HEADER..at.max(HEADER)].iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
        for message in [&bytes, &shaped] {
            drop(consider(&asker, message, false));
        }
    }

    #[test]
    fn nothing_that_is_almost_right_panics(
        changes in proptest::collection::vec((0_usize..80, proptest::num::u8::ANY), 0..8),
        more in proptest::collection::vec(proptest::num::u8::ANY, 0..2000),
        length in 0_usize..2100,
    ) {
        let spoil = |message: &[u8]| {
            let mut message = message.to_vec();
            for (at, byte) in &changes {
                message.get_mut(*at).into_iter().for_each(|to| *to = *byte);
            }
            message.extend(&more);
            message.truncate(length);
            message
        };
        let asker = asker();
        let question = query("example.com", TYPE::A, Some(1232));
        for tcp in [false, true] {
            drop(consider(&asker, &spoil(&question), tcp));
        }
        let Outcome::Forward(ask) = consider(&asker, &question, false) else { panic!("forwarded") };
        let answer = spoil(&failure(&ask.query, ask.end));
        if answers(&ask, [0x12, 0x34], &answer) {
            proptest::prop_assert!(!is_failure(&answer) || answer[3] & 15 > 0);
            proptest::prop_assert!(hand_on(&ask, answer).len() <= ask.limit);
        }
    }
}
