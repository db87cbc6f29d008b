// SPDX-License-Identifier: Apache-2.0
//! A tree of everything that a file system can hold, on every way that files take through the engine, compared entry by
//! entry.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use berth_tests::harness::{Bed, Options, Volume};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use sha2::{Digest as _, Sha256};

/// An access list of a user, a group and a mask, as the kernel has it.
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe9\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x06\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
/// `cap_net_raw=ep`, revision 2.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|e| panic!("{name}: {e}"));
}

fn own(path: &Path, uid: u32, gid: u32) {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn date(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes the tree, with so many files beside the odd ones.
fn plant(root: &Path, many: usize, exact: bool) {
    let at = |name: &[u8]| root.join(OsStr::from_bytes(name));
    for dir in ["plain", "attributes", "links/one", "links/two", "nodes", "many", "names", "empty"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let file = |name: &[u8], content: &[u8]| {
        let path = at(name);
        fs::write(&path, content).unwrap();
        path
    };
    for (name, mode) in
        [("m0000", 0), ("m4755", 0o4755), ("m2755", 0o2755), ("m0640", 0o640), ("m0777", 0o777)]
    {
        let path = file(format!("plain/{name}").as_bytes(), name.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let pattern: Vec<u8> = (0..600_001_u32).flat_map(|n| (n % 251).to_le_bytes()).take(600_001).collect();
    file(b"plain/big", &pattern);
    for (n, size) in [0, 1, 511, 512, 513].into_iter().enumerate() {
        let path = file(format!("plain/size{size}").as_bytes(), &pattern[..size]);
        own(&path, [0, 1000, 2_097_151, 2_097_152, u32::MAX - 1][n], [7, 65_534, 3_000_000, 0, 1][n]);
    }
    for (name, seconds, nanos) in [
        ("nano", 1_700_000_000, 123_456_789),
        ("old", if exact { -2 } else { 2 }, 500_000_000),
        ("late", 8_589_934_600, 1),
        ("zero", 0, 0),
    ] {
        date(&file(format!("plain/{name}").as_bytes(), b"t"), seconds, nanos);
    }
    let sparse = fs::File::create(root.join("plain/sparse")).unwrap();
    sparse.set_len(4 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 3 << 20).unwrap();

    let path = file(b"attributes/user", b"x");
    xattr(&path, "user.empty", b"");
    xattr(&path, "user.binary", b"\0\n=\xff");
    xattr(&path, "user.long", &[7; 2000]);
    xattr(&file(b"attributes/capable", b"x"), "security.capability", CAPABILITY);
    xattr(&file(b"attributes/access", b"x"), "system.posix_acl_access", ACL);
    xattr(&at(b"attributes"), "system.posix_acl_default", ACL);
    xattr(&at(b"empty"), "user.directory", b"too");

    let first = file(b"links/one/a", b"linked");
    for name in [&b"links/two/b"[..], b"links/c", b"zz-linked"] {
        fs::hard_link(&first, at(name)).unwrap();
    }
    for (name, target) in
        [("soft", "one/a"), ("dangling", "/no/where"), ("up", "../../.."), ("self", "self"), ("dir", "one")]
    {
        symlink(target, root.join("links").join(name)).unwrap();
    }
    symlink(OsStr::from_bytes(&[b't'; 1500]), root.join("links/long")).unwrap();
    fs::hard_link(root.join("links/soft"), root.join("links/two/soft")).unwrap();
    own(&root.join("links/soft"), 5, 6);
    date(&root.join("links/soft"), 1_600_000_000, 42);

    for (name, kind, device, mode) in [
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3), 0o666),
        ("far", FileType::CharacterDevice, rustix::fs::makedev(300, 70_000), 0o600),
        ("disk", FileType::BlockDevice, rustix::fs::makedev(8, 1), 0o660),
        ("pipe", FileType::Fifo, 0, 0o622),
    ] {
        let path = root.join("nodes").join(name);
        rustix::fs::mknodat(CWD, &path, kind, Mode::empty(), device).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        own(&path, 11, 12);
    }

    let long = [b'n'; 255];
    for name in [
        &b"line\nbreak"[..],
        b"trailing ",
        b" leading",
        b"-rf",
        b"back\\slash",
        b"\xff\xfe",
        b"tab\t",
        b"q\"uote'",
        b"*?[",
        b"%2e",
        "\u{e4}\u{4e16}".as_bytes(),
        b"...",
        b"a=b",
        &long,
    ] {
        file(&[b"names/", name].concat(), name);
    }
    let mut deep = at(b"names");
    for _ in 0..30 {
        deep.push("d".repeat(100));
        fs::create_dir(&deep).unwrap();
    }
    fs::write(deep.join("end"), "deep").unwrap();

    for n in 0..many {
        let path = root.join(format!("many/{}", n % 50));
        if n < 50 {
            fs::create_dir(&path).unwrap();
        }
        let path = path.join(format!("f{n}"));
        fs::File::create(&path).unwrap().write_all(n.to_string().as_bytes()).unwrap();
        date(&path, 1_500_000_000 + i64::try_from(n).unwrap(), i64::try_from(n % 1_000_000).unwrap());
    }
    // Last, since all that was made beneath them changed them.
    for dir in ["plain", "links/one", "empty", "names"] {
        date(&root.join(dir), 1_400_000_000, 987_654_321);
    }
}

/// An entry as it can be told from others, one line.
fn entry(path: &Path, names: &mut BTreeMap<u64, PathBuf>, relative: &Path, exact: bool) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let mut line = format!("mode={:o} owner={}:{}", meta.mode(), meta.uid(), meta.gid());
    let kind = meta.file_type();
    let linked = names.entry(meta.ino()).or_insert_with(|| relative.to_owned());
    if !kind.is_dir() && linked != relative {
        line += &format!(" link={}", linked.display());
    }
    if kind.is_symlink() {
        line += &format!(" target={:?}", fs::read_link(path).unwrap());
    } else if kind.is_file() {
        let content = fs::read(path).unwrap();
        line += &format!(" size={} content={:x}", content.len(), Sha256::digest(&content));
        if exact && content.len() > 3 << 20 {
            line += if meta.blocks() < 2048 { " holes" } else { " no holes" };
        }
    } else if !kind.is_dir() {
        line += &format!(" device={:x}", meta.rdev());
    }
    line += &format!(" time={}", meta.mtime());
    if exact {
        line += &format!(".{:09}", meta.mtime_nsec());
    }
    if kind.is_file() || kind.is_dir() {
        let mut list = vec![0; 65_536];
        let n = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
        let mut names: Vec<&[u8]> = list[..n].split(|b| *b == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        for name in names {
            let mut value = vec![0; 65_536];
            let n = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap_or(0);
            if exact || name == b"security.capability" {
                line += &format!(" {}={:x?}", String::from_utf8_lossy(name), &value[..n.min(64)]);
            }
        }
    }
    line
}

fn listing(root: &Path, exact: bool) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        let mut children: Vec<_> =
            fs::read_dir(root.join(&dir)).unwrap().map(|e| e.unwrap().file_name()).collect();
        children.sort();
        for child in children {
            let relative = dir.join(child);
            let path = root.join(&relative);
            found.insert(relative.clone(), entry(&path, &mut names, &relative, exact));
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                todo.push(relative);
            }
        }
    }
    found
}

