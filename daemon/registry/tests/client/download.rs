// SPDX-License-Identifier: Apache-2.0
use berth_domain::Meaning;

use crate::support::{Server, client, reply, with};

async fn all(url: &str) -> berth_domain::Result<Vec<u8>> {
    let mut download = client().download(url).await?;
    let mut all = Vec::new();
    while let Some(piece) = download.chunk().await? {
        all.extend_from_slice(&piece);
    }
    assert_eq!(download.length(), Some(all.len() as u64));
    Ok(all)
}

#[tokio::test]
async fn redirects_are_followed_to_an_end() {
    let server = Server::http(|seen| match seen.path.as_str() {
        "/a" => with(reply(302, ""), "location", "/b"),
        "/b" => reply(200, "content"),
        "/loop" => with(reply(302, ""), "location", "/loop"),
        "/odd" => with(reply(302, ""), "location", "file:///etc/passwd"),
        _ => reply(404, "no"),
    })
    .await;
    let at = |path: &str| format!("http://{}{path}", server.addr);
    assert_eq!(all(&at("/a")).await.unwrap(), b"content");
    assert_eq!(all(&at("/none")).await.unwrap_err().meaning(), Meaning::NotFound);
    assert!(all(&at("/loop")).await.unwrap_err().chain().contains("redirects"));
    assert!(all(&at("/odd")).await.is_err());
}

#[tokio::test]
async fn what_is_no_url_is_refused() {
    for url in ["file:///etc/passwd", "ftp://x/y", "", "http://", "http://u:p@x/"] {
        assert_eq!(all(url).await.unwrap_err().meaning(), Meaning::InvalidInput, "{url}");
    }
}
