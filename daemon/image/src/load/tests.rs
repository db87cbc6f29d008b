// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Cursor;

use berth_domain::Meaning;
use berth_registry::media_type;
use serde_json::{Value, json};

use super::*;
use crate::document::sha256;
use crate::fixture::{Recorder, Shop, Tar, TestImage, TestLayer, bzip2, gzip, small, xz, zstd};

fn layer(name: &str) -> TestLayer {
    TestLayer::plain(Tar::new().file(name, 0o644, name.as_bytes()).done())
}

fn image() -> TestImage {
    TestImage::new(&[layer("one"), layer("two")])
}

fn text(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

/// As `docker save` before 25: a directory a layer, the second with a symlink to the first's content when they are the same.
#[allow(clippy::needless_pass_by_value)] // Callers write literals.
fn docker_archive(image: &TestImage, tags: Value) -> Tar {
    let mut tar = Tar::new();
    let mut names = Vec::new();
    for (i, layer) in image.layers.iter().enumerate() {
        let name = format!("layer{i}/layer.tar");
        let same = image.layers[..i].iter().position(|other| other.blob == layer.blob);
        tar = tar.dir(&format!("layer{i}/"), 0o755).file(&format!("layer{i}/VERSION"), 0o644, b"1.0");
        tar = match same {
            Some(j) => tar.symlink(&name, &format!("../layer{j}/layer.tar")),
            None => tar.file(&name, 0o644, &layer.blob),
        };
        names.push(name);
    }
    let manifest = json!([{ "Config": "config.json", "RepoTags": tags, "Layers": names }]);
    tar.file("config.json", 0o644, &image.config).file("manifest.json", 0o644, &text(&manifest))
}

/// As an OCI layout with these lines in its index.
fn oci_archive(images: &[&TestImage], index: &[Value]) -> Tar {
    let mut tar = Tar::new().dir("blobs", 0o755).dir("blobs/sha256", 0o755);
    for image in images {
        let blobs = image.layers.iter().map(|l| &l.blob).chain([&image.config, &image.manifest]);
        for blob in blobs {
            tar = tar.file(&format!("blobs/sha256/{}", sha256(blob).hex()), 0o644, blob);
        }
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": index });
    tar.file("oci-layout", 0o644, b"{\"imageLayoutVersion\":\"1.0.0\"}").file(
        "index.json",
        0o644,
        &text(&index),
    )
}

#[allow(clippy::needless_pass_by_value)] // Callers write literals.
fn line(image: &TestImage, annotations: Value) -> Value {
    json!({ "mediaType": media_type::OCI_MANIFEST, "digest": image.digest().as_str(), "size": image.manifest.len(),
        "annotations": annotations })
}

async fn load(shop: &Shop, archive: Vec<u8>) -> Result<(Vec<String>, Vec<String>)> {
    let told = Recorder::default();
    let loaded = shop.images.load(Cursor::new(archive), true, told.sink()).await?;
    Ok((loaded, told.lines()))
}

async fn refused(archive: Vec<u8>, meaning: Meaning, says: &str) {
    let shop = Shop::open();
    let error = load(&shop, archive).await.expect_err(says);
    assert!(error.chain().contains(says), "{:?} does not say {says:?}", error.chain());
    assert_eq!(error.meaning(), meaning);
    assert!(shop.images.list().is_empty());
    assert_eq!(shop.staging(), Vec::<String>::new(), "nothing stays");
}

#[tokio::test]
async fn archives_of_docker_save_whatever_they_are_packed_in() {
    let image = image();
    let plain = docker_archive(&image, json!(["app:1", "localhost:5000/app"])).done();
    for archive in [plain.clone(), gzip(&plain), zstd(&plain), xz(&plain), bzip2(&plain)] {
        let shop = Shop::open();
        let (loaded, lines) = load(&shop, archive).await.expect("loads");
        assert_eq!(loaded, ["app:1", "localhost:5000/app:latest"]);
        assert_eq!(lines, ["Loaded image: app:1\n", "Loaded image: localhost:5000/app:latest\n"]);
        let known = shop.images.image(&image.id()).unwrap();
        assert_eq!((known.repo_tags.len(), known.repo_digests.len(), known.size), (2, 0, 6));
        let layers = shop.images.layers(&image.id()).unwrap();
        assert_eq!(fs::read(layers[0].join("two")).unwrap(), b"two");
        assert_eq!(shop.staging(), Vec::<String>::new());
        // Its manifest is made, and the blobs that it lists are kept.
        for blob in &known.layer_blobs {
            assert!(shop.root.path().join("blobs/sha256").join(blob.digest.hex()).exists());
        }
        let shop = shop.reopen();
        assert_eq!(shop.images.resolve("app:1").unwrap(), image.id());
    }
}

#[tokio::test]
async fn old_archives_with_links_and_images_without_a_name() {
    let image = TestImage::new(&[layer("same"), layer("other"), layer("same")]);
    let shop = Shop::open();
    let (loaded, lines) = load(&shop, docker_archive(&image, Value::Null).done()).await.expect("loads");
    assert_eq!(loaded, [image.id().to_string()]);
    assert_eq!(lines, [format!("Loaded image ID: {}\n", image.id())]);
    assert_eq!(shop.images.layers(&image.id()).unwrap().len(), 3);
}

#[tokio::test]
async fn layers_are_told_unless_quiet() {
    let shop = Shop::open();
    let told = Recorder::default();
    let archive = docker_archive(&image(), json!(["a:b"])).done();
    shop.images.load(Cursor::new(archive), false, told.sink()).await.unwrap();
    let bars = told.bars();
    assert_eq!(bars.len(), 4);
    assert!(bars.iter().all(|(status, _, _)| status == "Loading layer"));
}

#[tokio::test]
async fn oci_layouts_with_names_in_either_annotation() {
    let shop = Shop::open();
    let (a, b, c) = (small("a"), small("b"), small("c"));
    let archive = oci_archive(
        &[&a, &b, &c],
        &[
            line(
                &a,
                json!({ "io.containerd.image.name": "docker.io/library/a:1", "org.opencontainers.image.ref.name": "1" }),
            ),
            line(&b, json!({ "org.opencontainers.image.ref.name": "example.com/b:2" })),
            line(&c, json!({ "org.opencontainers.image.ref.name": "latest" })),
        ],
    );
    let (loaded, _) = load(&shop, archive.done()).await.expect("loads");
    assert_eq!(loaded, ["a:1".to_owned(), "example.com/b:2".to_owned(), c.id().to_string()]);
    assert_eq!(shop.images.image(&a.id()).unwrap().manifest.digest, a.digest(), "the manifest as it came");
}

#[tokio::test]
async fn an_index_in_the_layout_gives_the_hosts_image() {
    let host = small("host");
    let other = TestImage::with(&host.layers, json!({ "architecture": "s390x" }));
    let platform = |image: &TestImage, arch: &str| {
        let mut line = line(image, Value::Null);
        line["platform"] = json!({ "os": "linux", "architecture": arch });
        line
    };
    let mut attestation = line(&small("attestation"), Value::Null);
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    let host_arch = berth_domain::Platform::host().architecture;
    let index = text(&json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [platform(&other, "s390x"), platform(&host, &host_arch), attestation] }));
    let top = json!({ "mediaType": media_type::OCI_INDEX, "digest": sha256(&index).as_str(), "size": index.len(),
        "annotations": { "io.containerd.image.name": "docker.io/library/multi:latest" } });
    let blob = format!("blobs/sha256/{}", sha256(&index).hex());
    let shop = Shop::open();
    let both = oci_archive(&[&host, &other], std::slice::from_ref(&top)).file(&blob, 0o644, &index);
    load(&shop, both.done()).await.expect("loads");
    assert_eq!(shop.images.resolve("multi").unwrap(), host.id());
    // An archive of one platform of several has that one.
    let one = oci_archive(&[&other], &[top]).file(&blob, 0o644, &index);
    let (_, lines) = load(&shop, one.done()).await.expect("loads");
    assert_eq!(
        lines,
        [
            format!(
                "The image multi:latest already exists, renaming the old one with ID {} to empty string\n",
                host.id()
            ),
            "Loaded image: multi:latest\n".into()
        ]
    );
    assert_eq!(shop.images.resolve("multi").unwrap(), other.id());
    assert!(shop.images.image(&host.id()).unwrap().repo_tags.is_empty());
}

