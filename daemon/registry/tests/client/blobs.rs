// SPDX-License-Identifier: Apache-2.0
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_domain::Meaning;
use berth_registry::{Auth, Client};
use bytes::Bytes;

use crate::support::{
    Reply, Seen, Server, blob, broken_off, client, config, read_all, reply, stalling, with,
};

const CONTENT: &[u8] = b"0123456789abcdefghij";

fn from(seen: &Seen) -> usize {
    let range = seen.header("range").unwrap_or("bytes=0-");
    range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
}

fn part(seen: &Seen) -> Reply {
    match from(seen) {
        0 => reply(200, CONTENT),
        n => with(
            reply(206, &CONTENT[n..]),
            "content-range",
            &format!("bytes {n}-{}/{}", CONTENT.len() - 1, CONTENT.len()),
        ),
    }
}

#[tokio::test]
async fn a_blob_comes_whole_or_from_an_offset() {
    let server = Server::http(part).await;
    let (client, reference) = (client(), server.reference("a"));
    for offset in [0, 1, 19, 20] {
        let mut stream = client.blob(&reference, &blob(CONTENT), offset, &Auth::anonymous()).await.unwrap();
        assert_eq!(stream.offset(), offset);
        assert_eq!(read_all(&mut stream).await.unwrap(), CONTENT[usize::try_from(offset).unwrap()..]);
        assert_eq!(stream.offset(), stream.size());
        assert!(stream.chunk().await.unwrap().is_none(), "the end stays the end");
    }
    assert_eq!(server.seen().len(), 3, "nothing is asked for when nothing is left");
    let error = client.blob(&reference, &blob(CONTENT), 21, &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::InvalidInput);
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_broke() {
    let server = Server::http(|seen| match from(seen) {
        0 => broken_off(200, CONTENT.len(), &CONTENT[..5]),
        5 => with(broken_off(206, 15, &CONTENT[5..12]), "content-range", "bytes 5-19/20"),
        _ => part(seen),
    })
    .await;
    let mut stream =
        client().blob(&server.reference("a"), &blob(CONTENT), 0, &Auth::anonymous()).await.unwrap();
    assert_eq!(read_all(&mut stream).await.unwrap(), CONTENT);
    let ranges: Vec<usize> = server.seen().iter().map(from).collect();
    assert_eq!(ranges, [0, 5, 12]);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again_from_the_start() {
    let count = AtomicUsize::new(0);
    let server = Server::http(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => broken_off(200, CONTENT.len(), &CONTENT[..5]),
        _ => reply(200, CONTENT),
    })
    .await;
    let mut stream =
        client().blob(&server.reference("a"), &blob(CONTENT), 0, &Auth::anonymous()).await.unwrap();
    assert_eq!(read_all(&mut stream).await.unwrap(), CONTENT);
}

#[tokio::test]
async fn a_stall_is_mended_too() {
    let server = Server::http(|seen| match from(seen) {
        0 => stalling(200, CONTENT.len(), &CONTENT[..7]),
        _ => part(seen),
    })
    .await;
    let mut config = config();
    config.timeouts.idle = std::time::Duration::from_millis(200);
    let client = Client::new(config).unwrap();
    let mut stream =
        client.blob(&server.reference("a"), &blob(CONTENT), 0, &Auth::anonymous()).await.unwrap();
    assert_eq!(read_all(&mut stream).await.unwrap(), CONTENT);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_body_that_always_breaks_off_ends_in_an_error() {
    let server = Server::http(|seen| {
        let n = from(seen);
        let rest = CONTENT.len() - n;
        with(broken_off(206, rest, &CONTENT[n..=n]), "content-range", &format!("bytes {n}-19/20"))
    })
    .await;
    let mut stream =
        client().blob(&server.reference("a"), &blob(CONTENT), 1, &Auth::anonymous()).await.unwrap();
    let error = read_all(&mut stream).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unavailable);
    assert!(error.chain().contains(blob(CONTENT).digest.as_str()), "{}", error.chain());
    assert_eq!(server.seen().len(), 6, "a byte at a time is no progress");
}

#[tokio::test]
async fn other_lengths_and_parts_than_asked_for_are_refused() {
    type Case = (&'static str, fn() -> Reply);
    let cases: [Case; 6] = [
        ("shorter", || reply(200, &CONTENT[..10])),
        ("longer", || reply(200, [CONTENT, CONTENT].concat())),
        ("elsewhere", || with(reply(206, &CONTENT[6..]), "content-range", "bytes 6-19/20")),
        ("another total", || with(reply(206, &CONTENT[5..]), "content-range", "bytes 5-19/99")),
        ("no range", || reply(206, &CONTENT[5..])),
        ("endless", || {
            let mut endless = reply(200, Bytes::from(vec![b'x'; 4096]));
            endless.headers_mut().remove("content-length");
            endless
        }),
    ];
    for (name, answer) in cases {
        let server = Server::http(move |_| answer()).await;
        let error = match client().blob(&server.reference("a"), &blob(CONTENT), 5, &Auth::anonymous()).await {
            Ok(mut stream) => read_all(&mut stream).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.meaning(), Meaning::Internal, "{name}: {}", error.chain());
        assert_eq!(server.seen().len(), 1, "{name} is not tried again");
    }
}

#[tokio::test]
async fn a_missing_blob_is_not_found() {
    let server = Server::http(|_| reply(404, "")).await;
    let error =
        client().blob(&server.reference("a"), &blob(CONTENT), 0, &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::NotFound);
}
