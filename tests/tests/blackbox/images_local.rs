// SPDX-License-Identifier: Apache-2.0
//! Images that are here: listed, filtered, inspected, removed, pruned, and how much room they take.

use std::collections::BTreeSet;

use berth_tests::harness::Bed;
use serde_json::Value;

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("an object: {value}")).keys().map(String::as_str).collect()
}

/// All keys of `least` are there and no others than those and `also`.
#[track_caller]
fn shape(what: &str, value: &Value, least: &[&str], also: &[&str]) {
    let keys = keys(value);
    let missing: Vec<_> = least.iter().filter(|k| !keys.contains(*k)).collect();
    assert!(missing.is_empty(), "{what} lacks {missing:?}: {value}");
    let others: Vec<_> = keys.iter().filter(|k| !least.contains(k) && !also.contains(k)).collect();
    assert!(others.is_empty(), "{what} has {others:?}: {value}");
}

/// What 28.5.2 answers to API 1.51.
#[test]
fn shapes_of_lists_inspections_and_histories() {
    let bed = Bed::start();
    bed.docker(&["pull", "redis"]).ok();
    let get = |path: &str| bed.api("GET", &format!("/v1.51{path}"), "").json();
    let line = &get("/images/json")[0];
    let least = [
        "Containers",
        "Created",
        "Id",
        "Labels",
        "ParentId",
        "RepoDigests",
        "RepoTags",
        "SharedSize",
        "Size",
    ];
    // Stores that keep manifests tell the descriptor.
    shape("a line", line, &least, &["Descriptor"]);
    assert_eq!(line["SharedSize"], -1);
    assert_eq!(line["RepoTags"], serde_json::json!(["redis:latest"]));
    let digest = line["RepoDigests"][0].as_str().expect("a digest");
    assert!(digest.starts_with("redis@sha256:"), "{digest}");
    let asked = &get("/images/json?shared-size=1")[0];
    assert_eq!(asked["SharedSize"], 0);

    let image = get("/images/redis/json");
    let least = [
        "Id",
        "RepoTags",
        "RepoDigests",
        "Parent",
        "Comment",
        "Created",
        "DockerVersion",
        "Author",
        "Architecture",
        "Os",
        "Size",
        "GraphDriver",
        "RootFS",
        "Metadata",
        "Config",
    ];
    shape("an image", &image, &least, &["Descriptor", "Variant", "VirtualSize"]);
    shape("its root", &image["RootFS"], &["Type", "Layers"], &[]);
    shape("its driver", &image["GraphDriver"], &["Name", "Data"], &[]);
    shape("its metadata", &image["Metadata"], &["LastTagTime"], &[]);
    assert_eq!(image["Size"], line["Size"]);
    let history = get("/images/redis/history");
    let least = ["Comment", "Created", "CreatedBy", "Id", "Size", "Tags"];
    for step in history.as_array().expect("steps") {
        shape("a step", step, &least, &[]);
    }
    assert_eq!((&history[0]["Id"], &history[0]["Tags"][0]), (&image["Id"], &"redis:latest".into()));
    assert_eq!(history[1]["Id"], "<missing>");
    bed.finish();
}

