// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::fs;

use super::*;
use crate::fixture::{Shop, Tar, TestImage, TestLayer};

/// Two layers, the upper one with a directory that only its contents imply.
fn image() -> TestImage {
    let layers = [
        TestLayer::gzip(Tar::new().dir("tmp", 0o1777).file("etc/motd", 0o644, b"hello").done()),
        TestLayer::zstd(Tar::new().file("tmp/x", 0o4755, b"x").symlink("l", "t").done()),
    ];
    TestImage::new(&layers)
}

async fn shop() -> (Shop, TestImage) {
    let (shop, image) = (Shop::open(), image());
    shop.registry.push("latest", &image);
    shop.pull("r").await.unwrap();
    (shop, image)
}

async fn run(shop: &Shop, repair: bool, running: &'static [&'static str]) -> CheckReport {
    let images = shop.images.clone();
    tokio::task::spawn_blocking(move || {
        let request = CheckRequest { repair, ..CheckRequest::default() };
        let running = move |_: &ImageId| running.iter().map(|s| (*s).to_owned()).collect();
        images.check(&request, &running, &mut |_| true)
    })
    .await
    .unwrap()
    .unwrap()
}

#[tokio::test]
async fn a_whole_store_has_no_damage() {
    let (shop, _) = shop().await;
    let report = run(&shop, false, &[]).await;
    assert_eq!(report, CheckReport { images: 1, blobs: 4, layers: 2, damages: Vec::new() });
    assert!(shop.staging().is_empty(), "{:?}", shop.staging());
}

/// Spoils the store; the check tells, a repair mends, the next check finds nothing.
async fn mended(words: &[&str], spoil: impl FnOnce(&Shop, &TestImage)) -> (Shop, TestImage) {
    let (shop, image) = shop().await;
    let layers = shop.images.layers(&image.id()).unwrap();
    spoil(&shop, &image);
    let found = run(&shop, false, &[]).await.damages;
    let told: Vec<&str> = found.iter().map(|d| d.what.as_str()).collect();
    assert_eq!(found.len(), words.len(), "{told:?}");
    for word in words {
        assert!(told.iter().any(|t| t.contains(word)), "{word}: {told:?}");
    }
    assert!(found.iter().all(|d| d.repaired.is_err() && d.image == "r:latest"), "{found:?}");
    let repaired = run(&shop, true, &[]).await.damages;
    assert!(repaired.iter().all(|d| d.repaired.is_ok()), "{repaired:?}");
    assert_eq!(repaired.len(), words.len());
    assert_eq!(run(&shop, false, &[]).await.damages, []);
    assert_eq!(shop.images.layers(&image.id()).unwrap(), layers);
    assert!(shop.staging().is_empty(), "{:?}", shop.staging());
    (shop, image)
}

fn layer_fs(shop: &Shop, image: &TestImage, n: usize) -> std::path::PathBuf {
    let id = &shop.images.image(&image.id()).unwrap().layers[n];
    shop.root.path().join("layers").join(id.hex()).join("fs")
}

fn blob(shop: &Shop, digest: &Digest) -> std::path::PathBuf {
    shop.root.path().join("blobs/sha256").join(digest.hex())
}

#[tokio::test]
async fn layers_are_made_again_from_their_blobs() {
    mended(&["/etc/motd: another size"], |shop, image| {
        fs::write(layer_fs(shop, image, 0).join("etc/motd"), "").unwrap();
    })
    .await;
    mended(&["/tmp"], |shop, image| {
        fs::remove_file(layer_fs(shop, image, 1).join("tmp/x")).unwrap();
    })
    .await;
    mended(&["is missing"], |shop, image| {
        fs::remove_dir_all(layer_fs(shop, image, 1).parent().unwrap()).unwrap();
    })
    .await;
}

#[tokio::test]
async fn blobs_are_fetched_again() {
    mended(&["the blob"], |shop, image| {
        let digest = shop.images.image(&image.id()).unwrap().layer_blobs[0].digest.clone();
        let path = blob(shop, &digest);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    })
    .await;
    mended(&["is damaged"], |shop, image| fs::write(blob(shop, &image.id()), "{}").unwrap()).await;
    mended(&["reading"], |shop, image| fs::remove_file(blob(shop, &image.digest())).unwrap()).await;
}

#[tokio::test]
async fn an_images_own_directories_are_made_again() {
    let (shop, image) = mended(&["its own directories are missing"], |shop, image| {
        let own = shop.images.layers(&image.id()).unwrap()[0].clone();
        fs::remove_dir_all(own.parent().unwrap()).unwrap();
    })
    .await;
    // And at the next start without being asked.
    let own = shop.images.layers(&image.id()).unwrap()[0].clone();
    fs::remove_dir_all(own.parent().unwrap()).unwrap();
    let shop = shop.reopen();
    assert!(own.join("tmp").is_dir());
    assert_eq!(run(&shop, false, &[]).await.damages, []);
}

#[tokio::test]
async fn a_layer_in_use_is_left_alone_and_its_users_are_named() {
    let (shop, image) = shop().await;
    fs::write(layer_fs(&shop, &image, 0).join("etc/motd"), "").unwrap();
    let found = run(&shop, true, &["web"]).await.damages;
    assert!(found[0].repaired.as_ref().unwrap_err().contains("stop web"), "{found:?}");
    assert!(run(&shop, true, &[]).await.damages[0].repaired.is_ok());
}

#[tokio::test]
async fn what_no_registry_has_is_told() {
    let (shop, image) = shop().await;
    let digest = shop.images.image(&image.id()).unwrap().layer_blobs[0].digest.clone();
    fs::remove_file(blob(&shop, &digest)).unwrap();
    shop.registry.put_blob(&digest, b"something else");
    let found = run(&shop, true, &[]).await.damages;
    assert_eq!(found.len(), 1);
    assert!(found[0].repaired.is_err(), "{found:?}");
    assert!(shop.staging().is_empty(), "{:?}", shop.staging());
}

#[tokio::test]
async fn a_check_can_be_stopped() {
    let (shop, _) = shop().await;
    let images = shop.images.clone();
    let stopped = tokio::task::spawn_blocking(move || {
        images.check(&CheckRequest::default(), &|_| Vec::new(), &mut |_| false)
    });
    assert_eq!(stopped.await.unwrap().unwrap_err().meaning(), berth_domain::Meaning::Cancelled);
}
