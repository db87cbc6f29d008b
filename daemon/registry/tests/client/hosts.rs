// SPDX-License-Identifier: Apache-2.0
//! `hosts.toml`.

use berth_domain::Meaning;
use berth_registry::{Auth, Client};
use tempfile::TempDir;

use crate::support::{Server, config, manifest, reply, with};
use crate::tls::Authority;

/// A client with this `hosts.toml` for the server's registry.
fn client(registry: &str, text: &str) -> (TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join(registry);
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), text).unwrap();
    let mut config = config();
    config.certs_dirs = vec![dir.path().to_owned()];
    (dir, Client::new(config).unwrap())
}

#[tokio::test]
async fn mirrors_of_any_registry_in_order_and_without_credentials() {
    let without = Server::http(|_| reply(404, "")).await;
    let plain = Server::http(|_| manifest()).await;
    let upstream = Server::http(|_| manifest()).await;
    let text = format!(
        "[host.\"http://{}\"]\n[host.\"http://{}/base\"]\n  [host.\"http://{}/base\".header]\n  x-key = \"k\"\n",
        without.addr, plain.addr, plain.addr
    );
    let (_dir, client) = client(&upstream.addr.to_string(), &text);
    client.resolve(&upstream.reference("a:1"), &Auth::basic("me", "secret")).await.unwrap();
    let namespace = format!("?ns={}", upstream.addr);
    assert_eq!(without.paths(), [format!("/v2/a/manifests/1{namespace}")]);
    assert_eq!(without.seen()[0].header("x-key"), None, "one server's header is not shown to another");
    assert_eq!(plain.paths(), [format!("/base/v2/a/manifests/1{namespace}")]);
    assert_eq!(plain.seen()[0].header("x-key"), Some("k"));
    assert_eq!(plain.seen()[0].authorization(), None);
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn capabilities_and_paths() {
    let pulls = Server::http(|_| manifest()).await;
    let resolves = Server::http(|_| manifest()).await;
    let upstream = Server::http(|_| manifest()).await;
    let text = format!(
        "[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n[host.\"http://{}/instead\"]\ncapabilities = [\"resolve\"]\noverride_path = true\n",
        pulls.addr, resolves.addr
    );
    let (_dir, client) = client(&upstream.addr.to_string(), &text);
    let found = client.resolve(&upstream.reference("a:1"), &Auth::anonymous()).await.unwrap();
    assert_eq!(resolves.paths(), [format!("/instead/a/manifests/1?ns={}", upstream.addr)]);
    assert!(pulls.seen().is_empty());
    let reference = upstream.reference("a");
    client.manifest(&reference, &found.descriptor.digest, &Auth::anonymous()).await.unwrap();
    assert_eq!(pulls.seen().len(), 1);
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn the_server_is_the_registry_and_gets_its_credentials() {
    let elsewhere = Server::http(|seen| match seen.authorization() {
        Some("Basic bWU6c2VjcmV0") => manifest(),
        _ => with(reply(401, ""), "www-authenticate", "Basic realm=x"),
    })
    .await;
    let text = format!("server = \"http://{}\"", elsewhere.addr);
    let (_dir, client) = client("registry.test", &text);
    let reference = "registry.test/a:1".parse().unwrap();
    client.resolve(&reference, &Auth::basic("me", "secret")).await.unwrap();
    assert_eq!(elsewhere.paths(), ["/v2/a/manifests/1", "/v2/a/manifests/1"]);
    client.login("registry.test", &Auth::basic("me", "wrong")).await.unwrap_err();
}

#[tokio::test]
async fn authorities_and_skip_verify() {
    let ca = Authority::new();
    let server = Server::https(ca.server(false), |_| manifest()).await;
    for (text, fine) in [("", false), ("ca = \"ca.pem\"", true), ("skip_verify = true", true)] {
        // 127.0.0.1 is insecure by default: here it is not.
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("_default");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("ca.pem"), &ca.pem).unwrap();
        std::fs::write(own.join("hosts.toml"), format!("[host.\"https://{}\"]\n{text}\n", server.addr))
            .unwrap();
        let mut config = config();
        config.certs_dirs = vec![dir.path().to_owned()];
        config.loopback_is_insecure = false;
        let client = Client::new(config).unwrap();
        let found = client.resolve(&"127.0.0.1:1/a:1".parse().unwrap(), &Auth::anonymous()).await;
        assert_eq!(found.is_ok(), fine, "{text}: {found:?}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_stops_the_pull() {
    let upstream = Server::http(|_| manifest()).await;
    let (_dir, client) = client(&upstream.addr.to_string(), "server = 1");
    let error = client.resolve(&upstream.reference("a:1"), &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Internal);
    assert!(error.chain().contains("hosts.toml cannot be used: server"), "{}", error.chain());
    assert!(upstream.seen().is_empty());
}
