// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::Images;
use crate::fixture::{Shop, Tar, TestImage, TestLayer};

/// The attributes that overlayfs would show: those of the topmost directory of this name.
fn shown(layers: &[PathBuf], path: &str) -> (u32, u32, u32) {
    let meta = layers.iter().find_map(|layer| fs::symlink_metadata(layer.join(path)).ok()).expect(path);
    (meta.mode() & 0o7777, meta.uid(), meta.gid())
}

async fn pulled(layers: Vec<Tar>) -> (Shop, Images, Vec<PathBuf>) {
    let shop = Shop::open();
    let layers: Vec<_> = layers.into_iter().map(|tar| TestLayer::gzip(tar.done())).collect();
    let image = TestImage::new(&layers);
    shop.registry.push("latest", &image);
    shop.pull("x").await.expect("pulls");
    let (images, dirs) = (shop.images.clone(), shop.images.layers(&image.id()).unwrap());
    (shop, images, dirs)
}

#[tokio::test]
async fn implied_directories_keep_the_attributes_from_below() {
    let (_shop, _, layers) = pulled(vec![
        Tar::new()
            .dir("tmp", 0o1777)
            .owned(b'5', "home", 0o711, 0, 0)
            .owned(b'5', "home/u", 0o700, 1000, 1000),
        Tar::new().file("other", 0o644, b""),
        Tar::new().file("tmp/x", 0o644, b"").file("home/u/x", 0o644, b"").file("new/x", 0o644, b""),
    ])
    .await;
    assert_eq!(layers.len(), 4, "one more than the layers");
    assert_eq!(shown(&layers, "tmp"), (0o1777, 0, 0));
    assert_eq!(shown(&layers, "home"), (0o711, 0, 0));
    assert_eq!(shown(&layers, "home/u"), (0o700, 1000, 1000));
    assert_eq!(shown(&layers, "new"), (0o755, 0, 0));
    assert!(!layers[0].join("new").exists());
    assert!(!layers[0].join("tmp/x").exists());
}

#[tokio::test]
async fn images_that_need_nothing_get_nothing() {
    let (shop, _, layers) = pulled(vec![
        Tar::new().dir("etc", 0o755).dir("tmp", 0o1777),
        Tar::new().file("etc/x", 0o644, b"").dir("tmp", 0o1777).file("tmp/y", 0o644, b""),
    ])
    .await;
    assert_eq!(layers.len(), 2);
    let names = crate::fixture::names(&shop.root.path().join("layers"));
    assert!(names.iter().all(|name| !name.ends_with(".parents")));
}

#[tokio::test]
async fn what_is_hidden_does_not_count() {
    // Removed and made anew by a layer that only implies it.
    let (_shop, _, layers) = pulled(vec![
        Tar::new().dir("d", 0o700),
        Tar::new().file(".wh.d", 0, b""),
        Tar::new().file("d/x", 0o644, b""),
    ])
    .await;
    assert_eq!((layers.len(), shown(&layers, "d")), (3, (0o755, 0, 0)));
    // Opaque from there on.
    let (_shop, _, layers) = pulled(vec![
        Tar::new().dir("d", 0o700),
        Tar::new().file("d/.wh..wh..opq", 0, b"").file("d/x", 0o644, b""),
    ])
    .await;
    assert_eq!((layers.len(), shown(&layers, "d")), (2, (0o755, 0, 0)));
    // A file below hides the directory further below.
    let (_shop, _, layers) = pulled(vec![
        Tar::new().dir("d", 0o700),
        Tar::new().file("d", 0o644, b""),
        Tar::new().file("d/x", 0o644, b""),
    ])
    .await;
    assert_eq!((layers.len(), shown(&layers, "d")), (3, (0o755, 0, 0)));
    // Stated again above: nothing to mend.
    let (_shop, _, layers) = pulled(vec![
        Tar::new().dir("d", 0o700),
        Tar::new().file("d/x", 0o644, b""),
        Tar::new().dir("d", 0o750),
    ])
    .await;
    assert_eq!((layers.len(), shown(&layers, "d")), (3, (0o750, 0, 0)));
}

#[tokio::test]
async fn it_goes_with_the_image() {
    let (shop, images, layers) =
        pulled(vec![Tar::new().dir("tmp", 0o1777), Tar::new().file("tmp/x", 0o644, b"")]).await;
    assert!(layers[0].parent().unwrap().to_str().unwrap().ends_with(".parents"));
    images.remove("x", crate::RemoveOptions::default(), |_| Vec::new()).unwrap();
    assert_eq!(crate::fixture::names(&shop.root.path().join("layers")), Vec::<String>::new());
}

/// What the kernel makes of the layers: each path's type, mode, owner and name, in a mount namespace that ends with the
/// command.
fn merged(layers: &[PathBuf]) -> Vec<String> {
    let lower = layers.iter().map(|l| l.to_str().unwrap()).collect::<Vec<_>>().join(":");
    let script = format!(
        "mount -t tmpfs tmpfs /mnt && mkdir /mnt/m && mount -t overlay overlay -o ro,lowerdir={lower} /mnt/m \
         && cd /mnt/m && find . -mindepth 1 -printf '%y %m %U %P\\n' | LC_ALL=C sort -k4"
    );
    let done = std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_kernel_shows_the_image_as_it_was_meant() {
    let (_shop, _, layers) = pulled(vec![
        Tar::new()
            .dir("tmp", 0o1777)
            .dir("etc", 0o755)
            .file("etc/gone", 0o644, b"")
            .file("etc/kept", 0o640, b"")
            .dir("opaque", 0o755)
            .file("opaque/old", 0o644, b"")
            .dir("again", 0o700)
            .file("again/old", 0o644, b""),
        Tar::new()
            .file("etc/.wh.gone", 0, b"")
            .file("opaque/.wh..wh..opq", 0, b"")
            .file("opaque/new", 0o644, b"")
            .file(".wh.again", 0, b"")
            .dir("again", 0o711)
            .file("again/new", 0o600, b""),
        Tar::new().owned(b'0', "tmp/x", 0o4755, 7, 7),
    ])
    .await;
    assert_eq!(
        merged(&layers),
        [
            "d 711 0 again",
            "f 600 0 again/new",
            "d 755 0 etc",
            "f 640 0 etc/kept",
            "d 755 0 opaque",
            "f 644 0 opaque/new",
            "d 1777 0 tmp",
            "f 4755 7 tmp/x",
        ]
    );
}
