// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::fixture::{FakeRegistry, Shop, Tar, TestImage, TestLayer, names, small};

async fn two_images() -> (Shop, TestImage, TestImage) {
    let shop = Shop::open();
    let (a, b) = (small("a"), small("b"));
    shop.registry.push("a", &a);
    shop.registry.push("b", &b);
    shop.pull("r:a").await.unwrap();
    shop.pull("r:b").await.unwrap();
    (shop, a, b)
}

/// Closes, spoils the files, opens; every name must be there as before.
async fn survives(spoil: impl FnOnce(&Path)) -> Shop {
    let (shop, a, b) = two_images().await;
    let Shop { root, registry, images } = shop;
    drop(images);
    spoil(root.path());
    let images = crate::fixture::open(root.path(), &registry).expect("opens");
    let shop = Shop { root, registry, images };
    assert_eq!(shop.images.resolve("r:a").unwrap(), a.id());
    assert_eq!(shop.images.resolve("r:b").unwrap(), b.id());
    assert_eq!(shop.images.image(&a.id()).unwrap().repo_tags, ["r:a"]);
    for image in [&a, &b] {
        assert!(shop.images.layers(&image.id()).unwrap()[0].join("etc/motd").exists());
    }
    // And it can be changed, closed and opened once more.
    shop.images.tag(&a.id(), &"again".parse().unwrap()).unwrap();
    let shop = shop.reopen();
    assert_eq!(shop.images.resolve("again").unwrap(), a.id());
    shop
}

