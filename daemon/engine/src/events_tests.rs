// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;

fn filters(text: &str) -> Filters {
    Filters::parse(text).expect(text)
}

fn stream(bus: &Bus, since: Option<i64>, text: &str) -> EventStream {
    let (replay, live) = bus.subscribe(since);
    EventStream { replay, live, filters: filters(text), until: None, deadline: None }
}

fn tell(bus: &Bus, action: &str) {
    let attributes =
        BTreeMap::from([("image".to_owned(), "busybox:1".to_owned()), ("name".to_owned(), "ev".to_owned())]);
    bus.publish(EventKind::Container, action, "abc123", attributes);
}

#[tokio::test]
async fn each_event_is_seen_once_in_the_replay_or_live() {
    let bus = Bus::new();
    tell(&bus, "create");
    let mut all = stream(&bus, Some(i64::MIN), "");
    let mut live = stream(&bus, None, "");
    tell(&bus, "start");
    assert_eq!(all.next().await.unwrap().action, "create");
    assert_eq!(all.next().await.unwrap().action, "start");
    assert_eq!(live.next().await.unwrap().action, "start");
    bus.close();
    assert!(all.next().await.is_none() && live.next().await.is_none());
}

#[tokio::test]
async fn only_the_last_are_remembered_and_a_slow_reader_misses_some() {
    let bus = Bus::new();
    let mut slow = stream(&bus, None, "");
    for n in 0..2000 {
        tell(&bus, &format!("n{n}"));
    }
    let mut replay = stream(&bus, Some(i64::MIN), "");
    assert_eq!(replay.next().await.unwrap().action, format!("n{}", 2000 - REMEMBERED));
    let first = slow.next().await.unwrap();
    assert_eq!(first.action, format!("n{}", 2000 - QUEUED));
}

#[test]
fn times_never_go_back() {
    let bus = Bus::new();
    for _ in 0..100 {
        tell(&bus, "x");
    }
    let (replay, _live) = bus.subscribe(Some(i64::MIN));
    assert!(replay.iter().zip(replay.iter().skip(1)).all(|(a, b)| a.time < b.time));
}

#[test]
fn filters_choose() {
    let event = Event {
        kind: EventKind::Container,
        action: "exec_create: sh".into(),
        actor: "abc123".into(),
        attributes: BTreeMap::from([
            ("image".to_owned(), "busybox:1".to_owned()),
            ("name".to_owned(), "ev".to_owned()),
            ("l".to_owned(), "1".to_owned()),
        ]),
        time: 0,
    };
    let check = |text: &str, wanted: bool| assert_eq!(passes(&filters(text), &event), wanted, "{text}");
    check("", true);
    check(r#"{"type":["container"]}"#, true);
    check(r#"{"type":["image"]}"#, false);
    check(r#"{"event":["exec_create"]}"#, true);
    check(r#"{"event":["exec_create: sh"]}"#, true);
    check(r#"{"event":["exec_start"]}"#, false);
    check(r#"{"container":["abc"]}"#, true);
    check(r#"{"container":["ev"]}"#, true);
    check(r#"{"container":["other"]}"#, false);
    check(r#"{"image":["busybox"]}"#, true);
    check(r#"{"image":["busybox:1"]}"#, true);
    check(r#"{"image":["busybox:2"]}"#, false);
    check(r#"{"label":["l=1"]}"#, true);
    check(r#"{"label":["l=2"]}"#, false);
}
