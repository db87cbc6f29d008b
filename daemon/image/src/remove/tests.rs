// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use berth_domain::{Digest, Meaning, Reference};
use serde_json::json;

use super::*;
use crate::fixture::{Shop, Tar, TestImage, TestLayer, names, small};

const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn stopped(_: &ImageId) -> Vec<ImageUse> {
    vec![ImageUse { container: CONTAINER.into(), running: false }]
}

fn running(_: &ImageId) -> Vec<ImageUse> {
    vec![ImageUse { container: CONTAINER.into(), running: true }]
}

fn unused(_: &ImageId) -> Vec<ImageUse> {
    Vec::new()
}

const SOFT: RemoveOptions = RemoveOptions { force: false, noprune: false };
const FORCE: RemoveOptions = RemoveOptions { force: true, noprune: false };

async fn shop() -> (Shop, TestImage) {
    let shop = Shop::open();
    let image = small("x");
    shop.registry.push("latest", &image);
    shop.pull("redis").await.unwrap();
    (shop, image)
}

fn tag(shop: &Shop, id: &Digest, name: &str) {
    shop.images.tag(id, &name.parse::<Reference>().unwrap()).unwrap();
}

fn conflict(result: Result<Vec<Removed>>, says: &str) {
    let error = result.expect_err(says);
    assert_eq!((error.chain().as_str(), error.meaning()), (says, Meaning::Conflict));
}

fn texts(removed: &[Removed]) -> Vec<String> {
    removed
        .iter()
        .map(|r| match r {
            Removed::Untagged(name) => format!("Untagged: {name}"),
            Removed::Deleted(id) => format!("Deleted: {id}"),
        })
        .collect()
}

fn blobs_and_layers(shop: &Shop) -> usize {
    names(&shop.root.path().join("blobs/sha256")).len() + names(&shop.root.path().join("layers")).len()
}

#[tokio::test]
async fn the_last_name_takes_the_image_with_it() {
    let (shop, image) = shop().await;
    let removed = shop.images.remove("redis", SOFT, unused).unwrap();
    let layer = crate::document::sha256(&image.layers[0].tar);
    assert_eq!(
        texts(&removed),
        [
            "Untagged: redis:latest".to_owned(),
            format!("Untagged: redis@{}", image.digest()),
            format!("Deleted: {}", image.id()),
            format!("Deleted: {layer}"),
        ]
    );
    assert!(shop.images.list().is_empty());
    assert_eq!(blobs_and_layers(&shop), 0, "the files are gone");
    assert_eq!(shop.staging(), Vec::<String>::new());
    let error = shop.images.remove("redis", SOFT, unused).expect_err("gone");
    assert_eq!((error.chain().as_str(), error.meaning()), ("No such image: redis:latest", Meaning::NotFound));
    let shop = shop.reopen();
    assert!(shop.images.list().is_empty());
    shop.pull("redis").await.expect("can come back");
}

#[tokio::test]
async fn one_name_of_several_only_goes_itself() {
    let (shop, image) = shop().await;
    tag(&shop, &image.id(), "redis:7");
    tag(&shop, &image.id(), "other/redis");
    assert_eq!(texts(&shop.images.remove("redis", SOFT, stopped).unwrap()), ["Untagged: redis:latest"]);
    assert_eq!(shop.images.image(&image.id()).unwrap().repo_tags, ["other/redis:latest", "redis:7"]);
    conflict(
        shop.images.remove(image.id().short(), SOFT, unused),
        &format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            image.id().short()
        ),
    );
    let removed = texts(&shop.images.remove(image.id().short(), FORCE, unused).unwrap());
    assert_eq!(removed.len(), 5, "{removed:?}");
    assert_eq!(blobs_and_layers(&shop), 0);
}

