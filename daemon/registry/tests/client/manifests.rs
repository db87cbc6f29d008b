// SPDX-License-Identifier: Apache-2.0
use berth_domain::Meaning;
use berth_registry::{Auth, media_type};

use crate::support::{MANIFEST, Server, client, digest, manifest, reply, with};

#[tokio::test]
async fn a_tag_is_resolved_by_one_request_once_the_scheme_is_known() {
    let server = Server::http(|_| manifest()).await;
    let client = client();
    let found = client.resolve(&server.reference("a/b:t"), &Auth::anonymous()).await.unwrap();
    assert_eq!(found.body, MANIFEST);
    assert_eq!(found.descriptor.digest, digest(MANIFEST.as_bytes()));
    assert_eq!(found.descriptor.size, MANIFEST.len() as u64);
    assert_eq!(found.descriptor.media_type, media_type::OCI_MANIFEST);
    client.resolve(&server.reference("a/b"), &Auth::anonymous()).await.unwrap();
    assert_eq!(server.paths(), ["/v2/a/b/manifests/t", "/v2/a/b/manifests/latest"]);
    let seen = &server.seen()[0];
    assert!(seen.header("user-agent").unwrap().starts_with("berth/"));
    for accepted in [
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        media_type::DOCKER_LIST,
        media_type::DOCKER_MANIFEST,
    ] {
        assert!(seen.header("accept").unwrap().contains(accepted), "{accepted} is not accepted");
    }
}

#[tokio::test]
async fn head_tells_without_fetching_and_falls_back_to_fetching() {
    let server = Server::http(|seen| match seen.path.as_str() {
        "/v2/a/manifests/full" => {
            with(manifest(), "docker-content-digest", digest(MANIFEST.as_bytes()).as_str())
        }
        _ => manifest(),
    })
    .await;
    let client = client();
    let told = client.head(&server.reference("a:full"), &Auth::anonymous()).await.unwrap();
    assert_eq!(told.digest, digest(MANIFEST.as_bytes()));
    assert_eq!(told.size, MANIFEST.len() as u64);
    let fetched = client.head(&server.reference("a:bare"), &Auth::anonymous()).await.unwrap();
    assert_eq!(fetched, told);
    let methods: Vec<String> = server.seen().iter().map(|s| s.method.to_string()).collect();
    assert_eq!(methods, ["HEAD", "HEAD", "GET"]);
}

#[tokio::test]
async fn what_is_not_there_is_not_found_in_dockers_words() {
    let server = Server::http(|_| {
        reply(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
    })
    .await;
    let reference = server.reference("nosuch:1");
    let error = client().resolve(&reference, &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::NotFound);
    assert_eq!(error.chain(), format!("failed to resolve reference \"{reference}\": {reference}: not found"));
    assert_eq!(server.seen().len(), 1, "not found is not tried again");
}

#[tokio::test]
async fn another_body_than_the_digest_says_is_refused() {
    let other = digest(b"something else");
    let claimed = other.clone();
    let server = Server::http(move |seen| match seen.path.as_str() {
        "/v2/a/manifests/liar" => with(manifest(), "docker-content-digest", claimed.as_str()),
        _ => manifest(),
    })
    .await;
    let client = client();
    for error in [
        client.resolve(&server.reference("a:liar"), &Auth::anonymous()).await.unwrap_err(),
        client.manifest(&server.reference("a"), &other, &Auth::anonymous()).await.unwrap_err(),
    ] {
        assert_eq!(error.meaning(), Meaning::Internal);
        assert!(error.chain().contains(other.as_str()), "{}", error.chain());
        assert!(error.chain().contains(digest(MANIFEST.as_bytes()).as_str()), "{}", error.chain());
    }
}

#[tokio::test]
async fn an_oversized_manifest_is_refused_stated_or_not() {
    let server = Server::http(|seen| {
        let mut huge = reply(200, vec![b' '; 4 * 1024 * 1024 + 1]);
        if seen.path.ends_with("unstated") {
            huge.headers_mut().remove("content-length");
        }
        huge
    })
    .await;
    for tag in ["stated", "unstated"] {
        let error =
            client().resolve(&server.reference(&format!("a:{tag}")), &Auth::anonymous()).await.unwrap_err();
        assert!(error.chain().contains("more than 4194304 bytes"), "{tag}: {}", error.chain());
    }
}

#[tokio::test]
async fn an_image_that_is_also_an_index_is_refused() {
    let server =
        Server::http(|_| reply(200, r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#)).await;
    let error = client().resolve(&server.reference("a"), &Auth::anonymous()).await.unwrap_err();
    assert!(error.chain().contains("both an image and an index"), "{}", error.chain());
}

#[tokio::test]
async fn tags_come_page_by_page_and_only_from_this_registry() {
    let server = Server::http(|seen| match seen.path.as_str() {
        "/v2/a/tags/list" => with(
            reply(200, r#"{"tags":["1","2"]}"#),
            "link",
            r#"<https://evil.example/v2/b/tags/list?last=2&n=2>; rel="next""#,
        ),
        "/v2/a/tags/list?last=2&n=2" => reply(200, r#"{"tags":["3"]}"#),
        _ => reply(200, r#"{"tags":null}"#),
    })
    .await;
    let tags = client().tags(&server.reference("a"), &Auth::anonymous()).await.unwrap();
    assert_eq!(tags, ["1", "2", "3"]);
    assert!(client().tags(&server.reference("empty"), &Auth::anonymous()).await.unwrap().is_empty());
}
