// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use berth_domain::Meaning;
use serde_json::json;

use super::*;
use crate::document::sha256;
use crate::fixture::{
    FakeRegistry, Recorder, Shop, Tar, TestImage, TestLayer, gzip, names as listing, request, small,
};

fn big_layer(seed: u64) -> TestLayer {
    // Does not compress, so that it arrives in many chunks.
    let mut state = seed;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(50_000)
    .collect();
    TestLayer::gzip(Tar::new().file("noise", 0o644, &noise).done())
}

fn short(bytes: &[u8]) -> String {
    sha256(bytes).short().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_tells_what_the_clients_know_and_leaves_an_image() {
    let shop = Shop::open();
    let image = TestImage::new(&[
        TestLayer::gzip(Tar::new().dir("bin", 0o755).file("bin/sh", 0o755, b"#!").done()),
        TestLayer::zstd(Tar::new().dir("etc", 0o755).file("etc/x", 0o600, b"x").done()),
        TestLayer::plain(Tar::new().file("bin/.wh.sh", 0, b"").done()),
    ]);
    shop.registry.push("1", &image);
    let told = Recorder::default();
    let outcome = shop.images.pull(request("localhost:5000/a/bb:1"), told.sink()).await.expect("pulls");
    assert_eq!((&outcome.image, &outcome.digest, outcome.newer), (&image.id(), &image.digest(), true));

    let lines = told.lines();
    assert_eq!(lines[0], "1: Pulling from a/bb");
    let ids: Vec<String> = image.layers.iter().map(|l| short(&l.blob)).collect();
    assert_eq!(lines[1..4], ids.iter().map(|id| format!("{id}: Pulling fs layer")).collect::<Vec<_>>());
    for id in &ids {
        let of_layer: Vec<_> = lines[4..].iter().filter(|l| l.starts_with(id)).collect();
        assert_eq!(of_layer, [&format!("{id}: Download complete"), &format!("{id}: Pull complete")]);
    }
    assert_eq!(
        lines[lines.len() - 2..],
        [
            format!("Digest: {}", image.digest()),
            "Status: Downloaded newer image for localhost:5000/a/bb:1".into()
        ]
    );
    assert!(told.bars().iter().all(|(_, done, total)| done <= total));

    let layers = shop.images.layers(&outcome.image).unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(fs::read(layers[1].join("etc/x")).unwrap(), b"x");
    assert_eq!(fs::metadata(layers[2].join("bin/sh")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(shop.staging(), Vec::<String>::new());
    let kept = listing(&shop.root.path().join("blobs/sha256"));
    assert_eq!(kept.len(), 5, "manifest, config and three layers: {kept:?}");

    let known = shop.images.image(&outcome.image).unwrap();
    assert_eq!(known.repo_tags, ["localhost:5000/a/bb:1"]);
    assert_eq!(known.repo_digests, [format!("localhost:5000/a/bb@{}", image.digest())]);
    assert_eq!(known.size, 3);
    assert_eq!(known.labels()["a"], "b");

    let again = Recorder::default();
    let outcome = shop.images.pull(request("localhost:5000/a/bb:1"), again.sink()).await.unwrap();
    assert!(!outcome.newer);
    assert_eq!(
        again.lines(),
        [
            "1: Pulling from a/bb".to_owned(),
            format!("Digest: {}", image.digest()),
            "Status: Image is up to date for localhost:5000/a/bb:1".to_owned()
        ]
    );
}

#[tokio::test]
async fn hub_names_are_told_with_their_repository_path() {
    let shop = Shop::open();
    shop.registry.push("latest", &small("x"));
    let told = Recorder::default();
    shop.images.pull(request("busybox"), told.sink()).await.unwrap();
    assert_eq!(told.lines()[0], "latest: Pulling from library/busybox");
    assert_eq!(told.lines().last().unwrap(), "Status: Downloaded newer image for busybox:latest");
}

#[tokio::test]
async fn layers_that_are_here_are_not_fetched_again() {
    let shop = Shop::open();
    let base = TestLayer::gzip(Tar::new().file("base", 0o644, b"b").done());
    let top = TestLayer::gzip(Tar::new().file("top", 0o644, b"t").done());
    shop.registry.push("1", &TestImage::new(std::slice::from_ref(&base)));
    shop.registry.push("2", &TestImage::new(&[base.clone(), top.clone(), top.clone()]));
    shop.pull("r:1").await.unwrap();
    let told = Recorder::default();
    shop.images.pull(request("r:2"), told.sink()).await.unwrap();
    let (base, top) = (short(&base.blob), short(&top.blob));
    assert_eq!(told.lines()[1..3], [format!("{base}: Already exists"), format!("{top}: Pulling fs layer")]);
    let blobs = shop.registry.asked().into_iter().filter(|(d, _)| d.short() == base).count();
    assert_eq!(blobs, 1);
}

#[tokio::test]
async fn a_tag_that_moves_leaves_the_old_image_without_it() {
    let shop = Shop::open();
    let (old, new) = (small("old"), small("new"));
    shop.registry.push("latest", &old);
    shop.pull("app").await.unwrap();
    shop.registry.push("latest", &new);
    assert!(shop.pull("app").await.unwrap().newer);
    assert_eq!(shop.images.resolve("app").unwrap(), new.id());
    let left = shop.images.image(&old.id()).unwrap();
    assert!(left.repo_tags.is_empty());
    assert_eq!(left.repo_digests, [format!("app@{}", old.digest())]);
    // And by digest.
    let outcome = shop.pull(&format!("app@{}", old.digest())).await.unwrap();
    assert_eq!((outcome.image, outcome.newer), (old.id(), false));
}

#[tokio::test]
async fn the_index_decides_by_platform() {
    let shop = Shop::open();
    let host = small("host");
    let other = TestImage::with(&host.layers, json!({ "architecture": "s390x" }));
    shop.registry.push("h", &host);
    shop.registry.push("o", &other);
    let entry = |image: &TestImage, arch: &str| {
        json!({ "mediaType": media_type::OCI_MANIFEST, "digest": image.digest().as_str(), "size": image.manifest.len(),
            "platform": { "os": "linux", "architecture": arch } })
    };
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [entry(&other, "s390x"), entry(&host, &Platform::host().architecture)],
    }))
    .unwrap();
    shop.registry.push_document(Some("latest"), media_type::OCI_INDEX, &index);
    let outcome = shop.pull("multi").await.unwrap();
    assert_eq!((outcome.image, outcome.digest.clone()), (host.id(), sha256(&index)));
    assert!(shop.root.path().join("blobs/sha256").join(outcome.digest.hex()).exists(), "the index is kept");

    let mut wanted = request("multi");
    wanted.platform = Some("linux/s390x".parse().unwrap());
    assert_eq!(shop.images.pull(wanted.clone(), Recorder::default().sink()).await.unwrap().image, other.id());
    wanted.platform = Some("linux/mips".parse().unwrap());
    let error = shop.images.pull(wanted.clone(), Recorder::default().sink()).await.unwrap_err();
    assert_eq!(error.chain(), "no matching manifest for linux/mips in the manifest list entries");
    wanted.reference = "multi:h".parse().unwrap();
    let error = shop.images.pull(wanted, Recorder::default().sink()).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::NotFound);
    assert!(
        error.chain().contains("does not match the specified platform (linux/mips)"),
        "{}",
        error.chain()
    );
}

