// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_domain::Meaning;
use tempfile::TempDir;

use super::*;

/// One test at a time: a child that one test forks holds the locks of another's store until it reaches exec.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(store: &Store, tree: &str, key: &str, value: &str) {
    let mut batch = Batch::new();
    batch.put(tree, key, value);
    store.commit(batch).expect("commit");
}

fn value(store: &Store, tree: &str, key: &str) -> Option<String> {
    store.tree(tree).unwrap().get(key).unwrap().map(|v| String::from_utf8(v).unwrap())
}

fn path_in(dir: &TempDir) -> PathBuf {
    dir.path().join("images.sled")
}

fn broken_folders(dir: &TempDir) -> usize {
    fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains(".broken-"))
        .count()
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let _turn = alone();
    let dir = TempDir::new().unwrap();
    {
        let store = Store::open(path_in(&dir)).unwrap();
        put(&store, "a", "k", "1");
        put(&store, "ab", "k", "2");
        let mut batch = Batch::new();
        batch.put("a", "l", "3").delete("ab", "k").put("a", "m", "4");
        store.commit(batch).unwrap();
    }
    let store = Store::open(path_in(&dir)).unwrap();
    assert!(!store.was_rebuilt());
    assert_eq!(value(&store, "a", "k").as_deref(), Some("1"));
    assert_eq!(value(&store, "ab", "k"), None, "a tree does not see its neighbour's records");
    let keys: Vec<_> = store.tree("a").unwrap().iter().unwrap().into_iter().map(|(k, _)| k).collect();
    assert_eq!(keys, [b"k", b"l", b"m"]);
    assert_eq!(store.tree("a").unwrap().scan_prefix("l").unwrap().len(), 1);
}

#[test]
fn a_second_opener_is_told_who_is_in_the_way() {
    let _turn = alone();
    let dir = TempDir::new().unwrap();
    let first = Store::open(path_in(&dir)).unwrap();
    let error = Store::open(path_in(&dir)).expect_err("opened twice");
    assert_eq!(error.meaning(), Meaning::Conflict);
    assert!(error.chain().contains("in use by another process"), "{}", error.chain());
    drop(first);
    Store::open(path_in(&dir)).expect("free again");
}

#[test]
fn bounds_are_kept() {
    let _turn = alone();
    let dir = TempDir::new().unwrap();
    let store = Store::open(path_in(&dir)).unwrap();
    for (tree, key, len) in
        [("t", "k".to_owned(), MAX_VALUE + 1), ("t", "k".repeat(MAX_KEY + 1), 1), ("", "k".into(), 1)]
    {
        let mut batch = Batch::new();
        batch.put(tree, key, vec![0; len]);
        assert_eq!(store.commit(batch).expect_err("too big").meaning(), Meaning::InvalidInput);
    }
    let mut batch = Batch::new();
    batch.put("t", "k", vec![7; MAX_VALUE]);
    store.commit(batch).unwrap();
    drop(store);
    let store = Store::open(path_in(&dir)).unwrap();
    assert_eq!(store.tree("t").unwrap().get("k").unwrap(), Some(vec![7; MAX_VALUE]));
}

#[test]
fn torn_snapshots_are_no_obstacle() {
    let _turn = alone();
    let dir = TempDir::new().unwrap();
    {
        let store = Store::open(path_in(&dir)).unwrap();
        put(&store, "t", "k", "v");
    }
    let path = path_in(&dir);
    fs::write(path.join("snap.0000000000000001.generating"), b"torn").unwrap();
    fs::write(path.join("snap.00000000FFFFFFFF"), b"half a snapshot").unwrap();
    let store = Store::open(&path).unwrap();
    assert!(!store.was_rebuilt());
    assert_eq!(value(&store, "t", "k").as_deref(), Some("v"));
    assert_eq!(broken_folders(&dir), 0);
}

#[test]
fn an_unreadable_store_is_moved_aside() {
    let _turn = alone();
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    for round in 0..4 {
        {
            let store = Store::open(&path).unwrap();
            put(&store, "t", "k", "v");
        }
        fs::write(path.join("conf"), b"segment_size: seven\nuse_compression: maybe\nversion: x\n\0\0\0\0")
            .unwrap();
        let store = Store::open(&path).expect("opens anew");
        assert!(store.was_rebuilt(), "round {round}");
        assert!(store.moved_aside().unwrap().join("db").exists());
        assert_eq!(value(&store, "t", "k"), None);
        put(&store, "t", "k", "again");
    }
    assert_eq!(broken_folders(&dir), 2, "old damaged folders do not pile up");
    let store = Store::open(&path).unwrap();
    assert!(!store.was_rebuilt());
    assert_eq!(value(&store, "t", "k").as_deref(), Some("again"));
}

/// Opens in a child: sled marks its thread pool broken for the whole process when one of its threads panics.
fn open_in_child(path: &Path) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::child_opens", "--nocapture", "--ignored"])
        .env("STORE_TEST_PATH", path)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&child.stdout).into_owned()
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn child_opens() {
    let Some(path) = std::env::var_os("STORE_TEST_PATH") else { return };
    let store = Store::open(PathBuf::from(path)).expect("opens");
    let n = store.tree("t").unwrap().iter().unwrap().len();
    put(&store, "probe", "k", "v");
    println!("\nRECORDS {n} REBUILT {}", store.was_rebuilt());
}

