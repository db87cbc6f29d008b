// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::io::Cursor;

use berth_domain::Meaning;

use super::*;
use crate::fixture::{Shop, Tar, bzip2, gzip, xz, zstd};

fn tar() -> Vec<u8> {
    Tar::new().dir("etc", 0o755).file("etc/motd", 0o644, b"hello").done()
}

async fn import(shop: &Shop, bytes: Vec<u8>, request: ImportRequest) -> Result<ImageId> {
    shop.images.import(Cursor::new(bytes), request).await
}

#[tokio::test]
async fn an_archive_becomes_an_image() {
    let shop = Shop::open();
    let request = ImportRequest {
        name: Some("imported".parse().unwrap()),
        message: "said so".into(),
        changes: vec!["CMD [\"sh\"]".into(), "ENV A=1".into()],
        platform: Some("linux/arm64/v8".parse().unwrap()),
    };
    let id = import(&shop, tar(), request).await.unwrap();
    assert_eq!(shop.images.resolve("imported:latest").unwrap(), id);
    let image = shop.images.image(&id).unwrap();
    assert_eq!(image.raw_config["config"], json!({ "Cmd": ["sh"], "Env": ["A=1"] }));
    assert_eq!(image.platform.to_string(), "linux/arm64/v8");
    assert_eq!((image.comment.as_str(), image.history()[0].comment.as_str()), ("said so", "said so"));
    let layers = shop.images.layers(&id).unwrap();
    assert_eq!(std::fs::read_to_string(layers[0].join("etc/motd")).unwrap(), "hello");
    assert!(shop.staging().is_empty(), "{:?}", shop.staging());
    let shop = shop.reopen();
    assert_eq!(shop.images.resolve("imported").unwrap(), id);
}

#[tokio::test]
async fn packed_in_any_way_the_content_is_the_same() {
    let shop = Shop::open();
    let plain = tar();
    let mut diff_ids = std::collections::HashSet::new();
    for (bytes, packing) in [
        (tar(), Packing::Plain),
        (gzip(&tar()), Packing::Gzip),
        (zstd(&tar()), Packing::Zstd),
        (xz(&tar()), Packing::Plain),
        (bzip2(&tar()), Packing::Plain),
    ] {
        // No layer is packed with xz or bzip2.
        let blob = document::sha256(if packing == Packing::Plain { &plain } else { &bytes });
        let id = import(&shop, bytes, ImportRequest::default()).await.unwrap();
        let image = shop.images.image(&id).unwrap();
        diff_ids.insert(image.layers.clone());
        assert_eq!(image.layer_blobs[0].digest, blob, "byte for byte");
        assert_eq!(image.layer_blobs[0].media_type, packing.media_type());
        assert!(shop.images.inner.layout.blob(&blob).is_file());
    }
    assert_eq!(diff_ids.len(), 1);
}

#[tokio::test]
async fn the_packing_is_told_however_slowly_its_first_bytes_come() {
    let shop = Shop::open();
    for bytes in [gzip(&tar()), zstd(&tar()), xz(&tar())] {
        let slow = slowly(&bytes);
        shop.images.import(slow, ImportRequest::default()).await.unwrap();
    }
}

/// The first byte alone, then the rest.
fn slowly(bytes: &[u8]) -> impl AsyncRead + Send + Unpin + use<> {
    let (first, rest) = (bytes[..1].to_vec(), bytes[1..].to_vec());
    tokio::io::AsyncReadExt::chain(Cursor::new(first), Cursor::new(rest))
}

#[tokio::test]
async fn what_cannot_be_leaves_nothing_behind() {
    let shop = Shop::open();
    let named = |name: &str| ImportRequest { name: Some(name.parse().unwrap()), ..ImportRequest::default() };
    let changed = ImportRequest { changes: vec!["RUN x".into()], ..ImportRequest::default() };
    let digest = format!("a@sha256:{}", "0".repeat(64));
    let cut = |bytes: Vec<u8>| bytes[..40].to_vec();
    for (bytes, request) in [
        (b"no archive, but long enough for a header of one".repeat(20), named("a")),
        (cut(gzip(&tar())), named("a")),
        (cut(xz(&tar())), named("a")),
        (cut(bzip2(&tar())), named("a")),
        (xz(&gzip(&tar())), named("a")),
        (xz(b"no archive"), named("a")),
        (tar(), changed),
        (tar(), named(&digest)),
    ] {
        let error = import(&shop, bytes, request).await.unwrap_err();
        assert_eq!(error.meaning(), Meaning::InvalidInput, "{}", error.chain());
    }
    assert!(shop.images.list().is_empty());
    assert!(shop.staging().is_empty(), "{:?}", shop.staging());
    assert!(crate::fixture::names(&shop.root.path().join("blobs/sha256")).is_empty());
}
