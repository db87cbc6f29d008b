// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_domain::Meaning;
use berth_registry::{Auth, Client};

use crate::support::{Reply, Seen, Server, blob, client, config, manifest, read_all, reply, with};

/// A registry that wants `Bearer <expected>` and names a realm on the same server.
fn bearer_registry(seen: &Seen, expected: &str) -> Reply {
    if seen.authorization() == Some(&format!("Bearer {expected}")) {
        return manifest();
    }
    let challenge = format!(
        "Bearer realm=\"http://{}/token?x=1\",service=\"the, service\",scope=\"repository:a:pull,push\"",
        seen.header("host").unwrap()
    );
    with(reply(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#), "www-authenticate", &challenge)
}

fn user() -> Auth {
    Auth::basic("me", "secret")
}

const ME: &str = "Basic bWU6c2VjcmV0";

#[tokio::test]
async fn a_token_is_bought_once_for_a_scope() {
    let server = Server::http(|seen| match seen.path.split('?').next().unwrap() {
        "/token" => reply(200, r#"{"token":"t1","expires_in":300}"#),
        _ => bearer_registry(seen, "t1"),
    })
    .await;
    let client = client();
    client.resolve(&server.reference("a:1"), &user()).await.unwrap();
    client.resolve(&server.reference("a:2"), &user()).await.unwrap();
    assert_eq!(
        server.paths(),
        [
            "/v2/a/manifests/1",
            "/token?x=1&service=the,%20service&scope=repository:a:pull,push&account=me&client_id=berth",
            "/v2/a/manifests/1",
            "/v2/a/manifests/2",
        ]
    );
    let seen = server.seen();
    assert_eq!(seen[0].authorization(), None, "credentials are not offered before they are asked for");
    assert_eq!(seen[1].authorization(), Some(ME));
    client.resolve(&server.reference("a:3"), &Auth::basic("other", "pw")).await.unwrap();
    assert_eq!(server.seen()[4].authorization(), None, "another user does not get the token");
}

#[tokio::test]
async fn an_expired_token_is_replaced() {
    let issued = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&issued);
    let server = Server::http(move |seen| match seen.path.split('?').next().unwrap() {
        "/token" => {
            reply(200, format!(r#"{{"access_token":"t{}"}}"#, count.fetch_add(1, Ordering::SeqCst) + 1))
        }
        // The first token is good for one manifest only.
        "/v2/a/manifests/1" => bearer_registry(seen, "t1"),
        _ => bearer_registry(seen, "t2"),
    })
    .await;
    let client = client();
    client.resolve(&server.reference("a:1"), &Auth::anonymous()).await.unwrap();
    client.resolve(&server.reference("a:2"), &Auth::anonymous()).await.unwrap();
    assert_eq!(issued.load(Ordering::SeqCst), 2);
    assert!(server.seen().iter().all(|s| s.authorization().is_none_or(|a| a.starts_with("Bearer"))));
}

#[tokio::test]
async fn endless_401_ends() {
    let server = Server::http(|seen| match seen.path.split('?').next().unwrap() {
        "/token" => reply(200, r#"{"token":"useless"}"#),
        _ => bearer_registry(seen, "never"),
    })
    .await;
    let error = client().resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap_err();
    assert_eq!(server.seen().len(), 3, "{:?}", server.paths());
    assert_eq!(error.meaning(), Meaning::NotFound);
    let expected = format!(
        "pull access denied for {}/a, repository does not exist or may require 'docker login': unauthorized",
        server.addr
    );
    assert_eq!(error.chain(), expected);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let server = Server::http(|seen| match seen.path.split('?').next().unwrap() {
        "/token" if seen.method == http::Method::POST => reply(200, r#"{"access_token":"t1"}"#),
        "/token" => reply(405, ""),
        _ => bearer_registry(seen, "t1"),
    })
    .await;
    let auth = Auth { identity_token: "re/fresh&me".into(), username: "<token>".into(), ..Auth::default() };
    client().resolve(&server.reference("a"), &auth).await.unwrap();
    let post = &server.seen()[1];
    assert_eq!(post.authorization(), None);
    let form = String::from_utf8(post.body.to_vec()).unwrap();
    assert_eq!(
        form,
        "grant_type=refresh_token&refresh_token=re/fresh%26me&service=the,%20service&scope=repository:a:pull,push&client_id=berth"
    );
}

#[tokio::test]
async fn a_registry_token_is_sent_as_it_is() {
    let server = Server::http(|seen| bearer_registry(seen, "mine")).await;
    let auth = Auth { registry_token: "mine".into(), ..Auth::default() };
    client().resolve(&server.reference("a"), &auth).await.unwrap();
    assert_eq!(server.seen().len(), 2);
}

fn basic_registry(seen: &Seen) -> Reply {
    if seen.authorization() == Some(ME) {
        return manifest();
    }
    with(reply(401, ""), "www-authenticate", "Basic realm=\"r\"")
}

#[tokio::test]
async fn basic_authentication() {
    let server = Server::http(basic_registry).await;
    let client = client();
    client.resolve(&server.reference("a:1"), &user()).await.unwrap();
    client.resolve(&server.reference("a:2"), &user()).await.unwrap();
    assert_eq!(server.seen().len(), 3, "what worked is sent at once the next time");

    let error = client.resolve(&server.reference("a"), &Auth::basic("me", "wrong")).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unauthorized);
    assert!(error.chain().ends_with("unauthorized: authentication required"), "{}", error.chain());
    let error = client.resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unauthorized);
    assert!(error.chain().ends_with("no basic auth credentials"), "{}", error.chain());
}

#[tokio::test]
async fn a_realm_that_refuses_is_unauthorized() {
    let server = Server::http(|seen| match seen.path.split('?').next().unwrap() {
        "/token" => reply(401, r#"{"details":"incorrect username or password"}"#),
        _ => bearer_registry(seen, "never"),
    })
    .await;
    let error = client().resolve(&server.reference("a"), &user()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unauthorized);
    assert!(error.chain().ends_with("incorrect username or password"), "{}", error.chain());
}

#[tokio::test]
async fn an_evil_realm_gets_nothing() {
    let thief = Server::http(|_| reply(200, r#"{"token":"t"}"#)).await;
    for realm in
        ["http://evil.example/token", "http://10.0.0.1/token", "ftp://127.0.0.1/", "not a url", "//x"]
    {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
        let server = Server::http(move |_| with(reply(401, ""), "www-authenticate", &challenge)).await;
        let error = client().resolve(&server.reference("a"), &user()).await.unwrap_err();
        assert_eq!(error.meaning(), Meaning::Internal, "{realm}: {}", error.chain());
        assert_eq!(server.seen().len(), 1, "{realm}");
    }
    assert!(thief.seen().is_empty());
}

#[tokio::test]
async fn a_login_does_not_follow_a_redirect_to_a_realm_elsewhere() {
    let thief = Server::http(|seen| match seen.path.split('?').next().unwrap() {
        "/token" => reply(200, r#"{"token":"t"}"#),
        _ => bearer_registry(seen, "t"),
    })
    .await;
    let there = format!("http://{}/v2/", thief.addr);
    let server = Server::http(move |_| with(reply(307, ""), "location", &there)).await;
    client().login(&server.addr.to_string(), &user()).await.unwrap_err();
    assert!(thief.seen().iter().all(|s| s.authorization().is_none() && !s.path.starts_with("/token")));
}

#[tokio::test]
async fn a_redirect_to_another_host_loses_authorization() {
    let content = b"bytes of a blob";
    let cdn = Server::http(move |_| reply(200, &content[..])).await;
    let target = format!("http://{}/signed?x=y", cdn.addr);
    let server = Server::http(move |seen| match seen.path.as_str() {
        "/v2/a/manifests/latest" => basic_registry(seen),
        "/elsewhere" => with(reply(302, ""), "location", &target),
        _ => with(reply(307, ""), "location", "/elsewhere"),
    })
    .await;
    let client = client();
    client.resolve(&server.reference("a"), &user()).await.unwrap();
    let mut stream = client.blob(&server.reference("a"), &blob(content), 0, &user()).await.unwrap();
    assert_eq!(read_all(&mut stream).await.unwrap(), content);
    let hops = server.seen();
    assert_eq!(hops[2].authorization(), Some(ME), "the registry itself is shown them at once");
    assert_eq!(hops[3].authorization(), Some(ME), "also after a redirect within it");
    assert_eq!(cdn.seen()[0].path, "/signed?x=y");
    assert_eq!(cdn.seen()[0].authorization(), None);
}

#[tokio::test]
async fn authorization_does_not_come_back_by_a_detour() {
    let detour = Arc::new(std::sync::Mutex::new(String::new()));
    let home = Arc::clone(&detour);
    let away = Server::http(move |_| with(reply(307, ""), "location", &home.lock().unwrap())).await;
    let target = format!("http://{}/", away.addr);
    let server = Server::http(move |seen| match seen.path.as_str() {
        "/back" => reply(200, "xx"),
        "/v2/a/manifests/latest" => basic_registry(seen),
        _ => with(reply(307, ""), "location", &target),
    })
    .await;
    *detour.lock().unwrap() = format!("http://{}/back", server.addr);
    let client = client();
    client.resolve(&server.reference("a"), &user()).await.unwrap();
    let mut stream = client.blob(&server.reference("a"), &blob(b"xx"), 0, &user()).await.unwrap();
    read_all(&mut stream).await.unwrap();
    assert_eq!(server.seen().last().unwrap().path, "/back");
    assert_eq!(server.seen().last().unwrap().authorization(), None);
}

#[tokio::test]
async fn a_redirect_target_that_wants_a_login_gets_none() {
    let thief = Server::http(basic_registry).await;
    let target = format!("http://{}/v2/a/manifests/latest", thief.addr);
    let server = Server::http(move |_| with(reply(307, ""), "location", &target)).await;
    let error = client().resolve(&server.reference("a"), &user()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Internal);
    assert_eq!(thief.seen().len(), 1);
    assert_eq!(thief.seen()[0].authorization(), None);
}

#[tokio::test]
async fn redirects_are_bounded_and_stay_on_safe_ground() {
    let server = Server::http(|_| with(reply(307, ""), "location", "/again")).await;
    let error = client().resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap_err();
    assert!(error.chain().contains("redirects more than 5 times"), "{}", error.chain());
    assert_eq!(server.seen().len(), 6);

    for (location, why) in [("http://192.0.2.1/x", "not listed as insecure"), ("gopher://x", "no URL")] {
        let server = Server::http(move |_| with(reply(307, ""), "location", location)).await;
        let error = client().resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap_err();
        assert!(error.chain().contains(why), "{location}: {}", error.chain());
    }
}

#[tokio::test]
async fn logging_in() {
    let server = Server::http(|seen| match (seen.path.split('?').next().unwrap(), seen.authorization()) {
        ("/token", Some(ME)) => reply(200, r#"{"token":"t","refresh_token":"keep me"}"#),
        ("/token", _) => reply(401, r#"{"details":"incorrect username or password"}"#),
        _ => bearer_registry(seen, "t"),
    })
    .await;
    let name = server.addr.to_string();
    assert_eq!(client().login(&name, &user()).await.unwrap().as_deref(), Some("keep me"));
    let error = client().login(&name, &Auth::basic("me", "wrong")).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::Unauthorized);

    let server = Server::http(basic_registry).await;
    let name = server.addr.to_string();
    assert_eq!(client().login(&name, &user()).await.unwrap(), None);
    assert_eq!(
        client().login(&name, &Auth::basic("x", "y")).await.unwrap_err().meaning(),
        Meaning::Unauthorized
    );
}

#[tokio::test]
async fn a_client_has_a_sound_configuration_or_is_none() {
    assert!(Client::new(config()).is_ok());
    let mut bad = config();
    bad.insecure = vec!["a b".into()];
    assert_eq!(Client::new(bad).unwrap_err().meaning(), Meaning::InvalidInput);
}
