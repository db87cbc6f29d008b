// SPDX-License-Identifier: Apache-2.0
//! What is fuzzed: everything that reads bytes of strangers on an image's way in. A target panics when something does not
//! hold; that an input is refused is fine.
#![forbid(unsafe_code)]

use std::path::Path;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 5] = [
    ("layer", layer),
    ("manifest", manifest),
    ("reference", reference),
    ("header", header),
    ("archive", archive),
];

/// A layer unpacked: nothing outside its directory changes.
pub fn layer(data: &[u8]) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let (root, canary) = (dir.path().join("root"), dir.path().join("canary"));
    std::fs::create_dir(&root).expect("a folder");
    std::fs::write(&canary, "sings").expect("a file");
    let before = std::fs::metadata(&canary).expect("the canary");
    // What is wrong with it is its own affair.
    drop(berth_image::fuzzing::layer(data, &root));
    assert_eq!(std::fs::read(&canary).expect("the canary"), b"sings", "the canary was written to");
    let after = std::fs::metadata(&canary).expect("the canary");
    assert_eq!(before.permissions(), after.permissions(), "the canary's mode was changed");
    assert_eq!(names(dir.path()), ["canary", "root"], "something was made outside");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("listing")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Manifests, indexes and configs.
pub fn manifest(data: &[u8]) {
    berth_image::fuzzing::document(data);
}

/// Names of images: one that is taken says the same when it is written and read again.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<berth_domain::Reference>() {
        let full = reference.to_string();
        let again: berth_domain::Reference = full.parse().expect("what was written is read");
        assert_eq!(again.to_string(), full);
        // Docker's short form of a user on docker.io whose name has a dot reads as a registry's; theirs and ours.
        let user = reference.repository().split('/').next().unwrap_or_default();
        if !user.contains('.') && user != "localhost" {
            let familiar: berth_domain::Reference =
                reference.familiar().parse().expect("the familiar form is read");
            assert_eq!(familiar.to_string(), full);
        }
        // A tag may hold dots; what becomes a path may not be made of them.
        let mut parts = reference.repository().split('/').chain([reference.registry()]);
        assert!(parts.all(|part| !matches!(part, "" | "." | "..")), "a name that leaves its directory");
    }
    // The instructions of `changes` are text of strangers, too.
    drop(berth_image::changes::apply(&mut Default::default(), &[text]));
}

/// What registries send in headers.
pub fn header(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        berth_registry::fuzz_headers(text);
    }
}

/// Archives, packed or not.
pub fn archive(data: &[u8]) {
    drop(berth_image::fuzzing::archive(data));
    drop(berth_image::fuzzing::packed(data));
}
