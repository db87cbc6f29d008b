// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use berth_domain::Meaning;
use std::os::unix::fs::PermissionsExt;

fn id(n: u8) -> ContainerId {
    ContainerId::from_bytes([n; 32])
}

fn open() -> (tempfile::TempDir, Volumes) {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(&dir.path().join("volumes")).unwrap();
    (dir, volumes)
}

fn map(key: &str, value: &str) -> Option<BTreeMap<String, String>> {
    Some([(key.to_owned(), value.to_owned())].into())
}

#[test]
fn a_volume_is_made_once_and_survives_a_restart() {
    let (dir, volumes) = open();
    let made = volumes.create(Some("data"), "local", None, map("a", "b")).unwrap();
    assert_eq!(volumes.create(Some("data"), "", None, None).unwrap(), made);
    assert!(made.created_at.ends_with('Z') && made.created_at.len() == 20, "{}", made.created_at);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&made.mountpoint), 0o755);
    assert_eq!(mode(&dir.path().join("volumes")), 0o701);
    std::fs::write(made.mountpoint.join("f"), "12345").unwrap();
    let again = Volumes::open(&dir.path().join("volumes")).unwrap();
    assert_eq!(again.list(), [made]);
    assert_eq!(again.size("data").unwrap(), Some(5));
}

#[test]
fn names_follow_dockers_rule() {
    let (_dir, volumes) = open();
    let text = |name: &str| volumes.create(Some(name), "", None, None).unwrap_err().to_string();
    assert_eq!(
        text("a/b"),
        "\"a/b\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    );
    for bad in ["../x", ".x", "-x", "a b", "a\0b", "ä1"] {
        assert!(text(bad).contains("includes invalid characters"), "{bad:?}");
    }
    assert!(text("a").starts_with("volume name is too short"));
    assert!(text(&"a".repeat(256)).contains("too long"));
    assert!(volumes.list().is_empty());
    let error = volumes.create(Some("ok"), "nfs", None, None).unwrap_err();
    assert_eq!(error.chain(), "create ok: error looking up volume plugin nfs: plugin \"nfs\" not found");
}

#[test]
fn a_nameless_volume_is_anonymous() {
    let (_dir, volumes) = open();
    let made = volumes.create(None, "", None, map("a", "b")).unwrap();
    assert_eq!(made.name.len(), 64);
    assert!(made.is_anonymous() && made.labels.unwrap()["a"] == "b");
    assert!(!volumes.create(Some("named"), "", None, None).unwrap().is_anonymous());
}

#[test]
fn a_used_volume_stays() {
    let (_dir, volumes) = open();
    volumes.create(Some("data"), "", None, None).unwrap();
    volumes.acquire("data", &id(1)).unwrap();
    volumes.acquire("data", &id(1)).unwrap();
    volumes.acquire("data", &id(2)).unwrap();
    let error = volumes.remove("data", true).unwrap_err();
    assert_eq!(error.meaning(), Meaning::Conflict);
    assert_eq!(error.to_string(), format!("remove data: volume is in use - [{}, {}]", id(1), id(2)));
    volumes.release("data", &id(1));
    volumes.release("data", &id(2));
    let path = volumes.inspect("data").unwrap().mountpoint;
    volumes.remove("data", false).unwrap();
    assert!(!path.exists());
    let error = volumes.remove("data", false).unwrap_err();
    assert_eq!(
        (error.meaning(), error.to_string().as_str()),
        (Meaning::NotFound, "get data: no such volume")
    );
    volumes.remove("data", true).unwrap();
    assert_eq!(volumes.acquire("data", &id(1)).unwrap_err().meaning(), Meaning::NotFound);
}

#[test]
fn pruning_takes_unused_anonymous_volumes() {
    let (_dir, volumes) = open();
    let used = volumes.create(None, "", None, None).unwrap();
    let unused = volumes.create(None, "", None, None).unwrap();
    volumes.create(Some("named"), "", None, map("keep", "yes")).unwrap();
    volumes.create(Some("other"), "", None, None).unwrap();
    std::fs::write(unused.mountpoint.join("f"), "123").unwrap();
    volumes.acquire(&used.name, &id(1)).unwrap();
    let pruned = volumes.prune(false, |_| true).unwrap();
    assert_eq!(pruned, Pruned { removed: vec![unused.name], reclaimed: 3 });
    let kept = |volume: &Volume| volume.labels.as_ref().is_none_or(|l| !l.contains_key("keep"));
    assert_eq!(volumes.prune(true, kept).unwrap().removed, ["other"]);
    assert_eq!(volumes.list().len(), 2);
}

#[test]
fn leftovers_and_damage_do_not_stop_the_daemon() {
    let (dir, volumes) = open();
    let root = dir.path().join("volumes");
    volumes.create(Some("good"), "", None, None).unwrap();
    std::fs::create_dir_all(root.join("damaged/_data")).unwrap();
    std::fs::write(root.join("damaged/meta.json"), "{").unwrap();
    std::fs::create_dir_all(root.join(".making-1/_data")).unwrap();
    std::fs::create_dir_all(root.join("good/.filling/half")).unwrap();
    let again = Volumes::open(&root).unwrap();
    assert_eq!(again.list().len(), 1);
    assert!(!root.join("good/.filling").exists());
    // A damaged volume's content is not given to somebody else under its name.
    assert!(again.create(Some("damaged"), "", None, None).is_err());
    assert!(root.join("damaged/_data").exists());
}

#[test]
fn many_at_once_make_one_volume() {
    let (_dir, volumes) = open();
    let threads: Vec<_> = (0..16)
        .map(|n| {
            let volumes = volumes.clone();
            std::thread::spawn(move || {
                volumes.create_for(Some(&id(n)), Some("shared"), "", None, None).unwrap().new
            })
        })
        .collect();
    let new = threads.into_iter().filter_map(|t| t.join().unwrap().then_some(())).count();
    assert_eq!(new, 1);
    assert_eq!(volumes.users("shared").len(), 16);
}
