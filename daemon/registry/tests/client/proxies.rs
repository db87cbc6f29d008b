// SPDX-License-Identifier: Apache-2.0
//! Proxies: tunnels for HTTPS, whole URLs for plain HTTP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use berth_registry::{Auth, Client, Proxies};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Server, blob, config, manifest, read_all, reply};
use crate::tls::Authority;

/// A proxy that sends all tunnels to one server; the heads of what it was asked.
async fn tunnel(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut head = String::new();
                let mut lines = BufReader::new(&mut client);
                while !head.ends_with("\r\n\r\n") && lines.read_line(&mut head).await.is_ok_and(|n| n > 0) {}
                log.lock().unwrap().push(head);
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let mut server = TcpStream::connect(to).await.unwrap();
                // Either side may end as it likes.
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            });
        }
    });
    (addr, heads)
}

fn client(proxies: Proxies, insecure: &[&str]) -> Client {
    let mut config = config();
    config.proxies = proxies;
    config.insecure = insecure.iter().map(|s| (*s).to_owned()).collect();
    Client::new(config).unwrap()
}

#[tokio::test]
async fn https_goes_through_a_tunnel() {
    let server = Server::https(Authority::new().server(false), |_| manifest()).await;
    let (proxy, heads) = tunnel(server.addr).await;
    let proxies = Proxies { https: Some(format!("http://me:pw@{proxy}")), ..Proxies::default() };
    let client = client(proxies, &["registry.test:5000"]);
    client.resolve(&"registry.test:5000/a:1".parse().unwrap(), &Auth::anonymous()).await.unwrap();
    let heads = heads.lock().unwrap();
    assert!(heads[0].starts_with("CONNECT registry.test:5000 HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads[0].to_lowercase().contains("proxy-authorization: basic bwu6chc="), "{heads:?}");
    assert_eq!(server.paths(), ["/v2/a/manifests/1"]);
    assert_eq!(server.seen()[0].header("proxy-authorization"), None, "the proxy's password is the proxy's");
}

#[tokio::test]
async fn plain_http_asks_for_whole_urls() {
    // A proxy for plain HTTP is a server that gets the registry's name with each request.
    let content = b"0123456789";
    let proxy = Server::http(|seen| match seen.path.contains("/blobs/") {
        true => reply(200, &content[..]),
        false => manifest(),
    })
    .await;
    let proxies = Proxies { http: Some(format!("http://me:pw@{}", proxy.addr)), ..Proxies::default() };
    let mut config = config();
    config.proxies = proxies;
    config.mirrors = vec!["http://mirror.test:81".into()];
    let client = Client::new(config).unwrap();
    let reference = "a:1".parse().unwrap();
    client.resolve(&reference, &Auth::anonymous()).await.unwrap();
    let mut stream = client.blob(&reference, &blob(content), 0, &Auth::anonymous()).await.unwrap();
    assert_eq!(read_all(&mut stream).await.unwrap(), content);
    for seen in proxy.seen() {
        assert_eq!(seen.header("host"), Some("mirror.test:81"));
        assert_eq!(seen.header("proxy-authorization"), Some("Basic bWU6cHc="));
    }
    assert_eq!(proxy.seen().len(), 2);
}

#[tokio::test]
async fn some_are_asked_directly() {
    let server = Server::http(|_| manifest()).await;
    let nowhere = Some("http://127.0.0.1:1".to_owned());
    // Loopback always is.
    let client = client(Proxies { http: nowhere.clone(), https: nowhere, ..Proxies::default() }, &[]);
    client.resolve(&server.reference("a:1"), &Auth::anonymous()).await.unwrap();
    let mut config = config();
    let proxy = Server::http(|_| manifest()).await;
    config.proxies = Proxies {
        http: Some(format!("http://{}", proxy.addr)),
        no: Some("direct.test".into()),
        ..Proxies::default()
    };
    config.retries.count = 0;
    config.docker_hub = "http://direct.test:9".into();
    Client::new(config).unwrap().resolve(&"a:1".parse().unwrap(), &Auth::anonymous()).await.unwrap_err();
    assert!(proxy.seen().is_empty());
}

#[tokio::test]
async fn a_proxy_that_cannot_be_spoken_to_is_named() {
    let proxies = Proxies { https: Some("socks5://127.0.0.1:1".into()), ..Proxies::default() };
    let client = client(proxies, &[]);
    let error = client.resolve(&"registry.test/a:1".parse().unwrap(), &Auth::anonymous()).await.unwrap_err();
    assert!(error.chain().contains("socks5"), "{}", error.chain());
}
