// SPDX-License-Identifier: Apache-2.0
//! Doors for fuzz targets: what reads bytes of strangers, without a store around it. Any input ends in an answer or an error,
//! in bounded time and memory, and touches nothing outside the directory given.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::unpack::{self, Limits};
use crate::{document, packed, tar};

/// A manifest or an index, and the same bytes as an image's config.
pub fn document(bytes: &[u8]) {
    let media_types = [None, Some("application/vnd.oci.image.manifest.v1+json")];
    let meanings = media_types.map(|declared| document::parse(bytes, declared).is_ok());
    // What is taken for a manifest when it is declared as one means nothing else when it is not.
    assert!(!meanings[1] || meanings[0], "two meanings");
    if let Ok(config) = document::Config::parse(bytes) {
        assert!(config.diff_ids.len() <= document::LAYERS_MAX);
        document::chain_ids(&config.diff_ids);
    }
}

/// A layer's tar unpacked into `root`, an empty directory.
///
/// # Errors
///
/// What is wrong with it.
pub fn layer(bytes: &[u8], root: &Path) -> io::Result<()> {
    let limits = Limits { entries: 2000, bytes: 4 << 20, directory_names: 1 << 20, keep_free: 1 << 20 };
    let root = File::open(root)?;
    unpack::unpack(&mut tar::Reader::new(bytes), root.into(), &limits, &AtomicBool::new(false)).map(drop)
}

/// A tar archive read to its end; the number of entries.
///
/// # Errors
///
/// What is wrong with it.
pub fn archive(bytes: &[u8]) -> io::Result<usize> {
    let mut reader = tar::Reader::new(bytes);
    let mut entries = 0;
    while reader.next_entry()?.is_some() {
        entries += 1;
        assert!(entries <= bytes.len() / 512 + 1, "more entries than blocks");
        loop {
            let n = reader.data()?.len();
            if n == 0 {
                break;
            }
            reader.consume(n);
        }
    }
    Ok(entries)
}

/// Bytes packed in any way, unpacked up to a bound.
///
/// # Errors
///
/// What is wrong with them.
pub fn packed(bytes: &[u8]) -> io::Result<u64> {
    let (_, mut input) = packed::open(bytes)?;
    io::copy(&mut input.by_ref().take(8 << 20), &mut io::sink())
}
