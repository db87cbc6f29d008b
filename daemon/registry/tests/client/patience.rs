// SPDX-License-Identifier: Apache-2.0
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_domain::Meaning;
use berth_registry::{Auth, Client};

use crate::support::{MANIFEST, Server, broken_off, client, config, manifest, reply, stalling, with};

#[tokio::test]
async fn what_passes_is_waited_for() {
    let count = AtomicUsize::new(0);
    let server = Server::http(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => with(reply(429, ""), "retry-after", "0"),
        1 => reply(503, ""),
        _ => manifest(),
    })
    .await;
    client().resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap();
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_broken_connection_is_tried_again() {
    let count = AtomicUsize::new(0);
    let server = Server::http(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => broken_off(200, MANIFEST.len(), &MANIFEST.as_bytes()[..10]),
        _ => manifest(),
    })
    .await;
    let found = client().resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap();
    assert_eq!(found.body, MANIFEST);
}

#[tokio::test]
async fn patience_has_an_end() {
    let server = Server::http(|_| reply(502, "")).await;
    let error = client().resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unavailable);
    assert!(error.chain().contains("502 Bad Gateway"), "{}", error.chain());
    assert!(error.chain().contains(&server.addr.to_string()), "{}", error.chain());
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_registry_that_asks_for_an_hour_is_not_waited_for() {
    let server = Server::http(|_| {
        let body =
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
        with(reply(429, body), "retry-after", "3600")
    })
    .await;
    let error = client().resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unavailable);
    assert!(
        error.chain().contains("toomanyrequests: You have reached your pull rate limit."),
        "{}",
        error.chain()
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_registry_that_is_down_is_named() {
    let error = client().resolve(&"127.0.0.1:1/a:1".parse().unwrap(), &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unavailable);
    assert_eq!(
        error.chain(),
        "failed to resolve reference \"127.0.0.1:1/a:1\": registry 127.0.0.1:1 is not reachable: connection refused"
    );
}

#[tokio::test]
async fn a_stalled_manifest_is_given_up() {
    let server = Server::http(|_| stalling(200, 100, b"{")).await;
    let mut config = config();
    config.timeouts.idle = Duration::from_millis(100);
    let client = Client::new(config).unwrap();
    let error = client.resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unavailable);
    assert!(error.chain().contains("stalled: not a byte for 100ms"), "{}", error.chain());
}

#[tokio::test]
async fn a_server_that_never_answers_the_handshake_is_given_up() {
    // Accepts by its backlog and says nothing: TLS waits, then plain HTTP waits.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.timeouts.connect = Duration::from_millis(100);
    config.timeouts.idle = Duration::from_millis(100);
    config.retries.count = 0;
    let reference = format!("{}/a", silent.local_addr().unwrap()).parse().unwrap();
    let error = Client::new(config).unwrap().resolve(&reference, &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unavailable);
    assert!(error.chain().contains("stalled"), "{}", error.chain());
}
