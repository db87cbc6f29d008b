// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::fixture::Tar;

fn all(bytes: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(Cursor::new(bytes));
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        loop {
            let lent = reader.data()?;
            let n = lent.len();
            if n == 0 {
                break;
            }
            data.extend_from_slice(lent);
            reader.consume(n);
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

fn refused(bytes: &[u8], says: &str) {
    let error = all(bytes).expect_err(says);
    assert!(error.to_string().contains(says), "{error} does not say {says:?}");
}

#[test]
fn long_names_in_every_way() {
    let long = "d/".repeat(200) + "name";
    let by_gnu = Tar::new().entry(b'2', &long, &long, 0o777, &[], &|_| {}).done();
    let by_pax = Tar::new()
        .pax(&[("path", long.as_bytes()), ("linkpath", long.as_bytes())])
        .symlink("short", "x")
        .done();
    for bytes in [by_gnu, by_pax] {
        let entries = all(&bytes).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!((&entries[0].0.path[..], &entries[0].0.link[..]), (long.as_bytes(), long.as_bytes()));
    }
    let mut header = ::tar::Header::new_ustar();
    header.set_path("p".repeat(120) + "/" + &"n".repeat(90)).unwrap();
    header.set_size(0);
    header.set_cksum();
    let entries = all(header.as_bytes()).unwrap();
    assert_eq!(entries[0].0.path, ("p".repeat(120) + "/" + &"n".repeat(90)).into_bytes());
}

#[test]
fn pax_sizes_and_numbers_beyond_octal() {
    let data = [7; 700];
    // The header states no size: the record's counts.
    let bytes =
        Tar::new().pax(&[("size", b"700")]).entry(b'0', "f", "", 0o644, &data, &|h| h.set_size(0)).done();
    assert_eq!(all(&bytes).unwrap()[0].1, data);
    let bytes = Tar::new().entry(b'0', "f", "", 0o644, b"", &|h| h.set_uid(0x1_0000_0000)).done();
    assert_eq!(all(&bytes).unwrap()[0].0.uid, 0x1_0000_0000);
    assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff").unwrap(), -1);
    assert_eq!(number(b"0000644\0").unwrap(), 0o644);
    assert_eq!(number(b"   644 \0").unwrap(), 0o644);
    assert_eq!(number(b"\0\0\0").unwrap(), 0);
    assert!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    assert!(number(b"9").is_err());
}

#[test]
fn what_ends_early_says_so() {
    let whole = Tar::new().file("f", 0o644, &[1; 1000]).done();
    for cut in [100, 512, 600, 1511] {
        refused(&whole[..cut], "unexpected EOF");
    }
    // The end marks themselves, and the padding, may be missing.
    for cut in [1512, 1536, 1536 + 512, whole.len()] {
        assert_eq!(all(&whole[..cut]).unwrap().len(), 1, "cut at {cut}");
    }
    assert_eq!(all(b"").unwrap().len(), 0);
    refused(b"just some text", "unexpected EOF");
    refused(&[b'x'; 2048], "invalid tar header");
}

#[test]
fn declared_lengths_are_bounded() {
    let huge = |kind| {
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(::tar::EntryType::new(kind));
        header.set_size(1 << 40);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    for kind in [b'L', b'K', b'x', b'g'] {
        refused(&huge(kind), "too long");
    }
    let many = (0..20).fold(Tar::new(), |tar, _| tar.pax(&[("comment", b"x")])).file("f", 0o644, b"").done();
    refused(&many, "too many extended headers");
    for records in [
        &b"5 a=b\n"[..],
        b"99 a=b\n",
        b"6 a=b",
        b"x a=b\n",
        b"6 abc\n",
        b"0 a=b\n",
        b"18446744073709551616 a\n",
    ] {
        let bytes = Tar::new().entry(b'x', "p", "", 0, records, &|_| {}).file("f", 0o644, b"").done();
        assert!(all(&bytes).is_err(), "{:?} was read", String::from_utf8_lossy(records));
    }
    refused(&Tar::new().entry(b'V', "v", "", 0, b"", &|_| {}).done(), "unhandled tar header type");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// On archives by the `tar` crate, both readers see the same.
    #[test]
    fn reads_what_the_tar_crate_writes(
        files in proptest::collection::vec(("[a-z]{1,30}(/[a-z]{1,80}){0,4}", proptest::collection::vec(any::<u8>(), 0..1500), 0..0o7777_u32), 0..8)
    ) {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (path, data, mode) in &files {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(*mode);
            header.set_cksum();
            builder.append_data(&mut header, path, &data[..]).unwrap();
        }
        let entries = all(&builder.into_inner().unwrap()).unwrap();
        prop_assert_eq!(entries.len(), files.len());
        for ((entry, data), (path, written, mode)) in entries.iter().zip(&files) {
            prop_assert_eq!(&entry.path, path.as_bytes());
            prop_assert_eq!(data, written);
            prop_assert_eq!(entry.mode, *mode);
        }
    }

    /// Garbage never panics, and never makes the reader keep more than it was given.
    #[test]
    fn garbage_is_read_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        kind in prop_oneof![Just(b'0'), Just(b'x'), Just(b'L'), Just(b'S'), Just(b'1'), any::<u8>()],
    ) {
        // With a right checksum now and then, or nothing gets past it.
        if bytes.len() >= 512 {
            bytes[156] = kind;
            bytes[124..136].copy_from_slice(b"00000000777\0");
            bytes[148..156].copy_from_slice(b"        ");
            let sum: u32 = bytes[..512].iter().map(|b| u32::from(*b)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        drop(all(&bytes));
    }
}