#[tokio::test]
async fn an_archive_of_both_kinds_keeps_its_own_manifest() {
    let image = small("x");
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", sha256(bytes).hex());
    let manifest = json!([{ "Config": blob(&image.config), "RepoTags": ["x:latest"], "Layers": [blob(&image.layers[0].blob)] }]);
    let archive =
        oci_archive(&[&image], &[line(&image, Value::Null)]).file("manifest.json", 0o644, &text(&manifest));
    let shop = Shop::open();
    let (loaded, _) = load(&shop, archive.done()).await.expect("loads");
    assert_eq!(loaded, ["x:latest"]);
    assert_eq!(shop.images.image(&image.id()).unwrap().manifest.digest, image.digest());
}

#[tokio::test]
async fn what_is_no_archive_of_images_is_refused() {
    let image = image();
    let archive = docker_archive(&image, json!(["a:b"])).done();
    refused(b"hello, this is not a tar archive".to_vec(), Meaning::InvalidInput, "unexpected EOF").await;
    refused(vec![b'x'; 100_000], Meaning::InvalidInput, "invalid tar header").await;
    refused(Vec::new(), Meaning::InvalidInput, "not an image archive").await;
    refused(archive[..2000].to_vec(), Meaning::InvalidInput, "unexpected EOF").await;
    let packed = gzip(&archive);
    refused(packed[..packed.len() / 2].to_vec(), Meaning::InvalidInput, "unexpected EOF").await;
    refused(b"\xfd7zXZ\0....".to_vec(), Meaning::InvalidInput, "reading the archive").await;
    refused(b"BZh9....".to_vec(), Meaning::InvalidInput, "reading the archive").await;
    refused(Tar::new().file("../x", 0o644, b"").done(), Meaning::InvalidInput, "leaves").await;
    refused(
        Tar::new().file("manifest.json", 0o644, b"{}").done(),
        Meaning::InvalidInput,
        "invalid manifest.json",
    )
    .await;
    refused(docker_archive(&image, json!(["Bad Tag"])).done(), Meaning::InvalidInput, "invalid tag").await;
    let lying = |change: Value| {
        let mut manifest = json!([{ "Config": "config.json", "RepoTags": ["a:b"], "Layers": ["layer0/layer.tar", "layer1/layer.tar"] }]);
        for (key, value) in change.as_object().unwrap() {
            manifest[0][key] = value.clone();
        }
        // Later entries win.
        docker_archive(&image, Value::Null).file("manifest.json", 0o644, &text(&manifest)).done()
    };
    refused(
        lying(json!({ "Config": "nothing.json" })),
        Meaning::InvalidInput,
        "the archive lacks \"nothing.json\"",
    )
    .await;
    refused(lying(json!({ "Config": "../../etc/passwd" })), Meaning::InvalidInput, "the archive lacks").await;
    refused(lying(json!({ "Layers": ["layer0/layer.tar"] })), Meaning::InvalidInput, "length mismatch").await;
    refused(
        lying(json!({ "Layers": ["layer1/layer.tar", "layer0/layer.tar"] })),
        Meaning::InvalidInput,
        "invalid diffID for layer",
    )
    .await;
    let looping = docker_archive(&image, Value::Null).symlink("a", "b").symlink("b", "a");
    let looping = looping.file("manifest.json", 0o644, &text(&json!([{ "Config": "a" }])));
    refused(looping.done(), Meaning::InvalidInput, "the archive lacks").await;
    refused(
        docker_archive(&image, Value::Null).symlink("layer0/layer.tar", "../../../etc/passwd").done(),
        Meaning::InvalidInput,
        "leaves",
    )
    .await;
    // A blob of an OCI layout that is not what it is called.
    let other = small("other");
    let swapped = oci_archive(&[&image], &[line(&image, Value::Null)]).file(
        &format!("blobs/sha256/{}", image.digest().hex()),
        0o644,
        &other.manifest,
    );
    refused(swapped.done(), Meaning::InvalidInput, "the archive lacks the manifest").await;
}

