// SPDX-License-Identifier: Apache-2.0
//! Hostile and odd archives. Each runs beside a canary: a directory outside the layer that must stay as it is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::fixture::{Tar, names};

struct Ground {
    dir: TempDir,
}

impl Ground {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        for canary in ["victim", "root-evil"] {
            fs::create_dir(dir.path().join(canary)).unwrap();
            fs::write(dir.path().join(canary).join("file"), "untouched").unwrap();
            fs::set_permissions(dir.path().join(canary), fs::Permissions::from_mode(0o711)).unwrap();
        }
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn unpack_with(&self, tar: &[u8], limits: &Limits) -> io::Result<Unpacked> {
        let root = File::open(self.root()).unwrap().into();
        let result = unpack(&mut tar::Reader::new(Cursor::new(tar)), root, limits, &AtomicBool::new(false));
        for canary in ["victim", "root-evil"] {
            let path = self.dir.path().join(canary);
            assert_eq!(names(&path), ["file"], "{canary} has changed");
            assert_eq!(fs::read(path.join("file")).unwrap(), b"untouched");
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o711);
            assert_eq!(fs::metadata(path.join("file")).unwrap().nlink(), 1);
        }
        let mut beside = names(self.dir.path());
        beside.sort();
        assert_eq!(beside, ["root", "root-evil", "victim"], "something appeared outside");
        result
    }

    fn unpack(&self, tar: Tar) -> io::Result<Unpacked> {
        self.unpack_with(&tar.done(), &Limits::default())
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.root().join(path)).expect(path).mode() & 0o7777
    }
}

fn unpacked(tar: Tar) -> (Ground, Unpacked) {
    let ground = Ground::new();
    let done = ground.unpack(tar).expect("unpacks");
    (ground, done)
}

