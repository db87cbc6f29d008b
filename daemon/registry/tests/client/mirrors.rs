// SPDX-License-Identifier: Apache-2.0
use berth_domain::{Meaning, Reference};
use berth_registry::{Auth, Client};

use crate::support::{MANIFEST, Server, blob, broken_off, config, digest, manifest, read_all, reply, with};

fn client(mirrors: &[&Server], hub: &Server) -> Client {
    let mut config = config();
    config.mirrors = mirrors.iter().map(|m| format!("http://{}", m.addr)).collect();
    config.docker_hub = format!("http://{}", hub.addr);
    Client::new(config).unwrap()
}

fn busybox() -> Reference {
    "busybox:1".parse().unwrap()
}

#[tokio::test]
async fn the_first_mirror_that_has_it_is_enough() {
    let without = Server::http(|_| reply(404, "")).await;
    let with_it = Server::http(|_| manifest()).await;
    let hub = Server::http(|_| manifest()).await;
    let client = client(&[&without, &with_it], &hub);
    client.resolve(&busybox(), &Auth::anonymous()).await.unwrap();
    assert_eq!(without.paths(), ["/v2/library/busybox/manifests/1"]);
    assert_eq!(with_it.paths(), ["/v2/library/busybox/manifests/1"]);
    assert!(hub.seen().is_empty());
}

#[tokio::test]
async fn any_failure_of_a_mirror_leads_on() {
    let liar = digest(b"x");
    let mirrors = [
        Server::http(|_| reply(500, "")).await,
        Server::http(|_| reply(403, "")).await,
        Server::http(|_| with(reply(429, ""), "retry-after", "3600")).await,
        Server::http(|_| with(reply(401, ""), "www-authenticate", "Basic realm=x")).await,
        Server::http(move |_| with(manifest(), "docker-content-digest", liar.as_str())).await,
        Server::http(|_| broken_off(200, 100, b"{")).await,
        Server::http(|_| reply(200, "<html>a captive portal</html>")).await,
    ];
    let hub = Server::http(|_| manifest()).await;
    let client = client(&mirrors.iter().collect::<Vec<_>>(), &hub);
    let found = client.resolve(&busybox(), &Auth::basic("me", "secret")).await.unwrap();
    assert_eq!(found.body, MANIFEST);
    for (n, mirror) in mirrors.iter().enumerate() {
        assert_eq!(mirror.seen().len(), 1, "mirror {n} is asked once");
        assert_eq!(mirror.seen()[0].authorization(), None, "mirror {n} sees no credentials");
    }
}

#[tokio::test]
async fn a_mirror_that_is_down_leads_on_and_the_hubs_word_counts() {
    let hub = Server::http(|_| reply(404, "")).await;
    let down = Server::http(|_| manifest()).await;
    let mut config = config();
    config.mirrors = vec!["http://127.0.0.1:1".into()];
    config.docker_hub = format!("http://{}", hub.addr);
    drop(down);
    let error = Client::new(config).unwrap().resolve(&busybox(), &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::NotFound);
    assert_eq!(
        error.chain(),
        "failed to resolve reference \"docker.io/library/busybox:1\": docker.io/library/busybox:1: not found"
    );
}

#[tokio::test]
async fn a_blob_that_breaks_at_a_mirror_goes_on_at_the_hub() {
    let content = b"0123456789";
    let mirror = Server::http(move |_| broken_off(200, 10, &content[..4])).await;
    let hub = Server::http(move |_| with(reply(206, &content[4..]), "content-range", "bytes 4-9/10")).await;
    let client = client(&[&mirror], &hub);
    let mut stream = client.blob(&busybox(), &blob(content), 0, &Auth::anonymous()).await.unwrap();
    assert_eq!(read_all(&mut stream).await.unwrap(), content);
    assert_eq!(mirror.seen().len(), 1);
    assert_eq!(hub.seen()[0].header("range"), Some("bytes=4-"));
}

#[tokio::test]
async fn other_registries_have_no_mirrors() {
    let mirror = Server::http(|_| manifest()).await;
    let hub = Server::http(|_| manifest()).await;
    let other = Server::http(|_| manifest()).await;
    client(&[&mirror], &hub).resolve(&other.reference("a"), &Auth::anonymous()).await.unwrap();
    assert!(mirror.seen().is_empty() && hub.seen().is_empty());
    assert_eq!(other.seen().len(), 1);
}
