// SPDX-License-Identifier: Apache-2.0
//! Who may enter a registry: token servers, private authorities, certificates of clients. The registry is Debian's
//! docker-registry, which checks what it is shown.

use std::path::Path;
use std::sync::Arc;

use berth_tests::harness::{
    Asked, Authority, Bed, IDENTITY, Issue, Output, Registry, TokenServer, Wanted, until,
};
use serde_json::json;

const SERVICE: &str = "tests registry";

fn good() -> Issue {
    Issue { audience: SERVICE.to_owned(), life: 600, said: 600 }
}

/// A registry that takes tokens, who signs them, and an image's name there.
fn with_tokens(bed: &Bed) -> (Registry, Arc<TokenServer>, String) {
    let authority = Authority::new(&bed.path().join("signer"));
    let certificate = authority.own().certificate;
    let tokens = TokenServer::open(&bed.netns, bed.path(), authority.own(), good());
    let wanted = Wanted { tokens: Some((&tokens.realm, SERVICE, &certificate)), ..Wanted::default() };
    let registry = Registry::with(bed, 5001, &bed.path().join("store"), &wanted);
    let there = tagged(bed, &registry.host);
    (registry, tokens, there)
}

/// As [`with_tokens`], with the image there and no longer here.
fn with_tokens_and_the_image(bed: &Bed) -> (Registry, Arc<TokenServer>, String) {
    let (registry, tokens, there) = with_tokens(bed);
    bed.docker(&["login", "-u", "u", "-p", "secret", &registry.host]).ok();
    bed.docker(&["push", &there]).ok();
    bed.docker(&["rmi", &there]).ok();
    (registry, tokens, there)
}

fn scopes(asked: &[Asked]) -> Vec<String> {
    let fields = asked.iter().flat_map(|a| a.fields.split('&'));
    fields
        .filter_map(|f| f.strip_prefix("scope="))
        .map(|s| s.replace("%3A", ":").replace("%2C", ",").replace("%2F", "/"))
        .collect()
}

#[test]
fn tokens_for_a_name_and_a_password() {
    let bed = Bed::start();
    let (registry, tokens, there) = with_tokens(&bed);
    let refused = bed.docker(&["push", &there]).fails(1);
    assert!(refused.contains("incorrect username or password") || refused.contains("denied"), "{refused}");
    let wrong = bed.docker(&["login", "-u", "u", "-p", "wrong", &registry.host]).fails(1);
    assert!(wrong.contains("incorrect username or password"), "{wrong}");
    assert!(
        bed.docker(&["login", "-u", "u", "-p", "secret", &registry.host]).ok().contains("Login Succeeded")
    );
    tokens.take_asked();
    bed.docker(&["push", &there]).ok();
    let asked = tokens.take_asked();
    let scopes = scopes(&asked);
    let fits = |actions: &str| scopes.iter().any(|s| s.contains(&format!("repository:a/busybox:{actions}")));
    assert!(fits("pull,push") || fits("push,pull"), "{asked:?}");
    bed.docker(&["rmi", &there]).ok();
    bed.docker(&["pull", &there]).ok();
    assert_eq!(bed.docker(&["run", "--rm", &there, "echo", "ok"]).ok(), "ok");
    // The API's own way, which hands the identity token to the client.
    let body = json!({"username": "u", "password": "secret", "serveraddress": registry.host}).to_string();
    let login = bed.api("POST", "/auth", &body);
    assert_eq!((login.status, &login.json()["Status"]), (200, &json!("Login Succeeded")), "{}", login.text());
    assert_eq!(login.json()["IdentityToken"], IDENTITY);
    drop(registry);
    bed.finish();
}

fn pull(bed: &Bed, image: &str, auth: &serde_json::Value) -> String {
    let secret = base64(auth.to_string().as_bytes());
    let headers = [("X-Registry-Auth", secret.as_str())];
    bed.api_with("POST", &format!("/images/create?fromImage={image}"), &headers, b"").text()
}