fn refused(tar: Tar, says: &str) {
    let ground = Ground::new();
    let error = ground.unpack(tar).expect_err(says);
    assert!(error.to_string().contains(says), "{error} does not say {says:?}");
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let n = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(n);
    Some(value)
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

#[test]
fn names_that_climb_out_are_refused() {
    for name in ["../victim/file", "/../victim/file", "a/../../victim/file", "..", "../root-evil/x", "./../x"]
    {
        refused(Tar::new().file(name, 0o644, b"evil"), "leaves the layer's root");
        refused(Tar::new().dir(name, 0o777), "leaves the layer's root");
        refused(Tar::new().symlink(name, "x"), "leaves the layer's root");
        refused(Tar::new().hardlink(name, "x"), "leaves the layer's root");
        refused(Tar::new().file("f", 0o644, b"").hardlink("l", name), "leaves the layer's root");
    }
}

#[test]
fn absolute_names_start_at_the_layers_root() {
    let (ground, _) = unpacked(Tar::new().file("/etc/x", 0o644, b"1").file("./b", 0o644, b"2").file(
        "c//./d/../e",
        0o644,
        b"3",
    ));
    assert_eq!(fs::read(ground.root().join("etc/x")).unwrap(), b"1");
    assert_eq!(fs::read(ground.root().join("b")).unwrap(), b"2");
    assert_eq!(fs::read(ground.root().join("c/e")).unwrap(), b"3");
    assert!(!Path::new("/etc/x").exists());
}

#[test]
fn a_path_through_a_symlink_stays_inside() {
    for target in ["../victim", "../../victim", "/victim", "../../../../../../victim"] {
        let tar = Tar::new().symlink("out", target).file("out/file", 0o644, b"evil");
        let (ground, _) = unpacked(tar);
        assert_eq!(fs::read(ground.root().join("victim/file")).unwrap(), b"evil", "in a victim of its own");
    }
    // To an existing directory of the layer, as a container would see it.
    let (ground, _) = unpacked(
        Tar::new()
            .dir("usr", 0o755)
            .dir("usr/lib", 0o755)
            .symlink("lib", "/usr/lib")
            .file("lib/x.so", 0o644, b"elf"),
    );
    assert_eq!(fs::read(ground.root().join("usr/lib/x.so")).unwrap(), b"elf");
    assert!(fs::symlink_metadata(ground.root().join("lib")).unwrap().is_symlink());
    // Through two links and a relative one.
    let (ground, _) = unpacked(
        Tar::new()
            .dir("a", 0o755)
            .dir("a/b", 0o755)
            .symlink("a/b/up", "../c")
            .symlink("x", "a/b/up")
            .file("x/f", 0o600, b"1"),
    );
    assert_eq!(fs::read(ground.root().join("a/c/f")).unwrap(), b"1");
}

#[test]
fn symlink_loops_end() {
    refused(Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", 0o644, b""), "symbolic links");
    refused(Tar::new().symlink("a", "a").file("a/x", 0o644, b""), "symbolic links");
}

#[test]
fn a_directory_entry_over_a_symlink_replaces_it() {
    let ground = Ground::new();
    let victim = ground.dir.path().join("victim").to_str().unwrap().to_owned();
    ground
        .unpack(Tar::new().symlink("d", &victim).dir("d", 0o777).file("d/file", 0o644, b"in"))
        .expect("unpacks");
    assert!(fs::symlink_metadata(ground.root().join("d")).unwrap().is_dir());
    assert_eq!(ground.mode("d"), 0o777);
    assert_eq!(fs::read(ground.root().join("d/file")).unwrap(), b"in");
}

#[test]
fn a_file_over_a_symlink_replaces_it() {
    let ground = Ground::new();
    let victim = ground.dir.path().join("victim/file").to_str().unwrap().to_owned();
    ground
        .unpack(
            Tar::new()
                .symlink("f", &victim)
                .file("f", 0o4755, b"evil")
                .symlink("g", "../victim/file")
                .owned(b'0', "g", 0o777, 7, 7),
        )
        .expect("unpacks");
    assert_eq!(fs::read(ground.root().join("f")).unwrap(), b"evil");
    assert_eq!(ground.mode("f"), 0o4755);
}

#[test]
fn hard_links_reach_only_what_is_inside() {
    refused(Tar::new().hardlink("l", "/victim/file"), "not in the layer");
    refused(Tar::new().symlink("out", "../victim").hardlink("l", "out/file"), "not in the layer");
    refused(Tar::new().hardlink("l", "nothing"), "not in the layer");
    refused(Tar::new().dir("d", 0o755).hardlink("l", "d"), "hard link to a directory");
    // A link to a symlink is one more name of the symlink, and writing to it replaces it.
    let ground = Ground::new();
    let tar = Tar::new()
        .symlink("link", "../victim/file")
        .hardlink("again", "link")
        .hardlink("third", "again")
        .file("third", 0o666, b"evil");
    ground.unpack(tar).expect("unpacks");
    assert!(fs::symlink_metadata(ground.root().join("again")).unwrap().is_symlink());
    assert_eq!(fs::read(ground.root().join("third")).unwrap(), b"evil");

    let (ground, _) = unpacked(Tar::new().file("a", 0o640, b"data").hardlink("b", "./a").hardlink("b", "b"));
    let (a, b) =
        (fs::metadata(ground.root().join("a")).unwrap(), fs::metadata(ground.root().join("b")).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
}

#[test]
fn whiteouts_become_what_overlayfs_has() {
    let (ground, _) = unpacked(
        Tar::new()
            .file("etc/.wh.gone", 0, b"")
            .file("opt/.wh..wh..opq", 0, b"")
            .file("opt/new", 0o644, b"")
            .file(".wh..wh.plnk", 0, b"")
            .dir(".wh..wh.orph", 0o700)
            .file(".wh.top", 0, b""),
    );
    assert!(is_whiteout(&ground.root().join("etc/gone")));
    assert!(is_whiteout(&ground.root().join("top")));
    assert_eq!(xattr(&ground.root().join("opt"), OPAQUE).unwrap(), b"y");
    assert_eq!(xattr(&ground.root().join("etc"), OPAQUE), None);
    assert_eq!(names(&ground.root()), ["etc", "opt", "top"]);
    for name in [".wh.", ".wh...", ".wh..", "a/.wh..."] {
        refused(Tar::new().file(name, 0, b""), "invalid whiteout");
    }
}

#[test]
fn what_is_hidden_and_made_anew_does_not_merge() {
    let check = |tar: Tar, path: &str| {
        let (ground, _) = unpacked(tar);
        assert_eq!(xattr(&ground.root().join(path), OPAQUE).as_deref(), Some(&b"y"[..]), "{path}");
    };
    check(Tar::new().file(".wh.d", 0, b"").dir("d", 0o755), "d");
    check(Tar::new().dir("d", 0o755).file(".wh.d", 0, b""), "d");
    check(Tar::new().file(".wh.d", 0, b"").file("d/implied", 0o644, b""), "d");
    check(Tar::new().file("a/.wh.d", 0, b"").file("a/d/e/f", 0o644, b""), "a/d");
    let (ground, _) = unpacked(Tar::new().file("f", 0o644, b"stays").file(".wh.f", 0, b""));
    assert_eq!(fs::read(ground.root().join("f")).unwrap(), b"stays");
    let (ground, _) = unpacked(Tar::new().file(".wh.f", 0, b"").file("f", 0o644, b"new"));
    assert_eq!(fs::read(ground.root().join("f")).unwrap(), b"new");
}

#[test]
fn nodes_owners_modes_and_times() {
    let device = |kind, path, major, minor| {
        move |tar: Tar| {
            tar.entry(kind, path, "", 0o620, &[], &|h| {
                h.set_device_major(major).unwrap();
                h.set_device_minor(minor).unwrap();
                h.set_gid(5);
            })
        }
    };
    let tar = device(b'3', "tty", 5, 1)(Tar::new());
    let tar = device(b'4', "disk", 8, 0)(tar)
        .entry(b'6', "pipe", "", 0o622, &[], &|_| {})
        .owned(b'0', "suid", 0o6755, 33, 34)
        .owned(b'5', "dir", 0o2775, 1, 2)
        .owned(b'0', "dir/child", 0o600, 0, 0)
        .entry(b'2', "link", "dir", 0o777, &[], &|h| h.set_uid(1000))
        .pax(&[("mtime", b"1500000000.25"), ("uid", b"3000000000")])
        .file("exact", 0o644, b"")
        .pax(&[("mtime", b"-1.5")])
        .file("old", 0o644, b"");
    let (ground, _) = unpacked(tar);
    let stat = |path: &str| fs::symlink_metadata(ground.root().join(path)).unwrap();
    assert!(stat("tty").file_type().is_char_device());
    assert_eq!((stat("tty").rdev(), stat("tty").gid()), (rustix::fs::makedev(5, 1), 5));
    assert_eq!(ground.mode("tty"), 0o620);
    assert!(stat("disk").file_type().is_block_device());
    assert!(stat("pipe").file_type().is_fifo());
    assert_eq!(ground.mode("pipe"), 0o622);
    assert_eq!((ground.mode("suid"), stat("suid").uid(), stat("suid").gid()), (0o6755, 33, 34));
    assert_eq!((ground.mode("dir"), stat("dir").gid()), (0o2775, 2));
    assert_eq!(stat("dir/child").gid(), 0, "no group from the directory's setgid");
    assert_eq!(stat("dir").mtime(), 1_600_000_000, "a directory's time is set last");
    assert_eq!(stat("link").uid(), 1000);
    assert_eq!(
        (stat("exact").mtime(), stat("exact").mtime_nsec(), stat("exact").uid()),
        (1_500_000_000, 250_000_000, 3_000_000_000)
    );
    assert_eq!((stat("old").mtime(), stat("old").mtime_nsec()), (-2, 500_000_000));
}

#[test]
fn owners_out_of_range_are_refused() {
    refused(Tar::new().pax(&[("uid", b"4294967295")]).file("f", 0o644, b""), "out of range");
    refused(Tar::new().pax(&[("gid", b"4294967296")]).file("f", 0o644, b""), "out of range");
    refused(Tar::new().pax(&[("uid", b"-1")]).file("f", 0o644, b""), "invalid tar header");
}

#[test]
fn attributes_of_images_and_those_that_are_ours() {
    let caps = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tar = Tar::new()
        .pax(&[("SCHILY.xattr.security.capability", caps), ("SCHILY.xattr.user.note", b"a=b\nc")])
        .owned(b'0', "ping", 0o755, 1, 1)
        .pax(&[("SCHILY.xattr.user.dir", b"d")])
        .dir("dir", 0o500)
        .pax(&[("SCHILY.xattr.trusted.note", b"l")])
        .symlink("link", "nowhere");
    let (ground, _) = unpacked(tar);
    assert_eq!(xattr(&ground.root().join("ping"), "security.capability").unwrap(), caps);
    assert_eq!(xattr(&ground.root().join("ping"), "user.note").unwrap(), b"a=b\nc");
    assert_eq!(xattr(&ground.root().join("dir"), "user.dir").unwrap(), b"d");
    assert_eq!(xattr(&ground.root().join("link"), "trusted.note").unwrap(), b"l");
    for name in ["SCHILY.xattr.trusted.overlay.opaque", "SCHILY.xattr.trusted.overlay.redirect"] {
        let pax = || Tar::new().pax(&[(name, b"y")]);
        refused(pax().dir("d", 0o755), "not an image's to set");
        refused(pax().file("f", 0o644, b""), "not an image's to set");
        refused(pax().symlink("l", "x"), "not an image's to set");
    }
}

#[test]
fn later_entries_win() {
    let tar = Tar::new()
        .file("a", 0o600, b"first, and longer")
        .file("a", 0o644, b"second")
        .dir("d", 0o700)
        .file("d/deep/x", 0o644, b"")
        .file("d", 0o644, b"a file now")
        .file("f", 0o644, b"")
        .dir("f", 0o711)
        .dir("g", 0o700)
        .file("g/kept", 0o644, b"")
        .dir("g", 0o755);
    let (ground, done) = unpacked(tar);
    assert_eq!(fs::read(ground.root().join("a")).unwrap(), b"second");
    assert_eq!(ground.mode("a"), 0o644);
    assert_eq!(fs::read(ground.root().join("d")).unwrap(), b"a file now");
    assert_eq!(ground.mode("f"), 0o711);
    assert_eq!(ground.mode("g"), 0o755);
    assert!(ground.root().join("g/kept").exists());
    assert_eq!(done.entries, 10);
    refused(Tar::new().file("f", 0o644, b"").file("f/x", 0o644, b""), "not a directory");
}

#[test]
fn a_directory_replaced_while_it_is_held_open_is_let_go() {
    let tar = Tar::new().file("d/e/one", 0o644, b"").symlink("d", "other").file("d/e/two", 0o644, b"").file(
        "other/three",
        0o644,
        b"",
    );
    let (ground, _) = unpacked(tar);
    assert_eq!(names(&ground.root()), ["d", "other"]);
    assert_eq!(names(&ground.root().join("other")), ["e", "three"]);
    assert_eq!(names(&ground.root().join("other/e")), ["two"]);
}

#[test]
fn implied_directories_are_known() {
    let tar = Tar::new()
        .file("tmp/x", 0o644, b"")
        .file("a/b/c", 0o644, b"")
        .dir("a", 0o700)
        .dir("stated", 0o755)
        .file("stated/x", 0o644, b"");
    let (ground, done) = unpacked(tar);
    assert_eq!(done.implied, [b"a/b".to_vec(), b"tmp".to_vec()]);
    assert_eq!((ground.mode("a"), ground.mode("a/b"), ground.mode("tmp")), (0o700, 0o755, 0o755));
}

#[test]
fn sparse_files_keep_their_holes() {
    let tar = Tar::new()
        .entry(b'S', "old", "", 0o644, b"hello", &|h| header_size_of(h, 1 << 20))
        .pax(&[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.name", b"zero-one"),
            ("GNU.sparse.size", b"8192"),
            ("GNU.sparse.map", b"0,2,8000,3"),
        ])
        .file("GNUSparseFile.1/zero-one", 0o644, b"abxyz")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"one"),
            ("GNU.sparse.realsize", b"5000"),
        ])
        .file("GNUSparseFile.1/one", 0o644, &{
            let mut data = b"1\n4000\n4\n".to_vec();
            data.resize(512, 0);
            data.extend_from_slice(b"wxyz");
            data
        });
    let (ground, done) = unpacked(tar);
    let read = |name: &str| fs::read(ground.root().join(name)).unwrap();
    let old = read("old");
    assert_eq!((old.len(), &old[4096..4101]), (1 << 20, &b"hello"[..]));
    assert!(old.iter().enumerate().all(|(i, b)| (4096..4101).contains(&i) || *b == 0));
    assert!(fs::metadata(ground.root().join("old")).unwrap().blocks() < 64);
    assert_eq!(
        (&read("zero-one")[..2], &read("zero-one")[8000..8003], read("zero-one").len()),
        (&b"ab"[..], &b"xyz"[..], 8192)
    );
    assert_eq!((&read("one")[4000..4004], read("one").len()), (&b"wxyz"[..], 5000));
    assert_eq!(done.size, (1 << 20) + 8192 + 5000);
    // 8 EiB, a map out of order, and one that does not account for the data.
    for (size, says) in [(1 << 63, "invalid"), (1 << 62, "large")] {
        let tar = Tar::new().entry(b'S', "f", "", 0o644, b"hello", &|h| header_size_of(h, size));
        refused(tar, says);
    }
    let pax = |map: &'static [u8]| {
        Tar::new()
            .pax(&[("GNU.sparse.major", b"0"), ("GNU.sparse.size", b"100"), ("GNU.sparse.map", map)])
            .file("f", 0o644, b"abcde")
    };
    refused(pax(b"10,2,5,3"), "sparse");
    refused(pax(b"0,2,50,2"), "sparse");
    refused(pax(b"0,2,99,3"), "sparse");
}

