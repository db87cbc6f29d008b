// SPDX-License-Identifier: Apache-2.0
//! As many layers as the kernel takes.

use std::fs;
use std::io::{Cursor, Read as _};

use berth_tests::harness::Bed;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// What an image may have; overlayfs takes 500 with what the engine adds.
const LAYERS: usize = 490;

fn entry(archive: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content).unwrap();
}

/// An archive of an image with so many layers, on top of those of another archive's.
fn stacked(saved: &[u8], name: &str, layers: usize) -> Vec<u8> {
    let mut files = std::collections::BTreeMap::new();
    for file in tar::Archive::new(Cursor::new(saved)).entries().unwrap() {
        let mut file = file.unwrap();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        files.insert(file.path().unwrap().display().to_string(), content);
    }
    let mut manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let item = &mut manifest[0];
    let mut config: Value = serde_json::from_slice(&files[item["Config"].as_str().unwrap()]).unwrap();
    config.as_object_mut().unwrap().remove("history");
    let mut archive = tar::Builder::new(Vec::new());
    let there: Vec<String> =
        item["Layers"].as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_owned()).collect();
    for layer in &there {
        entry(&mut archive, layer, &files[layer]);
    }
    for n in there.len()..layers {
        let mut layer = tar::Builder::new(Vec::new());
        entry(&mut layer, &format!("stack/{n}"), n.to_string().as_bytes());
        entry(&mut layer, "stack/top", n.to_string().as_bytes());
        let layer = layer.into_inner().unwrap();
        let path = format!("layer-{n}.tar");
        entry(&mut archive, &path, &layer);
        item["Layers"].as_array_mut().unwrap().push(path.into());
        let digest = format!("sha256:{:x}", Sha256::digest(&layer));
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(digest.into());
    }
    item["Config"] = "config.json".into();
    item["RepoTags"] = serde_json::json!([name]);
    entry(&mut archive, "config.json", config.to_string().as_bytes());
    entry(&mut archive, "manifest.json", manifest.to_string().as_bytes());
    archive.into_inner().unwrap()
}

#[test]
fn an_image_may_have_as_many_layers_as_the_kernel_takes() {
    let bed = Bed::start();
    if !bed.is_ours() {
        // The reference takes 127.
        return bed.finish();
    }
    bed.docker(&["pull", "busybox"]).ok();
    let saved = bed.path().join("saved.tar");
    bed.docker(&["save", "-o", saved.to_str().unwrap(), "busybox"]).ok();
    let archive = bed.path().join("stacked.tar");
    fs::write(&archive, stacked(&fs::read(&saved).unwrap(), "stacked:high", LAYERS)).unwrap();
    bed.docker(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();
    let top = (LAYERS - 1).to_string();
    bed.docker(&[
        "run",
        "--name",
        "high",
        "stacked:high",
        "sh",
        "-c",
        "cat /stack/top; echo mine > /stack/top; rm /stack/400",
    ])
    .ok();
    assert_eq!(bed.docker(&["logs", "high"]).ok(), top);
    // The container's files put together anew, compared, and mounted in another.
    let to = bed.path().join("copied");
    bed.docker(&["cp", "high:/stack/top", to.to_str().unwrap()]).ok();
    assert_eq!(fs::read_to_string(&to).unwrap(), "mine\n");
    bed.docker(&["cp", to.to_str().unwrap(), "high:/stack/new"]).ok();
    let mut diff: Vec<String> = bed.docker(&["diff", "high"]).ok().lines().map(str::to_owned).collect();
    diff.sort();
    assert_eq!(diff, ["A /stack/new", "C /stack", "C /stack/top", "D /stack/400"]);
    let seen = bed
        .docker(&[
            "run",
            "--rm",
            "--mount",
            "type=image,source=stacked:high,target=/m",
            "busybox",
            "cat",
            "/m/stack/top",
            "/m/stack/400",
        ])
        .ok();
    assert_eq!(seen, format!("{top}400"));
    // One more is too many, and says so.
    let error = bed.docker(&["commit", "high", "higher:one"]).fails(1);
    assert!(error.contains(&format!("{LAYERS} layers")), "{error}");
    bed.docker(&["rm", "high"]).ok();
    bed.docker(&["rmi", "stacked:high"]).ok();
    bed.finish();
}