/// A short list that names one config again and again would fill the memory with it.
#[tokio::test]
async fn a_list_of_many_images_is_bounded() {
    let image = image();
    let item = json!({ "Config": "config.json", "RepoTags": null, "Layers": ["layer0/layer.tar", "layer1/layer.tar"] });
    let config = [image.config.clone(), vec![b' '; 1 << 20]].concat();
    let archive = |items: usize| {
        docker_archive(&image, Value::Null)
            .file("config.json", 0o644, &config)
            .file("manifest.json", 0o644, &text(&json!(vec![item.clone(); items])))
            .done()
    };
    let shop = Shop::open();
    load(&shop, archive(20)).await.expect("twenty are fine");
    refused(archive(100), Meaning::InvalidInput, "load its images one by one").await;
}

#[tokio::test]
async fn a_load_that_is_dropped_leaves_nothing() {
    let shop = Shop::open();
    let (client, server) = tokio::io::duplex(1024);
    let images = shop.images.clone();
    let task = tokio::spawn(async move { images.load(server, true, Recorder::default().sink()).await });
    let archive = docker_archive(&image(), json!(["a:b"])).done();
    let mut client = client;
    tokio::io::AsyncWriteExt::write_all(&mut client, &archive[..2000]).await.unwrap();
    task.abort();
    drop(task.await);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !shop.staging().is_empty() {
        assert!(std::time::Instant::now() < deadline, "staging is not emptied: {:?}", shop.staging());
        tokio::task::yield_now().await;
    }
    assert!(shop.images.list().is_empty());
}