/// Docker 28 pushes layers that it pulled packed with zstd under the media type of gzip.
#[tokio::test]
async fn a_layer_is_packed_as_its_bytes_say() {
    let shop = Shop::open();
    let image = TestImage::new(&[TestLayer::zstd(Tar::new().file("x", 0o644, b"x").done())]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    shop.registry.push("other", &image);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    shop.registry.push_document(Some("latest"), media_type::OCI_MANIFEST, &manifest);
    let id = shop.pull("named-wrongly").await.expect("pulls").image;
    assert_eq!(id, image.id());
    assert_eq!(fs::read(shop.images.layers(&id).unwrap()[0].join("x")).unwrap(), b"x");
}

async fn check_refused(spoil: impl FnOnce(&FakeRegistry), says: &str) {
    let shop = Shop::open();
    spoil(&shop.registry);
    let error = shop.pull("bad:latest").await.expect_err(says);
    assert!(error.chain().contains(says), "{:?} does not say {says:?}", error.chain());
    assert!(shop.images.list().is_empty());
    assert_eq!(listing(&shop.root.path().join("layers")), Vec::<String>::new());
    let left: Vec<_> = shop.staging().into_iter().filter(|n| !n.ends_with(".partial")).collect();
    assert_eq!(left, Vec::<String>::new(), "nothing is left in staging");
    shop.registry.push("good", &small("good"));
    shop.pull("bad:good").await.expect("the next pull is not harmed");
}

#[tokio::test]
async fn what_is_not_as_promised_is_refused() {
    let image = small("x");
    let layer = sha256(&image.layers[0].blob);
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
        change(&mut manifest);
        serde_json::to_vec(&manifest).unwrap()
    };
    let serve = |bytes: Vec<u8>| {
        let image = image.clone();
        move |registry: &FakeRegistry| {
            registry.push("other", &image);
            registry.push_document(Some("latest"), media_type::OCI_MANIFEST, &bytes);
        }
    };
    check_refused(serve(with(&|m| m["manifests"] = json!([]))), "ambiguous").await;
    check_refused(serve(with(&|m| m["Manifests"] = json!([]))), "ambiguous").await;
    check_refused(serve(with(&|m| m["mediaType"] = json!(media_type::DOCKER_MANIFEST))), "was served as")
        .await;
    check_refused(
        serve(with(&|m| m["layers"][0]["urls"] = json!(["http://evil"]))),
        "fetched from elsewhere",
    )
    .await;
    check_refused(
        serve(with(&|m| m["layers"][0]["mediaType"] = json!("text/html"))),
        "unsupported layer media",
    )
    .await;
    check_refused(serve(with(&|m| m["layers"] = json!([]))), "0 layers in the manifest and 1 in the config")
        .await;
    check_refused(serve(with(&|m| m["config"]["size"] = json!(9 << 20))), "a config of 9437184 bytes").await;
    check_refused(serve(with(&|m| m["config"]["size"] = json!(3))), "longer than its manifest says").await;
    check_refused(serve(with(&|m| m["schemaVersion"] = json!(1))), "schemaVersion").await;
    check_refused(serve(with(&|m| m["layers"][0]["size"] = json!(-1))), "negative").await;
    check_refused(serve(b"{\"schemaVersion\":1,\"fsLayers\":[]}".to_vec()), "schema 1").await;
    check_refused(serve(b"[]".to_vec()), "not an object").await;

    // Content that is not what its digest says.
    let wrong = |blob: Vec<u8>| {
        let (image, layer) = (image.clone(), layer.clone());
        move |registry: &FakeRegistry| {
            registry.push("latest", &image);
            registry.put_blob(&layer, &blob);
        }
    };
    let mut flipped = image.layers[0].blob.clone();
    let at = flipped.len() / 2;
    flipped[at] ^= 1;
    check_refused(wrong(flipped), "layer").await;
    let size = image.layers[0].blob.len();
    check_refused(wrong(image.layers[0].blob[..size - 9].to_vec()), "early").await;
    check_refused(wrong([&image.layers[0].blob[..], b"more"].concat()), "longer than its manifest says")
        .await;
    let mut same_size = gzip(&Tar::new().file("evil", 0o644, b"e").done());
    same_size.resize(size, 0);
    check_refused(wrong(same_size), "layer").await;
}