fn header_size_of(h: &mut ::tar::Header, size: u64) {
    let gnu = h.as_gnu_mut().unwrap();
    gnu.set_real_size(size);
    gnu.sparse[0].set_offset(4096);
    gnu.sparse[0].set_length(5);
    gnu.sparse[1].set_offset(size);
    gnu.sparse[1].set_length(0);
}

#[test]
fn bounds_hold() {
    let few = Limits { entries: 3, bytes: 100, directory_names: 400, keep_free: 0 };
    let check = |tar: Tar, says: &str| {
        let error = Ground::new().unpack_with(&tar.done(), &few).expect_err(says);
        assert!(error.to_string().contains(says), "{error}");
    };
    check((0..4).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), 0o644, b"")), "more than 3 entries");
    check(Tar::new().file("a", 0o644, &[1; 60]).file("b", 0o644, &[1; 60]), "exceed 100 bytes");
    check(Tar::new().file("a/b/c/d/e/f/g/h/i/j/k", 0o644, b""), "too many directories");
    let full = Limits { keep_free: u64::MAX, ..Limits::default() };
    // A twentieth of the disk is the most that is kept free; this machine may have that or not.
    let result = Ground::new().unpack_with(&Tar::new().file("a", 0o644, b"").done(), &full);
    let fs = rustix::fs::statvfs(std::env::temp_dir()).unwrap();
    assert_eq!(result.is_err(), fs.f_bavail < fs.f_blocks / 20);

    let long = format!("{}x", "y/".repeat(2047));
    let (ground, _) = unpacked(Tar::new().file(&long, 0o644, b"deep"));
    assert!(ground.root().join("y").is_dir());
    refused(Tar::new().file(&format!("{long}x"), 0o644, b""), "too long");
    refused(Tar::new().file(&"n".repeat(300), 0o644, b""), "name");
    refused(Tar::new().symlink("l", &"t".repeat(5000)), "symlink target");
}

