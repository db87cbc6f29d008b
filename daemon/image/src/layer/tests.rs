// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Cursor;

use berth_domain::Meaning;
use tempfile::TempDir;

use super::*;
use crate::document::sha256;
use crate::fixture::{Tar, gzip, names, zstd};

struct Bench {
    _root: TempDir,
    layout: Layout,
    limits: Limits,
}

impl Bench {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let layout = Layout::prepare(root.path()).unwrap();
        Self { _root: root, layout, limits: Limits::default() }
    }

    fn extract(&self, blob: &[u8], packing: Option<Packing>) -> Result<Staged> {
        let (given_up, taken) = (AtomicBool::new(false), AtomicU64::new(0));
        let with = Extraction {
            layout: &self.layout,
            limits: &self.limits,
            packing,
            given_up: &given_up,
            taken: &taken,
        };
        let result = extract(Cursor::new(blob), &with);
        if result.is_ok() {
            assert_eq!(taken.load(Ordering::Relaxed), blob.len() as u64);
        }
        result
    }

    fn refused(&self, blob: &[u8], packing: Option<Packing>, meaning: Meaning, says: &str) {
        let error = self.extract(blob, packing).expect_err(says);
        assert!(error.chain().contains(says), "{:?} does not say {says:?}", error.chain());
        assert_eq!(error.meaning(), meaning, "{}", error.chain());
        assert_eq!(names(&self.layout.staging()), Vec::<String>::new(), "nothing stays");
    }
}

fn archive() -> Vec<u8> {
    Tar::new()
        .dir("d", 0o755)
        .file("d/f", 0o644, &b"0123456789".repeat(100_000))
        .file("implied/f", 0o644, b"")
        .done()
}

#[test]
fn every_packing_gives_the_same_layer() {
    let bench = Bench::new();
    let tar = archive();
    let half = tar.len() / 2;
    let members = [gzip(&tar[..half]), gzip(&tar[half..])].concat();
    let skippable = [&b"\x50\x2a\x4d\x18\x03\0\0\0xyz"[..], &zstd(&tar)].concat();
    for (blob, packing) in [
        (tar.clone(), Packing::Plain),
        (gzip(&tar), Packing::Gzip),
        (members, Packing::Gzip),
        (zstd(&tar), Packing::Zstd),
        (skippable, Packing::Zstd),
    ] {
        let staged = bench.extract(&blob, Some(packing)).expect("extracts");
        assert_eq!(
            (&staged.diff_id, &staged.blob, staged.blob_size),
            (&sha256(&tar), &sha256(&blob), blob.len() as u64)
        );
        let dir = staged.take().unwrap().to_owned();
        assert_eq!(fs::metadata(dir.join("fs/d/f")).unwrap().len(), 1_000_000);
        let meta = Meta::read(&dir).unwrap();
        assert_eq!((meta.size, meta.entries, meta.implied()), (1_000_000, 3, vec![b"implied".to_vec()]));
        bench.layout.discard(&dir).unwrap();
    }
    let staged = bench.extract(&gzip(&tar), None).expect("unstated is fine");
    drop(staged);
    assert_eq!(names(&bench.layout.staging()), Vec::<String>::new(), "what is not taken goes");
}

#[test]
fn what_follows_the_archive_counts() {
    let bench = Bench::new();
    let tar = [archive(), vec![0; 300_000], b"trailing".to_vec()].concat();
    let staged = bench.extract(&gzip(&tar), None).expect("extracts");
    assert_eq!(staged.diff_id, sha256(&tar));
}

#[test]
fn truncated_and_damaged_blobs_are_refused() {
    let bench = Bench::new();
    let tar = archive();
    let (gz, zst) = (gzip(&tar), zstd(&tar));
    bench.refused(&gz[..gz.len() / 2], None, Meaning::InvalidInput, "unexpected EOF");
    bench.refused(&gz[..gz.len() - 4], None, Meaning::InvalidInput, "unexpected EOF");
    bench.refused(&zst[..zst.len() / 2], None, Meaning::InvalidInput, "unexpected EOF");
    bench.refused(&tar[..tar.len() / 2], None, Meaning::InvalidInput, "unexpected EOF");
    let mut flipped = gz.clone();
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    bench.refused(&flipped, None, Meaning::InvalidInput, "reading the layer");
    bench.refused(&gz, Some(Packing::Zstd), Meaning::InvalidInput, "zstd expected, and it is gzip");
    bench.refused(
        &zst,
        Some(Packing::Plain),
        Meaning::InvalidInput,
        "a plain tar archive expected, and it is zstd",
    );
    bench.refused(
        &tar,
        Some(Packing::Gzip),
        Meaning::InvalidInput,
        "gzip expected, and it is a plain tar archive",
    );
    bench.refused(b"\xfd7zXZ\0rest", None, Meaning::NotImplemented, "xz compression is not supported");
    bench.refused(b"BZh91AY", None, Meaning::NotImplemented, "bzip2 compression is not supported");
    bench.refused(&gzip(&[b'x'; 5000]), None, Meaning::InvalidInput, "invalid tar header");
    let hostile = Tar::new().file("../x", 0o644, b"").done();
    bench.refused(&gzip(&hostile), None, Meaning::InvalidInput, "leaves the layer's root");
}

#[test]
fn a_bomb_stops_at_its_bound() {
    let mut bench = Bench::new();
    bench.limits.bytes = 1 << 20;
    // 64 MiB of zeros in some tens of kilobytes.
    let tar = Tar::new().file("zeros", 0o644, &vec![0; 64 << 20]).done();
    bench.refused(&gzip(&tar), None, Meaning::InvalidInput, "exceed 1048576 bytes");
    bench.refused(&zstd(&tar), None, Meaning::InvalidInput, "exceed 1048576 bytes");
    let trailing = [archive(), vec![0; 32 << 20]].concat();
    bench.refused(&zstd(&trailing), None, Meaning::InvalidInput, "goes on after its archive's end");
    let whiteout = Tar::new().file(".wh.x", 0, &vec![0; 2 << 20]).done();
    bench.refused(&gzip(&whiteout), None, Meaning::InvalidInput, "exceed 1048576 bytes");
}

#[test]
fn a_huge_window_is_refused() {
    let bench = Bench::new();
    // A frame header that asks for a window of 2 GiB (RFC 8878, 3.1.1.1): descriptor 0, exponent 21.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3];
    frame.extend_from_slice(&[0x01, 0, 0]);
    bench.refused(&frame, None, Meaning::InvalidInput, "memory");
}

#[test]
fn records_keep_any_path() {
    let unpacked = Unpacked {
        implied: vec![b"caf\xc3\xa9 100%/\xff\n".to_vec(), b"%41".to_vec()],
        ..Unpacked::default()
    };
    let meta = Meta::new(&sha256(b""), &unpacked);
    assert_eq!(meta.implied(), unpacked.implied);
    let dir = TempDir::new().unwrap();
    meta.write(dir.path()).unwrap();
    assert_eq!(Meta::read(dir.path()).unwrap(), meta);
}