fn base64(text: &[u8]) -> String {
    use std::io::Write as _;
    let mut encode = std::process::Command::new("base64")
        .arg("-w0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    encode.stdin.take().unwrap().write_all(text).unwrap();
    String::from_utf8(encode.wait_with_output().unwrap().stdout).unwrap().replace('+', "-").replace('/', "_")
}

#[test]
fn an_identity_token_is_exchanged_and_the_password_not_needed() {
    let bed = Bed::start();
    let (registry, tokens, there) = with_tokens(&bed);
    bed.docker(&["login", "-u", "u", "-p", "secret", &registry.host]).ok();
    bed.docker(&["push", &there]).ok();
    bed.docker(&["rmi", &there]).ok();
    // Tokens of before must not help.
    let before = json!({"identitytoken": "another"});
    let said = pull(&bed, &there, &before);
    assert!(!said.contains("Downloaded") && said.contains("incorrect username or password"), "{said}");
    tokens.take_asked();
    let said = pull(&bed, &there, &json!({"identitytoken": IDENTITY, "serveraddress": registry.host}));
    assert!(said.contains("Downloaded newer image"), "{said}");
    let asked = tokens.take_asked();
    assert!(!asked.is_empty());
    for one in asked {
        assert_eq!((one.method.as_str(), &one.authorization), ("POST", &None), "{one:?}");
        assert!(one.fields.contains("grant_type=refresh_token"), "{one:?}");
    }
    drop(registry);
    bed.finish();
}

#[test]
fn tokens_that_the_registry_does_not_take() {
    let bed = Bed::start();
    let (registry, tokens, there) = with_tokens_and_the_image(&bed);
    let user = json!({"username": "u", "password": "secret"});
    // Each is another user to the engine, so that no token of before is used.
    for (case, issue) in [
        ("for somebody else", Issue { audience: "another".to_owned(), ..good() }),
        ("expired an hour ago", Issue { life: -3600, ..good() }),
    ] {
        tokens.issues(issue);
        tokens.take_asked();
        let said = pull(&bed, &there, &json!({"username": "u", "password": "secret", "email": case}));
        assert!(!said.contains("Downloaded"), "{case}: {said}");
        assert!(said.contains("unauthorized") || said.contains("denied"), "{case}: {said}");
        let asked = tokens.take_asked().len();
        assert!((1..=4).contains(&asked), "{case}: {asked} tokens were asked for");
        assert!(!said.contains("secret"), "{case}: {said}");
    }
    // And when they are good again, so is the pull.
    tokens.issues(good());
    let said = pull(&bed, &there, &user);
    assert!(said.contains("Downloaded newer image"), "{said}");
    drop(registry);
    bed.finish();
}

/// The token server says that a token lives for ten minutes, the registry finds it too old after two seconds.
#[test]
fn a_token_that_expires_is_replaced() {
    let bed = Bed::start();
    let (registry, tokens, there) = with_tokens_and_the_image(&bed);
    let user = json!({"username": "u", "password": "secret"});
    // The registry allows for clocks that are a minute apart.
    tokens.issues(Issue { life: -57, ..good() });
    let said = pull(&bed, &there, &user);
    assert!(said.contains("Downloaded newer image"), "{said}");
    let old = tokens.last().expect("a token");
    let host = registry.host.clone();
    let takes = || {
        let mut curl = std::process::Command::new("curl");
        curl.args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            &format!("Authorization: Bearer {old}"),
        ]);
        curl.arg(format!("http://{host}/v2/a/busybox/manifests/1"));
        bed.netns.place(&mut curl);
        Output::of(&mut curl).ok() != "401"
    };
    until("the token has expired", || (!takes()).then_some(()));
    tokens.issues(good());
    tokens.take_asked();
    let said = pull(&bed, &there, &user);
    assert!(said.contains("Image is up to date"), "{said}");
    assert!(!tokens.take_asked().is_empty(), "another token was asked for");
    drop(registry);
    bed.finish();
}