#[test]
fn a_layer_that_is_given_up_stops() {
    let ground = Ground::new();
    let tar = Tar::new().file("a", 0o644, b"").done();
    let root = File::open(ground.root()).unwrap().into();
    let stop = AtomicBool::new(true);
    let error =
        unpack(&mut tar::Reader::new(Cursor::new(tar)), root, &Limits::default(), &stop).expect_err("stops");
    assert!(error.get_ref().is_some_and(|e| e.is::<Error>()), "{error}");
}

#[test]
fn trees_of_any_depth_are_removed() {
    let dir = TempDir::new().unwrap();
    // Deeper than a path can be long.
    let mut at: OwnedFd = File::open(dir.path()).unwrap().into();
    rustix::fs::mkdirat(&at, "top", Mode::from_raw_mode(0o700)).unwrap();
    for i in 0..3000 {
        let name = if i == 0 { "top" } else { "dir" };
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        at = rustix::fs::openat(&at, name, flags, Mode::empty()).unwrap();
        rustix::fs::mkdirat(&at, "dir", Mode::from_raw_mode(0o700)).unwrap();
        rustix::fs::mknodat(&at, "file", FileType::RegularFile, Mode::from_raw_mode(0o600), 0).unwrap();
    }
    symlink("/", dir.path().join("top/link")).unwrap();
    remove_tree(File::open(dir.path()).unwrap(), b"top").expect("removed");
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[derive(Debug, Clone)]
enum Step {
    File(String, u32),
    Dir(String, u32),
    Symlink(String, String),
    Hardlink(String, String),
    Node(String),
}

fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-c]",
        1 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
        1 => "\\.wh\\.[a-c]",
        1 => Just(".wh..wh..opq".to_owned()),
        1 => Just("victim".to_owned()),
    ];
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    let mode = 0..0o10000_u32;
    prop_oneof![
        (name(), mode.clone()).prop_map(|(n, m)| Step::File(n, m)),
        (name(), mode).prop_map(|(n, m)| Step::Dir(n, m)),
        (name(), name()).prop_map(|(n, t)| Step::Symlink(n, t)),
        (name(), "(/|\\.\\./|\\.\\./\\.\\./)victim(/file)?").prop_map(|(n, t)| Step::Symlink(n, t)),
        (name(), name()).prop_map(|(n, t)| Step::Hardlink(n, t)),
        name().prop_map(Step::Node),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the order of whatever entries: nothing outside is touched, and nothing panics.
    #[test]
    fn no_archive_reaches_outside(steps in proptest::collection::vec(step(), 1..12)) {
        let tar = steps.iter().fold(Tar::new(), |tar, step| match step {
            Step::File(name, mode) => tar.file(name, *mode, b"evil"),
            Step::Dir(name, mode) => tar.dir(name, *mode),
            Step::Symlink(name, target) => tar.symlink(name, target),
            Step::Hardlink(name, target) => tar.hardlink(name, target),
            Step::Node(name) => tar.entry(b'6', name, "", 0o777, &[], &|_| {}),
        });
        // Some are refused; the canaries are looked at either way.
        drop(Ground::new().unpack(tar));
    }
}
