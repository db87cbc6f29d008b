// SPDX-License-Identifier: Apache-2.0
use std::io::{Cursor, Read};
use std::sync::{Arc, Mutex};

use berth_domain::Meaning;
use berth_registry::{Auth, Descriptor, Opener, Upload, Uploaded};
use http::Method;

use crate::support::{MANIFEST, Reply, Seen, Server, blob, client, digest, reply, with};

fn content(bytes: &[u8]) -> Option<Opener> {
    let bytes = bytes.to_vec();
    Some(Arc::new(move |offset| {
        let rest = bytes[usize::try_from(offset).unwrap()..].to_vec();
        Ok(Box::new(Cursor::new(rest)) as Box<dyn Read + Send>)
    }))
}

fn upload<'a>(descriptor: &'a Descriptor, bytes: &[u8], neighbour: Option<&'a str>) -> Upload<'a> {
    Upload { descriptor, content: content(bytes), neighbour, told: Arc::new(|_| {}) }
}

fn accepted(location: &str) -> Reply {
    with(reply(202, ""), "location", location)
}

fn methods(server: &Server) -> Vec<(Method, String)> {
    server.seen().into_iter().map(|s| (s.method, s.path)).collect()
}

#[tokio::test]
async fn what_is_there_is_not_sent() {
    let server = Server::http(|_| reply(200, "")).await;
    let descriptor = blob(b"x");
    let done = client()
        .upload(&server.reference("a"), upload(&descriptor, b"x", Some("b")), &Auth::anonymous())
        .await;
    assert_eq!(done.unwrap(), Uploaded::Present);
    assert_eq!(methods(&server), [(Method::HEAD, format!("/v2/a/blobs/{}", descriptor.digest))]);
}

#[tokio::test]
async fn a_neighbours_blob_is_mounted() {
    let server = Server::http(|seen| match seen.method {
        Method::POST => reply(201, ""),
        _ => reply(404, ""),
    })
    .await;
    let descriptor = blob(b"x");
    let done = client()
        .upload(&server.reference("a"), upload(&descriptor, b"x", Some("b/c")), &Auth::anonymous())
        .await;
    assert_eq!(done.unwrap(), Uploaded::Mounted);
    let expected = format!("/v2/a/blobs/uploads/?mount={}&from=b/c", descriptor.digest);
    assert_eq!(server.paths()[1], expected);
}

#[tokio::test]
async fn a_small_blob_goes_at_once() {
    let server = Server::http(|seen| match seen.method {
        Method::POST => accepted("/v2/a/blobs/uploads/1?state=s"),
        Method::PUT => reply(201, ""),
        _ => reply(404, ""),
    })
    .await;
    let descriptor = blob(b"hello");
    let done = client()
        .upload(&server.reference("a"), upload(&descriptor, b"hello", None), &Auth::anonymous())
        .await;
    assert_eq!(done.unwrap(), Uploaded::Sent);
    let put = server.seen().pop().unwrap();
    assert_eq!(put.body.as_ref(), b"hello");
    assert_eq!(put.header("content-length"), Some("5"));
    assert_eq!(put.path, format!("/v2/a/blobs/uploads/1?state=s&digest={}", descriptor.digest));
}

/// A registry that loses the connection to its disk after so many bytes, once.
fn forgetful(taken: Arc<Mutex<Vec<u8>>>, keeps: usize) -> impl Fn(&Seen) -> Reply + Send + Sync {
    move |seen| {
        let mut taken = taken.lock().unwrap();
        let range = |taken: &[u8]| format!("0-{}", taken.len().saturating_sub(1));
        match seen.method {
            Method::POST => accepted("/v2/a/blobs/uploads/1"),
            Method::PATCH if taken.is_empty() => {
                taken.extend_from_slice(&seen.body[..keeps]);
                reply(503, "")
            }
            Method::PATCH => {
                assert_eq!(
                    seen.header("content-range").unwrap().split('-').next().unwrap(),
                    taken.len().to_string()
                );
                taken.extend_from_slice(&seen.body);
                with(accepted("/v2/a/blobs/uploads/2"), "range", &range(&taken))
            }
            Method::GET => {
                with(with(reply(204, ""), "location", "/v2/a/blobs/uploads/1"), "range", &range(&taken))
            }
            Method::PUT if seen.path.starts_with("/v2/a/blobs/uploads/2?") => reply(201, ""),
            _ => reply(404, ""),
        }
    }
}