#[track_caller]
fn compare(what: &str, expected: &BTreeMap<PathBuf, String>, root: &Path, exact: bool) {
    let found = listing(root, exact);
    let mut wrong: Vec<String> = Vec::new();
    for (path, line) in expected {
        if found.get(path) != Some(line) {
            wrong.push(format!(
                "{path:?}\n  was {line}\n  is  {}",
                found.get(path).map_or("missing", String::as_str)
            ));
        }
    }
    wrong.extend(
        found.keys().filter(|path| !expected.contains_key(*path)).map(|path| format!("{path:?} is new")),
    );
    assert!(
        wrong.is_empty(),
        "{what}: {} of {} differ\n{}",
        wrong.len(),
        expected.len(),
        wrong[..wrong.len().min(8)].join("\n")
    );
}

/// Where a running container's root is for us.
fn root_of(bed: &Bed, name: &str) -> PathBuf {
    format!("/proc/{}/root", bed.docker(&["inspect", "-f", "{{.State.Pid}}", name]).ok()).into()
}

fn running(bed: &Bed, name: &str, options: &[&str], image: &str) -> PathBuf {
    let args = [&["run", "-d", "--name", name], options, &[image, "/bin/sleep", "1000"]].concat();
    bed.docker(&args).ok();
    root_of(bed, name)
}

