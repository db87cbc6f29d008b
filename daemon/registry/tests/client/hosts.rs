// SPDX-License-Identifier: Apache-2.0
//! `hosts.toml`.

use berth_domain::Meaning;
use berth_registry::{Auth, Client};
use tempfile::TempDir;

use crate::support::{Seen, Server, config, digest, manifest, reply, with};
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
    // It may be that of other registries as well.
    assert_eq!(elsewhere.paths(), ["/v2/a/manifests/1?ns=registry.test"; 2]);
    client.login("registry.test", &Auth::basic("me", "wrong")).await.unwrap_err();
}

#[tokio::test]
async fn the_defaults_server_is_a_mirror_of_all_and_sees_no_password() {
    let wanting = |seen: &Seen| match seen.authorization() {
        None => with(reply(401, ""), "www-authenticate", "Basic realm=x"),
        Some(_) => manifest(),
    };
    let default = Server::http(wanting).await;
    let registries = [Server::http(wanting).await, Server::http(wanting).await];
    let (_dir, client) = client("_default", &format!("server = \"http://{}\"", default.addr));
    let me = Auth::basic("me", "secret");
    for registry in &registries {
        client.resolve(&registry.reference("a/b:1"), &me).await.unwrap();
        client.login(&registry.addr.to_string(), &me).await.unwrap();
        assert!(client.has_manifest(&registry.reference("a/b"), &digest(b"x"), &me).await.unwrap());
        assert!(registry.seen().iter().any(|s| s.authorization().is_some()));
    }
    let asked = registries.each_ref().map(|r| format!("/v2/a/b/manifests/1?ns={}", r.addr));
    assert_eq!(
        default.paths(),
        asked,
        "each registry's repository is its own there, and nothing else is asked"
    );
    assert!(default.seen().iter().all(|s| s.authorization().is_none()));
    // For itself it is what it is.
    client.resolve(&default.reference("a:1"), &me).await.unwrap();
    assert_eq!(default.paths()[2..], ["/v2/a/manifests/1", "/v2/a/manifests/1"]);
}

#[tokio::test]
async fn a_token_server_beside_the_registry_is_trusted_as_it_is() {
    let ca = Authority::new();
    let server = Server::https(ca.server(true), |seen| match seen.path.split('?').next().unwrap() {
        "/token" => reply(200, r#"{"token":"t"}"#),
        _ if seen.authorization() == Some("Bearer t") => manifest(),
        _ => {
            let challenge = format!("Bearer realm=\"https://{}/token\"", seen.header("host").unwrap());
            with(reply(401, ""), "www-authenticate", &challenge)
        }
    })
    .await;
    let (cert, key) = ca.leaf("client");
    for trust in ["ca = \"../ca.pem\"", "skip_verify = true"] {
        let text = format!(
            "server = \"https://{}\"\nclient = [[\"../cert.pem\", \"../key.pem\"]]\n{trust}\n[header]\nx-key = \"k\"\n",
            server.addr
        );
        let (dir, _) = client("registry.test", &text);
        for (name, pem) in
            [("ca.pem", ca.pem.clone()), ("cert.pem", cert.pem()), ("key.pem", key.serialize_pem())]
        {
            std::fs::write(dir.path().join(name), pem).unwrap();
        }
        let mut config = config();
        config.certs_dirs = vec![dir.path().to_owned()];
        config.loopback_is_insecure = false;
        let client = Client::new(config).unwrap();
        let me = Auth::basic("me", "secret");
        client.login("registry.test", &me).await.unwrap();
        client.resolve(&"registry.test/a:1".parse().unwrap(), &me).await.unwrap();
        let exchanged = Auth { identity_token: "refresh".into(), ..Auth::default() };
        client.resolve(&"registry.test/a:1".parse().unwrap(), &exchanged).await.unwrap();
    }
    let (tokens, registry): (Vec<_>, Vec<_>) =
        server.seen().into_iter().partition(|s| s.path.starts_with("/token"));
    assert_eq!(tokens.len(), 6);
    assert!(tokens.iter().all(|s| s.header("x-key").is_none()));
    assert!(registry.iter().all(|s| s.header("x-key") == Some("k")));
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