#[tokio::test]
async fn by_id_with_one_repository_all_names_go() {
    let (shop, image) = shop().await;
    let three = &image.id().hex()[..3].to_owned();
    let removed = texts(&shop.images.remove(three, SOFT, unused).unwrap());
    assert_eq!(removed[2], format!("Deleted: {}", image.id()));
}

#[tokio::test]
async fn containers_stand_in_the_way_in_the_reference_words() {
    let (shop, image) = shop().await;
    let short = image.id().short().to_owned();
    conflict(
        shop.images.remove("redis", SOFT, stopped),
        &format!(
            "conflict: unable to remove repository reference \"redis\" (must force) - container 0123456789ab is using its referenced image {short}"
        ),
    );
    conflict(
        shop.images.remove(&short, SOFT, stopped),
        &format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by stopped container 0123456789ab"
        ),
    );
    for options in [SOFT, FORCE] {
        conflict(
            shop.images.remove(&short, options, running),
            &format!(
                "conflict: unable to delete {short} (cannot be forced) - image is being used by running container 0123456789ab"
            ),
        );
    }
    assert_eq!(shop.images.image(&image.id()).unwrap().repo_tags, ["redis:latest"], "nothing was changed");
    // Forced by name with a running container: the names go, the image stays.
    let removed = texts(&shop.images.remove("redis", FORCE, running).unwrap());
    assert_eq!(removed, ["Untagged: redis:latest".to_owned(), format!("Untagged: redis@{}", image.digest())]);
    assert_eq!(shop.images.list().len(), 1);
}

#[tokio::test]
async fn a_stopped_containers_image_can_go_but_its_layers_stay() {
    let (shop, image) = shop().await;
    let removed = texts(&shop.images.remove("redis", FORCE, stopped).unwrap());
    assert!(removed.contains(&format!("Deleted: {}", image.id())), "{removed:?}");
    assert!(shop.images.list().is_empty());
    assert!(shop.images.resolve(image.id().as_str()).is_err());
    let shop = shop.reopen();
    let layers = shop.images.layers(&image.id()).expect("still there for its container");
    assert!(layers.iter().all(|layer| layer.is_dir()));
    shop.images.collect(|_| true).unwrap();
    assert!(layers[0].is_dir());
    // Back by a pull, it is an image as before.
    shop.pull("redis").await.unwrap();
    assert_eq!(shop.images.list().len(), 1);
    shop.images.collect(|_| false).unwrap();
    assert!(layers[0].is_dir());
    shop.images.remove("redis", FORCE, stopped).unwrap();
    shop.images.collect(|_| false).unwrap();
    assert!(!layers[0].exists());
    assert_eq!(blobs_and_layers(&shop), 0);
}

#[tokio::test]
async fn shared_layers_stay_for_the_others() {
    let shop = Shop::open();
    let base = TestLayer::gzip(Tar::new().file("base", 0o644, b"b").done());
    let top = TestLayer::gzip(Tar::new().file("top", 0o644, b"t").done());
    let (one, two) = (TestImage::new(std::slice::from_ref(&base)), TestImage::new(&[base, top]));
    shop.registry.push("1", &one);
    shop.registry.push("2", &two);
    shop.pull("r:1").await.unwrap();
    shop.pull("r:2").await.unwrap();
    let removed = texts(&shop.images.remove("r:2", SOFT, unused).unwrap());
    // The digest reference of r:2 stays in Docker's eyes as long as r has another tag: it is of another image.
    let chain = crate::document::chain_ids(
        &two.layers.iter().map(|l| crate::document::sha256(&l.tar)).collect::<Vec<_>>(),
    );
    assert_eq!(removed.last().unwrap(), &format!("Deleted: {}", chain[1]));
    assert!(!removed.contains(&format!("Deleted: {}", chain[0])), "{removed:?}");
    let left = shop.images.layers(&one.id()).unwrap();
    assert!(left[0].join("base").exists());
    assert_eq!(names(&shop.root.path().join("layers")).len(), 1);
}