fn round_trip(bed: Bed, many: usize) {
    bed.docker(&["pull", "busybox"]).ok();
    // The reference keeps capabilities, and whole seconds since 1970.
    let exact = bed.is_ours();
    let source = running(&bed, "source", &[], "busybox").join("n");
    fs::create_dir(&source).unwrap();
    plant(&source, many, exact);
    let expected = listing(&source, exact);
    assert!(expected.len() > many + 90, "{}", expected.len());

    // cp: out of a running container, into a running and a stopped one.
    let archive = bed.api("GET", "/containers/source/archive?path=/n", "");
    assert_eq!(archive.status, 200);
    let put = |name: &str| {
        let answer = bed.api_with(
            "PUT",
            &format!("/containers/{name}/archive?path=/"),
            &[("Content-Type", "application/x-tar")],
            &archive.body,
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let target = running(&bed, "target", &[], "busybox");
    put("target");
    compare("cp to a running container", &expected, &target.join("n"), exact);
    bed.docker(&["create", "--name", "cold", "busybox", "sleep", "1000"]).ok();
    put("cold");
    drop(archive);
    let again = bed.api("GET", "/containers/cold/archive?path=/n", "");
    assert_eq!(again.status, 200);
    bed.docker(&["start", "cold"]).ok();
    compare("cp to a stopped container", &expected, &root_of(&bed, "cold").join("n"), exact);
    bed.docker(&["rm", "-f", "cold", "target"]).ok();

    // export and import.
    let exported = bed.path().join("export.tar");
    bed.docker(&["export", "-o", exported.to_str().unwrap(), "source"]).ok();
    bed.docker(&["import", exported.to_str().unwrap(), "imported:tree"]).ok();
    let root = running(&bed, "imported", &[], "imported:tree");
    compare("export and import", &expected, &root.join("n"), exact);
    bed.docker(&["rm", "-f", "imported"]).ok();
    bed.docker(&["rmi", "imported:tree"]).ok();
    fs::remove_file(&exported).unwrap();

    // commit; then save and load.
    bed.docker(&["commit", "source", "tree:one"]).ok();
    bed.docker(&["rm", "-f", "source"]).ok();
    let committed = running(&bed, "committed", &[], "tree:one");
    compare("commit", &expected, &committed.join("n"), exact);
    bed.docker(&["rm", "-f", "committed"]).ok();
    let saved = bed.path().join("saved.tar");
    bed.docker(&["save", "-o", saved.to_str().unwrap(), "tree:one"]).ok();
    bed.docker(&["rmi", "tree:one"]).ok();
    bed.docker(&["load", "-q", "-i", saved.to_str().unwrap()]).ok();
    fs::remove_file(&saved).unwrap();
    // The reference's volumes get directories of another time, and each name of a symlink becomes one of its own.
    let volume: &[&str] = if exact { &["-v", "filled:/n"] } else { &[] };
    let loaded = running(&bed, "loaded", volume, "tree:one");
    compare("save, load and a volume filled from it", &expected, &loaded.join("n"), exact);
    bed.docker(&["rm", "-f", "loaded"]).ok();
    bed.docker(&["volume", "rm", "-f", "filled"]).ok();
    bed.docker(&["rmi", "-f", "tree:one"]).ok();
    bed.finish();
}

#[test]
fn a_nasty_tree_comes_through_every_way() {
    round_trip(Bed::start(), 1_500);
}

#[test]
#[ignore = "long form: make soak"]
fn a_nasty_tree_of_100000_entries_comes_through_every_way() {
    // A file system of its own: making files where many were removed takes for ever on some that have no journal.
    let disk = Volume::roomy(16 << 30);
    let options = Options { data_root: Some(disk.path().join("data")), ..Options::default() };
    round_trip(Bed::with(options), 100_000);
}