#[test]
fn filters_of_a_list() {
    let bed = Bed::start();
    for image in ["busybox", "redis"] {
        bed.docker(&["pull", image]).ok();
    }
    bed.docker(&["tag", "busybox", "a/b:1"]).ok();
    bed.docker(&["create", "--name", "source", "busybox"]).ok();
    bed.docker(&["commit", "-c", "LABEL one=1 two=2", "source", "labelled:1"]).ok();
    // A tag that moves leaves an image without one.
    bed.docker(&["commit", "-c", "LABEL three=3", "source", "moving"]).ok();
    bed.docker(&["commit", "-c", "LABEL four=4", "source", "moving"]).ok();
    bed.docker(&["rm", "source"]).ok();
    let list = |filters: &[&str]| {
        let mut args = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        for filter in filters {
            args.extend(["--filter", *filter]);
        }
        let mut names: Vec<String> = bed.docker(&args).ok().lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let all = ["<none>:<none>", "a/b:1", "busybox:latest", "labelled:1", "moving:latest", "redis:latest"];
    assert_eq!(list(&[]), all);
    assert_eq!(list(&["dangling=true"]), all[..1]);
    assert_eq!(list(&["dangling=false"]), all[1..]);
    assert_eq!(list(&["reference=busybox"]), ["busybox:latest"]);
    assert_eq!(list(&["reference=*/*"]), ["a/b:1"]);
    assert_eq!(list(&["reference=*:latest"]), ["busybox:latest", "moving:latest", "redis:latest"]);
    assert_eq!(list(&["reference=redis", "reference=labelled"]), ["labelled:1", "redis:latest"]);
    assert_eq!(list(&["label=one"]), ["labelled:1"]);
    assert_eq!(list(&["label=one=1", "label=two=2"]), ["labelled:1"]);
    assert_eq!(list(&["label=one=2"]), [""; 0]);
    assert_eq!(list(&["since=redis"]), ["<none>:<none>", "labelled:1", "moving:latest"]);
    assert_eq!(list(&["before=labelled:1", "reference=redis"]), ["redis:latest"]);
    assert_eq!(list(&["until=2000-01-01"]), [""; 0]);
    let unknown = bed.docker(&["images", "--filter", "nope=1"]).fails(1);
    assert!(unknown.contains("invalid filter 'nope'"), "{unknown}");
    let missing = bed.docker(&["images", "--filter", "since=nosuch"]).fails(1);
    assert!(missing.contains("No such image: nosuch"), "{missing}");
    bed.finish();
}

#[test]
fn removal_by_name_digest_and_id_and_prune() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let image = bed.api("GET", "/images/busybox/json", "").json();
    let (id, digest) =
        (image["Id"].as_str().unwrap().to_owned(), image["RepoDigests"][0].as_str().unwrap().to_owned());
    bed.docker(&["tag", "busybox", "second:1"]).ok();
    bed.docker(&["tag", "busybox", "third:1"]).ok();
    // By id, several repositories are in the way.
    let several = bed.docker(&["rmi", &id]).fails(1);
    assert!(
        several.contains("must be forced") && several.contains("referenced in multiple repositories"),
        "{several}"
    );
    assert_eq!(bed.docker(&["rmi", "second:1"]).ok(), "Untagged: second:1");
    // A container stands on it.
    bed.docker(&["create", "--name", "user", "busybox"]).ok();
    bed.docker(&["rmi", "third:1"]).ok();
    let used = bed.docker(&["rmi", "busybox"]).fails(1);
    assert!(used.contains("unable to remove repository reference \"busybox\" (must force)"), "{used}");
    bed.docker(&["rm", "user"]).ok();
    // By digest the digest goes; with the last name the image.
    let removed = bed.docker(&["rmi", &digest]).ok();
    assert!(removed.contains(&format!("Untagged: {digest}")), "{removed}");
    if bed.docker(&["images", "-q", "busybox"]).ok().is_empty() {
        bed.docker(&["pull", "busybox"]).ok();
    }
    let gone = bed.docker(&["rmi", "busybox"]).ok();
    assert!(gone.contains("Untagged: busybox:latest") && gone.contains(&format!("Deleted: {id}")), "{gone}");
    assert_eq!(bed.api("DELETE", "/images/busybox", "").message(), "No such image: busybox:latest");

    // Prune: what has no tag, or with dangling=false all that nobody uses.
    for image in ["busybox", "redis"] {
        bed.docker(&["pull", image]).ok();
    }
    bed.docker(&["create", "--name", "source", "busybox"]).ok();
    for label in ["one", "two"] {
        bed.docker(&["commit", "-c", &format!("LABEL {label}=1"), "source", "moving"]).ok();
    }
    let kept = bed.docker(&["image", "prune", "-f", "--filter", "label=two"]).ok();
    assert!(!kept.contains("deleted: "), "{kept}");
    let pruned = bed.docker(&["image", "prune", "-f", "--filter", "label=one"]).ok();
    assert!(pruned.contains("deleted: sha256:"), "{pruned}");
    let pruned = bed.docker(&["image", "prune", "-f", "-a"]).ok();
    assert!(
        pruned.contains("untagged: redis:latest") && pruned.contains("untagged: moving:latest"),
        "{pruned}"
    );
    assert!(!pruned.contains("untagged: busybox:latest"), "a container uses it: {pruned}");
    assert_eq!(bed.docker(&["images", "--format", "{{.Repository}}"]).ok(), "busybox");
    bed.finish();
}

#[test]
fn the_room_that_images_take() {
    let bed = Bed::start();
    for image in ["busybox", "redis"] {
        bed.docker(&["pull", image]).ok();
    }
    bed.docker(&["create", "--name", "user", "busybox"]).ok();
    let usage = bed.api("GET", "/v1.51/system/df", "").json();
    shape(
        "system df",
        &usage,
        &["LayersSize", "Images", "Containers", "Volumes", "BuildCache"],
        &["BuilderSize"],
    );
    let images = usage["Images"].as_array().expect("images");
    assert_eq!(images.len(), 2);
    let sizes: Vec<i64> = images.iter().map(|i| i["Size"].as_i64().unwrap()).collect();
    let total = usage["LayersSize"].as_i64().unwrap();
    assert!(total > 0 && total <= sizes.iter().sum::<i64>(), "{total} of {sizes:?}");
    let counts: BTreeSet<i64> = images.iter().map(|i| i["Containers"].as_i64().unwrap()).collect();
    assert_eq!(counts, BTreeSet::from([0, 1]));
    let only = bed.api("GET", "/v1.51/system/df?type=image", "").json();
    assert!(only["Containers"].is_null() && only["Images"].is_array(), "{only}");

    // Sums, and lists for who wants them, since 1.52; the reference is older.
    if bed.is_ours() {
        let usage = bed.api("GET", "/v1.52/system/df", "").json();
        shape(
            "system df",
            &usage,
            &[
                "ImageUsage",
                "ContainerUsage",
                "VolumeUsage",
                "BuildCacheUsage",
                "LayersSize",
                "Images",
                "Containers",
            ],
            &["Volumes", "BuildCache"],
        );
        let images = &usage["ImageUsage"];
        assert_eq!((&images["ActiveCount"], &images["TotalCount"]), (&1.into(), &2.into()), "{images}");
        assert_eq!(images["TotalSize"], total);
        let reclaimable = images["Reclaimable"].as_i64().unwrap();
        assert!(reclaimable > 0 && reclaimable < total, "{images}");
        assert!(images["Items"].is_null());
        let verbose = bed.api("GET", "/v1.52/system/df?verbose=1", "").json();
        assert_eq!(verbose["ImageUsage"]["Items"].as_array().map(Vec::len), Some(2), "{verbose}");
        assert!(verbose["Images"].is_null() && verbose["LayersSize"].is_null(), "{verbose}");
    }
    bed.finish();
}