#[tokio::test]
async fn a_lease_holds_the_image() {
    let (shop, image) = shop().await;
    let lease = shop.images.lease(&image.id()).unwrap();
    conflict(
        shop.images.remove(image.id().short(), FORCE, unused),
        &format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by a container that is being created",
            image.id().short()
        ),
    );
    assert_eq!(lease.image().id, image.id());
    drop(lease);
    shop.images.remove("redis", SOFT, unused).unwrap();
    assert_eq!(shop.images.lease(&image.id()).expect_err("gone").meaning(), Meaning::NotFound);
}

#[tokio::test]
async fn what_users_write_is_resolved() {
    let shop = Shop::open();
    // Images until two share their first digit: sixteen are enough.
    let images: Vec<TestImage> = (0..17).map(|i| small(&format!("image {i}"))).collect();
    for (i, image) in images.iter().enumerate() {
        shop.registry.push(&format!("t{i}"), image);
        shop.pull(&format!("r:t{i}")).await.unwrap();
    }
    let first = &images[0];
    let id = first.id();
    for text in [
        "r:t0".to_owned(),
        "docker.io/library/r:t0".to_owned(),
        format!("r@{}", first.digest()),
        format!("r:t5@{}", first.digest()),
        id.to_string(),
        id.hex().to_owned(),
        id.short().to_owned(),
        format!("sha256:{}", id.short()),
    ] {
        assert_eq!(shop.images.resolve(&text).expect(&text), id, "{text}");
    }
    let not_found = |text: &str, says: &str| {
        let error = shop.images.resolve(text).expect_err(text);
        assert_eq!((error.chain().as_str(), error.meaning()), (says, Meaning::NotFound));
    };
    not_found("nosuch", "No such image: nosuch:latest");
    not_found("r", "No such image: r:latest");
    let zeros = format!("sha256:{}", "0".repeat(64));
    not_found(&zeros, &format!("No such image: {zeros}"));
    let mut firsts: Vec<char> = images.iter().map(|i| i.id().hex().chars().next().unwrap()).collect();
    firsts.sort_unstable();
    let twice = firsts.windows(2).find(|pair| pair[0] == pair[1]).unwrap()[0].to_string();
    let error = shop.images.resolve(&twice).expect_err("ambiguous");
    assert_eq!(error.chain(), format!("Multiple IDs found with provided prefix: {twice}"));
    assert_eq!(error.meaning(), Meaning::InvalidInput);
    assert_eq!(shop.images.resolve("Nope").expect_err("upper case").meaning(), Meaning::InvalidInput);
    // A name comes before an id that starts like it.
    tag(&shop, &images[3].id(), &id.hex()[..12]);
    assert_eq!(shop.images.resolve(&id.hex()[..12]).unwrap(), images[3].id());
}

#[tokio::test]
async fn history_goes_with_the_layers() {
    let shop = Shop::open();
    let layer = |text: &str| TestLayer::gzip(Tar::new().file(text, 0o644, text.as_bytes()).done());
    let image = TestImage::with(
        &[layer("first"), layer("second!")],
        json!({ "history": [
            { "created": "2024-01-01T00:00:00Z", "created_by": "ADD first" },
            { "created_by": "ENV x=y", "empty_layer": true },
            { "created_by": "ADD second", "comment": "done" },
        ] }),
    );
    shop.registry.push("latest", &image);
    shop.pull("h").await.unwrap();
    let known = shop.images.image(&image.id()).unwrap();
    let steps: Vec<_> = known.history().into_iter().map(|h| (h.created_by, h.size, h.id.is_some())).collect();
    assert_eq!(
        steps,
        [("ADD second".into(), 7, true), ("ENV x=y".into(), 0, false), ("ADD first".into(), 5, false)]
    );
    assert_eq!(known.comment, "done");
    assert_eq!(known.history()[0].tags, ["h:latest"]);
}