#[test]
fn flipped_bytes_never_keep_it_from_opening() {
    let _turn = alone();
    let dir = TempDir::new().unwrap();
    let whole = dir.path().join("whole");
    {
        let store = Store::open(&whole).unwrap();
        for i in 0..200 {
            put(&store, "t", &format!("key{i}"), &"v".repeat(300));
        }
    }
    let len = fs::metadata(whole.join("db")).unwrap().len();
    for step in 0..12_u64 {
        let copy = dir.path().join("images.sled");
        for left in fs::read_dir(dir.path()).unwrap() {
            let left = left.unwrap().path();
            if left != whole {
                fs::remove_dir_all(left).unwrap();
            }
        }
        assert!(Command::new("cp").arg("-a").arg(&whole).arg(&copy).status().unwrap().success());
        let mut db = OpenOptions::new().read(true).write(true).open(copy.join("db")).unwrap();
        let at = len / 12 * step + 37;
        let mut byte = [0; 8];
        db.seek(SeekFrom::Start(at)).unwrap();
        db.read_exact(&mut byte).unwrap();
        db.seek(SeekFrom::Start(at)).unwrap();
        db.write_all(&byte.map(|b| !b)).unwrap();
        drop(db);
        let said = open_in_child(&copy);
        assert!(said.contains("RECORDS"), "flipped at {at}: {said}");
        let again = open_in_child(&copy);
        assert!(again.contains("REBUILT false"), "the second opening is clean: {again}");
    }
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn child_writes() {
    let Some(path) = std::env::var_os("STORE_TEST_PATH") else { return };
    let store = Store::open(PathBuf::from(path)).expect("opens");
    let from = store.tree("t").unwrap().iter().unwrap().len();
    for i in from.. {
        let mut batch = Batch::new();
        batch.put("t", format!("{i:08}"), "x").put("u", format!("{i:08}"), "x");
        store.commit(batch).unwrap();
        println!("\nACK {i}");
    }
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    use std::io::{BufRead, BufReader};
    let _turn = alone();
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    for round in 1..=8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::child_writes", "--nocapture", "--ignored"])
            .env("STORE_TEST_PATH", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acked = None;
        let mut seen = 0;
        while seen < 10 * round {
            let line = lines.next().expect("the writer lives").unwrap();
            if let Some(n) = line.strip_prefix("ACK ") {
                acked = Some(n.parse::<usize>().unwrap());
                seen += 1;
            }
        }
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("ACK ").and_then(|n| n.parse().ok()) {
                acked = Some(n);
            }
        }
        child.wait().unwrap();
        let store = Store::open(&path).unwrap();
        assert!(!store.was_rebuilt());
        let t = store.tree("t").unwrap().iter().unwrap();
        assert!(t.len() > acked.unwrap(), "acknowledged {acked:?}, found {}", t.len());
        assert_eq!(t, store.tree("u").unwrap().iter().unwrap(), "a batch is whole");
    }
}

#[test]
fn many_committers_share_syncs() {
    let _turn = alone();
    let dir = TempDir::new().unwrap();
    let store = Store::open(path_in(&dir)).unwrap();
    std::thread::scope(|scope| {
        for t in 0..16 {
            let store = &store;
            scope.spawn(move || {
                for i in 0..20 {
                    put(store, "t", &format!("{t}-{i}"), "v");
                }
            });
        }
    });
    assert_eq!(store.tree("t").unwrap().iter().unwrap().len(), 320);
}

/// A filesystem of a few megabytes, gone with the value.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(dir.path()).status();
        assert!(mounted.unwrap().success(), "this test needs root");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the small disk stays mounted");
    }
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn child_fills_the_disk() {
    let Some(path) = std::env::var_os("STORE_TEST_PATH") else { return };
    let store = Store::open(PathBuf::from(path)).expect("opens");
    for i in 0..4000 {
        let mut batch = Batch::new();
        batch.put("t", format!("{i:08}"), vec![u8::try_from(i % 251).unwrap(); 4000]);
        if let Err(error) = store.commit(batch) {
            println!("\nFAILED {i} {}", error.chain());
            let mut small = Batch::new();
            small.put("t", "small", "x");
            let again = store.commit(small).expect_err("sticky");
            println!("\nSTICKY {}", again.chain() == error.chain());
            return;
        }
        println!("\nACK {i}");
    }
}

#[test]
fn a_full_disk_fails_commits_and_loses_none_that_were_acknowledged() {
    let _turn = alone();
    let disk = SmallDisk::new();
    let path = disk.0.path().join("images.sled");
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::child_fills_the_disk", "--nocapture", "--ignored"])
        .env("STORE_TEST_PATH", &path)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(said.contains("FAILED"), "{}", &said[said.len().saturating_sub(500)..]);
    assert!(said.contains("STICKY true"), "{said}");
    let acknowledged = said.lines().filter(|line| line.starts_with("ACK ")).count();
    fs::remove_file(&ballast).unwrap();
    let store = Store::open(&path).expect("opens when there is room again");
    let found = store.tree("t").unwrap().iter().unwrap().len();
    assert!(store.was_rebuilt() || found >= acknowledged, "{found} of {acknowledged}");
    put(&store, "t", "more", "x");
}