/// Not a loopback address, which may show any certificate.
const ADDRESS: &str = "192.0.2.10";

fn address(bed: &Bed) {
    let mut ip = std::process::Command::new("ip");
    ip.args(["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]);
    bed.netns.place(&mut ip);
    Output::of(&mut ip).ok();
}

fn tagged(bed: &Bed, host: &str) -> String {
    let there = format!("{host}/a/busybox:1");
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["tag", "busybox", &there]).ok();
    there
}

fn install(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

#[test]
fn a_private_authority_and_certificates_of_clients() {
    let bed = Bed::start();
    // The reference reads the host's own /etc/docker/certs.d only.
    if !bed.is_ours() {
        return;
    }
    address(&bed);
    let authority = Authority::new(&bed.path().join("authority"));
    let (server, client) = (authority.issue("server", Some(ADDRESS)), authority.issue("client", None));
    let ca = authority.own().certificate;
    let certs = |port: u16| bed.path().join(format!("certs.d/{ADDRESS}:{port}"));
    let wanted =
        Wanted { address: ADDRESS, tls: Some((&server.certificate, &server.key)), ..Wanted::default() };

    let registry = Registry::with(&bed, 5443, &bed.path().join("store"), &wanted);
    let there = tagged(&bed, &registry.host);
    let unknown = bed.docker(&["push", &there]).fails(1);
    assert!(unknown.contains("certificate"), "{unknown}");
    install(&ca, &certs(5443).join("ca.crt"));
    bed.docker(&["push", &there]).ok();
    bed.docker(&["rmi", &there]).ok();
    bed.docker(&["pull", &there]).ok();
    // Another authority does not do.
    let other = Authority::new(&bed.path().join("other"));
    install(&other.own().certificate, &certs(5443).join("ca.crt"));
    let stranger = bed.docker(&["pull", &there]).fails(1);
    assert!(stranger.contains("certificate"), "{stranger}");
    drop(registry);

    let wanted = Wanted { clients: Some(&ca), ..wanted };
    let registry = Registry::with(&bed, 5444, &bed.path().join("store"), &wanted);
    let there = tagged(&bed, &registry.host);
    install(&ca, &certs(5444).join("ca.crt"));
    let nobody = bed.docker(&["push", &there]).fails(1);
    assert!(nobody.to_lowercase().contains("certificate"), "{nobody}");
    install(&client.certificate, &certs(5444).join("client.cert"));
    install(&client.key, &certs(5444).join("client.key"));
    bed.docker(&["push", &there]).ok();
    bed.docker(&["rmi", &there]).ok();
    bed.docker(&["pull", &there]).ok();
    // A certificate that the authority did not sign.
    let stranger = other.issue("stranger", None);
    install(&stranger.certificate, &certs(5444).join("client.cert"));
    install(&stranger.key, &certs(5444).join("client.key"));
    let refused = bed.docker(&["pull", &there]).fails(1);
    assert!(refused.to_lowercase().contains("certificate") || refused.contains("UnknownCA"), "{refused}");
    drop(registry);
    bed.finish();
}

/// `insecure-registries`, and plain HTTP elsewhere than on loopback only with it.
#[test]
fn plain_http_only_where_it_is_allowed() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    address(&bed);
    let registry = Registry::with(
        &bed,
        5080,
        &bed.path().join("store"),
        &Wanted { address: ADDRESS, ..Wanted::default() },
    );
    let there = tagged(&bed, &registry.host);
    let refused = bed.docker(&["push", &there]).fails(1);
    assert!(!refused.is_empty());
    std::fs::write(
        bed.path().join("daemon.json"),
        json!({"insecure-registries": ["192.0.2.0/24"]}).to_string(),
    )
    .unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(bed.daemon_pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until("the setting is in force", || {
        let push = bed.docker(&["push", &there]);
        (push.code == 0).then_some(())
    });
    drop(registry);
    bed.finish();
}