#[tokio::test]
async fn nothing_lives_only_in_the_store() {
    survives(|root| fs::remove_dir_all(root.join("images.sled")).unwrap()).await;
    survives(|root| {
        fs::write(root.join("images.sled/conf"), "segment_size: broken\nand more\0\0\0\0").unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_lost_or_damaged_index_json_comes_back_from_the_store() {
    survives(|root| fs::remove_file(root.join("index.json")).unwrap()).await;
    let shop = survives(|root| fs::write(root.join("index.json"), "{\"schema\":1,\"gener").unwrap()).await;
    let moved = names(shop.root.path()).into_iter().filter(|n| n.starts_with("index.json.broken-")).count();
    assert_eq!(moved, 1);
}

#[tokio::test]
async fn the_data_root_is_an_oci_layout() {
    let (shop, a, _) = two_images().await;
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(shop.root.path().join(name)).unwrap()).unwrap()
    };
    assert_eq!(read("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = read("index.json");
    assert_eq!(index["schemaVersion"], 2);
    let lines = index["manifests"].as_array().unwrap();
    let line = lines
        .iter()
        .find(|l| l["annotations"]["org.opencontainers.image.ref.name"] == "docker.io/library/r:a")
        .expect("a line for the tag");
    assert_eq!(line["digest"], a.digest().as_str());
    assert_eq!(lines.len(), 2);
}

#[tokio::test]
async fn the_index_of_before_is_read() {
    survives(|root| {
        let path = root.join("index.json");
        let index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        fs::write(path, index["berth"].to_string()).unwrap();
        fs::remove_dir_all(root.join("images.sled")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_store_that_fell_behind_is_brought_up() {
    let (shop, a, _) = two_images().await;
    let Shop { root, registry, images } = shop;
    drop(images);
    let (store, old) = (root.path().join("images.sled"), root.path().join("old.sled"));
    assert!(std::process::Command::new("cp").arg("-a").arg(&store).arg(&old).status().unwrap().success());
    let images = crate::fixture::open(root.path(), &registry).unwrap();
    images.tag(&a.id(), &"newer".parse().unwrap()).unwrap();
    drop(images);
    fs::remove_dir_all(&store).unwrap();
    fs::rename(&old, &store).unwrap();
    let images = crate::fixture::open(root.path(), &registry).unwrap();
    assert_eq!(images.resolve("newer").unwrap(), a.id());
}

#[tokio::test]
async fn without_any_index_images_are_found_among_the_blobs() {
    let (shop, a, b) = two_images().await;
    let Shop { root, registry, images } = shop;
    drop(images);
    fs::remove_dir_all(root.path().join("images.sled")).unwrap();
    fs::remove_file(root.path().join("index.json")).unwrap();
    let images = crate::fixture::open(root.path(), &registry).unwrap();
    assert_eq!(images.list().len(), 2);
    for image in [&a, &b] {
        assert!(images.image(&image.id()).unwrap().repo_tags.is_empty());
        assert!(images.layers(&image.id()).unwrap()[0].is_dir());
    }
}

#[tokio::test]
async fn rebuilding_by_hand_finds_the_same() {
    let (shop, a, b) = two_images().await;
    assert_eq!(shop.images.rebuild_index().unwrap(), 2);
    assert_eq!(shop.images.resolve("r:a").unwrap(), a.id());
    let shop = shop.reopen();
    assert_eq!(shop.images.resolve("r:b").unwrap(), b.id());
}

#[tokio::test]
async fn a_missing_layer_is_unpacked_again_from_its_blob() {
    let shop = survives(|root| {
        for layer in fs::read_dir(root.join("layers")).unwrap() {
            fs::remove_dir_all(layer.unwrap().path().join("fs")).unwrap();
        }
    })
    .await;
    assert_eq!(shop.staging(), Vec::<String>::new());
    survives(|root| {
        for layer in fs::read_dir(root.join("layers")).unwrap() {
            fs::write(layer.unwrap().path().join("meta.json"), "").unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn an_image_beyond_repair_is_left_out_and_can_be_pulled_again() {
    let (shop, a, b) = two_images().await;
    let Shop { root, registry, images } = shop;
    drop(images);
    fs::write(root.path().join("blobs/sha256").join(a.id().hex()), "not the config").unwrap();
    let images = crate::fixture::open(root.path(), &registry).expect("opens all the same");
    let shop = Shop { root, registry, images };
    assert!(shop.images.resolve("r:a").is_err());
    assert_eq!(shop.images.resolve("r:b").unwrap(), b.id());
    shop.pull("r:a").await.expect("pulls again");
    assert_eq!(shop.images.resolve("r:a").unwrap(), a.id());
}

#[tokio::test]
async fn leftovers_of_a_crash_are_swept_at_start() {
    let (shop, _, _) = two_images().await;
    let Shop { root, registry, images } = shop;
    drop(images);
    let hex = "ab".repeat(32);
    let before = (names(&root.path().join("blobs/sha256")), names(&root.path().join("layers")));
    fs::create_dir_all(root.path().join("layers").join(&hex).join("fs/x")).unwrap();
    fs::create_dir_all(root.path().join("layers").join(format!("{hex}.parents/fs"))).unwrap();
    fs::write(root.path().join("blobs/sha256").join(&hex), "unreached").unwrap();
    fs::create_dir_all(root.path().join("staging/layer-1-1/fs/a/b")).unwrap();
    fs::write(root.path().join("staging/junk"), "").unwrap();
    fs::write(root.path().join(format!("staging/{hex}.partial")), "half").unwrap();
    let images = crate::fixture::open(root.path(), &registry).unwrap();
    assert_eq!((names(&root.path().join("blobs/sha256")), names(&root.path().join("layers"))), before);
    let partial = format!("{hex}.partial");
    assert_eq!(names(&root.path().join("staging")), std::slice::from_ref(&partial));
    // A download that nobody went on with for days goes while the engine runs, unless somebody is at it.
    let file = fs::File::open(root.path().join("staging").join(&partial)).unwrap();
    let days = std::time::Duration::from_secs(4 * 24 * 3600);
    file.set_modified(std::time::SystemTime::now() - days).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    images.inner.sweep().unwrap();
    assert_eq!(names(&root.path().join("staging")), [partial]);
    drop(file);
    images.inner.sweep().unwrap();
    assert_eq!(names(&root.path().join("staging")), Vec::<String>::new());
    drop(images);
}

#[tokio::test]
async fn others_cannot_look_in() {
    let shop = Shop::open();
    let mode = |path: &str| fs::metadata(shop.root.path().join(path)).unwrap().permissions().mode() & 0o7777;
    for (path, expected) in [
        ("", 0o710),
        ("blobs", 0o700),
        ("blobs/sha256", 0o700),
        ("layers", 0o710),
        ("staging", 0o700),
        ("images.sled", 0o700),
    ] {
        assert_eq!(mode(path), expected, "{path:?}");
    }
}

#[tokio::test]
async fn one_engine_at_a_time() {
    let shop = Shop::open();
    let error = crate::fixture::open(shop.root.path(), &FakeRegistry::default()).expect_err("opened twice");
    assert!(error.chain().contains("in use by another process"), "{}", error.chain());
}

#[tokio::test]
async fn tags_are_given_and_moved() {
    let (shop, a, b) = two_images().await;
    shop.images.tag(&a.id(), &"x".parse().unwrap()).unwrap();
    assert_eq!(shop.images.image(&a.id()).unwrap().repo_tags, ["r:a", "x:latest"]);
    assert!(!shop.images.image(&a.id()).unwrap().last_tagged_at.is_empty());
    shop.images.tag(&b.id(), &"x:latest".parse().unwrap()).unwrap();
    assert_eq!(shop.images.image(&a.id()).unwrap().repo_tags, ["r:a"]);
    assert_eq!(shop.images.resolve("x").unwrap(), b.id());
    let by_digest = format!("x@{}", a.digest()).parse().unwrap();
    assert!(shop.images.tag(&a.id(), &by_digest).is_err());
    let nobody = crate::document::sha256(b"nobody");
    assert!(shop.images.tag(&nobody, &"y".parse().unwrap()).is_err());
}

#[tokio::test]
async fn an_image_without_layers_is_an_image() {
    let shop = Shop::open();
    let empty = TestImage::new(&[]);
    shop.registry.push("latest", &empty);
    shop.pull("scratch-like").await.expect("pulls");
    assert!(shop.images.layers(&empty.id()).unwrap().is_empty());
    let twice = TestImage::new(&[
        TestLayer::gzip(Tar::new().file("a", 0o644, b"").done()),
        TestLayer::gzip(Tar::new().file("a", 0o644, b"").done()),
    ]);
    shop.registry.push("twice", &twice);
    shop.pull("r:twice").await.expect("pulls");
    assert_eq!(shop.images.layers(&twice.id()).unwrap().len(), 2);
}