#[tokio::test]
async fn a_config_that_lies_about_its_layers_is_refused() {
    let layer = TestLayer::gzip(Tar::new().file("a", 0o644, b"a").done());
    let lying = TestImage::with(
        &[layer],
        json!({ "rootfs": { "type": "layers", "diff_ids": [sha256(b"something else").as_str()] } }),
    );
    check_refused(|registry| registry.push("latest", &lying), "as the image config says").await;
    let windows = TestImage::with(&lying.layers, json!({ "os": "windows" }));
    check_refused(|registry| registry.push("latest", &windows), "cannot be used on this platform").await;
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_broke() {
    let shop = Shop::open();
    let image = TestImage::new(&[big_layer(1)]);
    let layer = sha256(&image.layers[0].blob);
    shop.registry.push("latest", &image);
    shop.registry.break_after(&layer, 20_000);
    let error = shop.pull("big").await.expect_err("breaks");
    assert_eq!(error.chain(), "connection reset");
    assert_eq!(shop.staging(), [format!("{}.partial", layer.hex())]);
    let shop = shop.reopen();
    shop.pull("big").await.expect("resumes");
    let offsets: Vec<u64> =
        shop.registry.asked().into_iter().filter(|(d, _)| *d == layer).map(|(_, o)| o).collect();
    assert_eq!(offsets, [0, 20_000]);
}

#[tokio::test]
async fn a_damaged_partial_download_is_thrown_away() {
    let shop = Shop::open();
    let image = TestImage::new(&[big_layer(2)]);
    let layer = sha256(&image.layers[0].blob);
    shop.registry.push("latest", &image);
    let partial = shop.root.path().join(format!("staging/{}.partial", layer.hex()));
    fs::write(&partial, &image.layers[0].blob[..3000]).unwrap();
    let mut half = image.layers[0].blob[..30_000].to_vec();
    half[29_000] ^= 0xff;
    fs::write(&partial, &half).unwrap();
    shop.pull("big").await.expect("starts over");
    let offsets: Vec<u64> =
        shop.registry.asked().into_iter().filter(|(d, _)| *d == layer).map(|(_, o)| o).collect();
    assert_eq!(offsets.last(), Some(&0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_of_one_layer_share_its_download() {
    let shop = Shop::open();
    let layer = big_layer(3);
    let digest = sha256(&layer.blob);
    shop.registry.push("a", &TestImage::with(std::slice::from_ref(&layer), json!({ "author": "a" })));
    shop.registry.push("b", &TestImage::with(&[layer], json!({ "author": "b" })));
    let gate = shop.registry.gate(&digest);
    let pulls: Vec<_> = ["x:a", "x:b", "x:a"]
        .into_iter()
        .map(|name| {
            let images = shop.images.clone();
            tokio::spawn(async move { images.pull(request(name), Recorder::default().sink()).await })
        })
        .collect();
    while shop.registry.asked().iter().filter(|(d, _)| *d != digest).count() < 3 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(10_000);
    for pull in pulls {
        pull.await.unwrap().expect("pulls");
    }
    assert_eq!(shop.registry.asked().iter().filter(|(d, _)| *d == digest).count(), 1);
    assert_eq!(shop.images.list().len(), 2);
    assert_eq!(shop.staging(), Vec::<String>::new());
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited for {what} in vain");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_nobody_waits_for_stops_and_others_go_on() {
    let shop = Shop::open();
    let image = TestImage::new(&[big_layer(4)]);
    let digest = sha256(&image.layers[0].blob);
    shop.registry.push("latest", &image);
    let gate = shop.registry.gate(&digest);
    gate.add_permits(3);
    let started = |images: &Images| {
        let images = images.clone();
        tokio::spawn(async move { images.pull(request("big"), Recorder::default().sink()).await })
    };
    let (first, second) = (started(&shop.images), started(&shop.images));
    until("both configs", || shop.registry.asked().len() >= 3).await;
    first.abort();
    drop(first.await);
    gate.add_permits(10_000);
    second.await.unwrap().expect("the other one is not harmed");

    // Now with nobody left.
    let other = TestImage::new(&[big_layer(5)]);
    let digest = sha256(&other.layers[0].blob);
    shop.registry.push("latest", &other);
    let gate = shop.registry.gate(&digest);
    gate.add_permits(3);
    let alone = started(&shop.images);
    until("some bytes", || {
        fs::metadata(shop.root.path().join(format!("staging/{}.partial", digest.hex())))
            .is_ok_and(|m| m.len() == 3000)
    })
    .await;
    alone.abort();
    drop(alone.await);
    until("the layer to go", || shop.staging() == [format!("{}.partial", digest.hex())]).await;
    gate.add_permits(10_000);
    shop.pull("big").await.expect("can be pulled again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_ends_its_pull() {
    let shop = Shop::open();
    shop.registry.push("latest", &small("x"));
    let told = Recorder::default();
    told.hang_up();
    let error = shop.images.pull(request("x"), told.sink()).await.expect_err("cancelled");
    assert_eq!(error.meaning(), Meaning::Cancelled);
    until("staging to be clean", || shop.staging().iter().all(|n| n.ends_with(".partial"))).await;
    assert!(shop.images.list().is_empty());
}

#[tokio::test]
async fn all_tags_of_a_repository() {
    let shop = Shop::open();
    shop.registry.push("1", &small("1"));
    shop.registry.push("2", &small("2"));
    let mut all = request("r");
    all.all_tags = true;
    shop.images.pull(all, Recorder::default().sink()).await.unwrap();
    assert_eq!(shop.images.list().len(), 2);
    assert_ne!(shop.images.resolve("r:1").unwrap(), shop.images.resolve("r:2").unwrap());
}

#[tokio::test]
async fn what_was_pulled_is_there_after_a_restart() {
    let shop = Shop::open();
    let image = small("x");
    shop.registry.push("latest", &image);
    shop.pull("x").await.unwrap();
    let before = shop.images.image(&image.id()).unwrap();
    let shop = shop.reopen();
    let after = shop.images.image(&image.id()).unwrap();
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert_eq!(shop.images.resolve("x").unwrap(), image.id());
}

/// A filesystem of a few megabytes, gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let size = format!("size={megabytes}m");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(mounted.unwrap().success(), "this test needs root");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the small disk stays mounted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_clear_error_and_leaves_room_again() {
    let disk = SmallDisk::new(16);
    let root = disk.0.path().join("root");
    let registry = FakeRegistry::default();
    let images = crate::fixture::open(&root, &registry).unwrap();
    // Zeros would become a hole.
    let ones = TestLayer::gzip(Tar::new().file("ones", 0o644, &vec![1; 64 << 20]).done());
    registry.push("bomb", &TestImage::new(&[big_layer(6), ones, big_layer(7)]));
    let noise = TestLayer::plain(Tar::new().file("noise", 0o644, &vec![1; 32 << 20]).done());
    registry.push("long", &TestImage::new(&[noise]));
    registry.push("small", &small("fits"));
    for tag in ["r:bomb", "r:long"] {
        let error = images.pull(request(tag), Recorder::default().sink()).await.expect_err("does not fit");
        assert!(error.chain().ends_with("no space left on device"), "{}", error.chain());
        assert_eq!(error.meaning(), Meaning::Internal);
        let staging = root.join("staging");
        until("the others to end", || listing(&staging).iter().all(|name| name.ends_with(".partial"))).await;
    }
    images.pull(request("r:small"), Recorder::default().sink()).await.expect("there is room for this one");
    drop(images);
    crate::fixture::open(&root, &registry).expect("opens");
}

#[tokio::test]
async fn all_that_the_index_lists_is_told() {
    let shop = Shop::open();
    let host = small("host");
    let other = TestImage::with(&host.layers, json!({ "architecture": "s390x" }));
    shop.registry.push("h", &host);
    let about = host.digest();
    let entry = |digest: &str, size: usize, arch: &str| {
        json!({ "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size,
            "platform": { "os": if arch == "unknown" { arch } else { "linux" }, "architecture": arch } })
    };
    let mut attestation = entry(sha256(b"statement").as_str(), 9, "unknown");
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": about.as_str() });
    let entries = [
        entry(host.digest().as_str(), host.manifest.len(), &Platform::host().architecture),
        attestation,
        entry(other.digest().as_str(), other.manifest.len(), "s390x"),
    ];
    let index = serde_json::to_vec(
        &json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries }),
    );
    shop.registry.push_document(Some("latest"), media_type::OCI_INDEX, &index.unwrap());
    let id = shop.pull("attested").await.unwrap().image;
    let told = shop.images.manifests(&id).unwrap();
    let [image, statement, absent] = &told[..] else { panic!("{told:?}") };
    let whole = host.manifest.len() + host.config.len() + host.layers[0].blob.len();
    assert!(matches!(&image.what, crate::ListedKind::Image(image) if image.id == id));
    assert_eq!(image.content, whole as u64);
    assert!(
        matches!(&statement.what, crate::ListedKind::Attestation(digest) if *digest == about.to_string())
    );
    assert_eq!((statement.content, statement.annotations.len()), (0, 2));
    assert!(matches!(absent.what, crate::ListedKind::Absent));
    // One that came by no index is its own only line.
    let alone = shop.pull("attested:h").await.unwrap().image;
    assert_eq!(alone, id);
    shop.registry.push("alone", &small("alone"));
    let alone = shop.pull("attested:alone").await.unwrap().image;
    assert_eq!(shop.images.manifests(&alone).unwrap().len(), 1);
}