#[tokio::test]
async fn a_large_blob_goes_on_where_it_broke() {
    let bytes: Vec<u8> = (0..5_000_000u32).map(|n| n.to_le_bytes()[n as usize % 4]).collect();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let server = Server::http(forgetful(Arc::clone(&taken), 3_000_000)).await;
    let descriptor = blob(&bytes);
    let told = Arc::new(Mutex::new(0));
    let hear = Arc::clone(&told);
    let upload = Upload {
        told: Arc::new(move |done| *hear.lock().unwrap() = done),
        ..upload(&descriptor, &bytes, None)
    };
    let done = client().upload(&server.reference("a"), upload, &Auth::anonymous()).await;
    assert_eq!(done.unwrap(), Uploaded::Sent);
    assert_eq!(digest(&taken.lock().unwrap()), descriptor.digest);
    assert_eq!(*told.lock().unwrap(), descriptor.size);
}

#[tokio::test]
async fn a_session_elsewhere_gets_no_credentials() {
    let storage = Server::http(|_| reply(201, "")).await;
    let there = format!("http://{}/bucket", storage.addr);
    let server = Server::http(move |seen| match (seen.authorization(), &seen.method) {
        (None, _) => with(reply(401, ""), "www-authenticate", "Basic realm=\"r\""),
        (_, &Method::POST) => accepted(&there),
        _ => reply(404, ""),
    })
    .await;
    let descriptor = blob(b"x");
    let auth = Auth::basic("u", "p");
    client().upload(&server.reference("a"), upload(&descriptor, b"x", None), &auth).await.unwrap();
    assert!(server.seen().last().unwrap().authorization().is_some());
    assert_eq!(storage.seen().len(), 1);
    assert!(storage.seen()[0].authorization().is_none());
}

#[tokio::test]
async fn a_redirects_target_is_not_logged_in_to_whatever_it_says() {
    // It would like the password for the session that it began.
    let other = Server::http(|seen| match (&seen.method, seen.authorization()) {
        (&Method::POST, _) => accepted("/v2/a/blobs/uploads/1"),
        (_, None) => with(reply(401, ""), "www-authenticate", "Basic realm=\"r\""),
        _ => reply(201, ""),
    })
    .await;
    let there = format!("http://{}/v2/a/blobs/uploads/", other.addr);
    let server = Server::http(move |seen| match (seen.authorization(), &seen.method) {
        (None, _) => with(reply(401, ""), "www-authenticate", "Basic realm=\"r\""),
        (_, &Method::POST) => with(reply(307, ""), "location", &there),
        _ => reply(404, ""),
    })
    .await;
    for bytes in [&b"x"[..], &[7; 5_000_000]] {
        let descriptor = blob(bytes);
        let upload = upload(&descriptor, bytes, None);
        client().upload(&server.reference("a"), upload, &Auth::basic("u", "p")).await.unwrap_err();
    }
    assert!(other.seen().iter().any(|s| s.method == Method::PUT), "{:?}", methods(&other));
    assert!(other.seen().iter().any(|s| s.method == Method::PATCH), "{:?}", methods(&other));
    assert!(other.seen().iter().all(|s| s.authorization().is_none()));
}

#[tokio::test]
async fn content_that_is_nowhere_is_not_found() {
    let server = Server::http(|seen| match seen.method {
        Method::POST => accepted("/up"),
        _ => reply(404, ""),
    })
    .await;
    let descriptor = blob(b"x");
    let nowhere = Upload { content: None, ..upload(&descriptor, b"x", None) };
    let error = client().upload(&server.reference("a"), nowhere, &Auth::anonymous()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::NotFound);
    assert!(error.chain().contains("is not here"), "{}", error.chain());
}

#[tokio::test]
async fn manifests_go_as_they_are() {
    let server = Server::http(|seen| match seen.method {
        Method::PUT => with(reply(201, ""), "docker-content-digest", digest(MANIFEST.as_bytes()).as_str()),
        _ => reply(404, ""),
    })
    .await;
    let client = client();
    let reference = server.reference("a:1");
    let mut descriptor = blob(MANIFEST.as_bytes());
    descriptor.media_type = "application/vnd.oci.image.manifest.v1+json".into();
    assert!(!client.has_manifest(&reference, &descriptor.digest, &Auth::anonymous()).await.unwrap());
    client.put_manifest(&reference, &descriptor, MANIFEST.into(), &Auth::anonymous()).await.unwrap();
    let put = server.seen().pop().unwrap();
    assert_eq!((put.path.as_str(), put.body.as_ref()), ("/v2/a/manifests/1", MANIFEST.as_bytes()));
    assert_eq!(put.header("content-type"), Some(descriptor.media_type.as_str()));
    let other = Descriptor { digest: digest(b"other"), ..descriptor };
    let error =
        client.put_manifest(&reference, &other, MANIFEST.into(), &Auth::anonymous()).await.unwrap_err();
    assert!(error.chain().contains("kept the manifest as"), "{}", error.chain());
}
