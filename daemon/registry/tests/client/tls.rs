// SPDX-License-Identifier: Apache-2.0
//! HTTPS, and what it protects.

use std::sync::Arc;

use berth_domain::{Meaning, Reference};
use berth_registry::{Auth, Client, RegistryConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::support::{MANIFEST, Server, client, config, manifest, reply, with};

pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn leaf(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let cert =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (cert, key)
    }

    pub fn server(&self, wants_client: bool) -> rustls::ServerConfig {
        let (cert, key) = self.leaf("127.0.0.1");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if wants_client {
            let mut roots = rustls::RootCertStore::empty();
            roots
                .add(rustls::pki_types::pem::PemObject::from_pem_slice(self.pem.as_bytes()).unwrap())
                .unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        builder.with_single_cert(vec![cert.der().clone()], key).unwrap()
    }
}

/// Treats loopback like any other network.
fn strict() -> RegistryConfig {
    RegistryConfig { loopback_is_insecure: false, ..config() }
}

#[tokio::test]
async fn loopback_takes_any_certificate_and_prefers_tls() {
    let server = Server::https(Authority::new().server(false), |_| manifest()).await;
    let found = client().resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap();
    assert_eq!(found.body, MANIFEST);
}

#[tokio::test]
async fn an_unknown_authority_is_refused_once_and_for_all() {
    let server = Server::https(Authority::new().server(false), |_| manifest()).await;
    let client = Client::new(strict()).unwrap();
    let error = client.resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unavailable);
    assert!(error.chain().contains("invalid peer certificate"), "{}", error.chain());
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn plain_http_is_for_insecure_registries_only() {
    let server = Server::http(|_| manifest()).await;
    let reference: Reference = server.reference("a");
    let error = Client::new(strict()).unwrap().resolve(&reference, &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unavailable);
    assert!(server.seen().is_empty());
    let listed = RegistryConfig { insecure: vec![server.addr.to_string()], ..strict() };
    Client::new(listed).unwrap().resolve(&reference, &Auth::anonymous()).await.unwrap();
}

#[tokio::test]
async fn certs_d_adds_an_authority_and_an_identity() {
    let authority = Authority::new();
    let server = Server::https(authority.server(true), |_| manifest()).await;
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join(server.addr.to_string());
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("ca.crt"), &authority.pem).unwrap();
    let (cert, key) = authority.leaf("client");
    std::fs::write(host.join("client.cert"), cert.pem()).unwrap();
    std::fs::write(host.join("client.key"), key.serialize_pem()).unwrap();
    let config = RegistryConfig { certs_dirs: vec!["/nonexistent".into(), dir.path().into()], ..strict() };
    let client = Client::new(config.clone()).unwrap();
    client.resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap();

    std::fs::remove_file(host.join("client.key")).unwrap();
    let error =
        Client::new(config).unwrap().resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap_err();
    assert!(error.chain().contains("client.key"), "{}", error.chain());
}

/// A strict client that knows the authority of the servers it meets.
fn knowing(authority: &Authority, servers: &[&Server]) -> (Client, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    for server in servers {
        let host = dir.path().join(server.addr.to_string());
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("ca.crt"), &authority.pem).unwrap();
    }
    let config = RegistryConfig { certs_dirs: vec![dir.path().into()], ..strict() };
    (Client::new(config).unwrap(), dir)
}

#[tokio::test]
async fn https_never_turns_into_http() {
    let authority = Authority::new();
    let plain = Server::http(|_| manifest()).await;
    let location = format!("http://{}/v2/a/manifests/latest", plain.addr);
    let server =
        Server::https(authority.server(false), move |_| with(reply(307, ""), "location", &location)).await;
    let (client, _dir) = knowing(&authority, &[&server]);
    let error = client.resolve(&server.reference("a"), &Auth::basic("me", "secret")).await.unwrap_err();
    assert!(error.chain().contains("from HTTPS to plain HTTP"), "{}", error.chain());
    assert!(plain.seen().is_empty());
}

#[tokio::test]
async fn a_plain_realm_of_an_https_registry_gets_nothing() {
    let authority = Authority::new();
    let realm = Server::http(|_| reply(200, r#"{"token":"t"}"#)).await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", realm.addr);
    let server =
        Server::https(authority.server(false), move |_| with(reply(401, ""), "www-authenticate", &challenge))
            .await;
    let (client, _dir) = knowing(&authority, &[&server]);
    let error = client.resolve(&server.reference("a"), &Auth::basic("me", "secret")).await.unwrap_err();
    assert!(error.chain().contains("without TLS"), "{}", error.chain());
    assert!(realm.seen().is_empty());
}

#[tokio::test]
async fn an_https_realm_on_another_host_is_the_registrys_choice() {
    let authority = Authority::new();
    let realm = Server::https(authority.server(false), |_| reply(200, r#"{"token":"t"}"#)).await;
    let challenge = format!("Bearer realm=\"https://{}/token\"", realm.addr);
    let server = Server::https(authority.server(false), move |seen| match seen.authorization() {
        Some("Bearer t") => manifest(),
        _ => with(reply(401, ""), "www-authenticate", &challenge),
    })
    .await;
    let (client, _dir) = knowing(&authority, &[&server, &realm]);
    client.resolve(&server.reference("a"), &Auth::basic("me", "secret")).await.unwrap();
    assert_eq!(realm.seen()[0].authorization(), Some("Basic bWU6c2VjcmV0"));
}

#[tokio::test]
async fn an_unreachable_realm_does_not_turn_https_into_http() {
    let server = Server::https(Authority::new().server(false), |_| {
        with(reply(401, ""), "www-authenticate", "Bearer realm=\"https://127.0.0.1:1/token\"")
    })
    .await;
    let error = client().resolve(&server.reference("a"), &Auth::basic("me", "secret")).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unavailable);
    // Had plain HTTP been tried, the last word would be about the registry.
    assert!(error.chain().contains("127.0.0.1:1 is not reachable"), "{}", error.chain());
    assert_eq!(server.seen().len(), 3);
}
