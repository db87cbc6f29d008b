// SPDX-License-Identifier: Apache-2.0
//! Sparse files: which parts of a file its stored bytes are.

use std::io;

use super::{BLOCK, bad, number};

/// Parts of one file; more are refused.
pub(super) const EXTENTS_MAX: usize = 100_000;

/// A stored part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

fn invalid() -> io::Error {
    bad("archive/tar: invalid sparse file")
}

/// The map of an old GNU sparse header and of the blocks that continue it; and the file's length.
pub(super) fn gnu(
    header: &[u8; BLOCK],
    mut next: impl FnMut() -> io::Result<[u8; BLOCK]>,
) -> io::Result<(Vec<Extent>, u64)> {
    let unsigned = |field: &[u8]| u64::try_from(number(field)?).map_err(|_| invalid());
    let mut extents = Vec::new();
    let mut collect = |table: &[u8]| -> io::Result<()> {
        for pair in table.chunks_exact(24) {
            if pair[0] == 0 || pair[12] == 0 {
                break;
            }
            if extents.len() >= EXTENTS_MAX {
                return Err(invalid());
            }
            extents.push(Extent { offset: unsigned(&pair[..12])?, length: unsigned(&pair[12..])? });
        }
        Ok(())
    };
    collect(&header[386..482])?;
    let mut extended = header[482] != 0;
    while extended {
        let block = next()?;
        collect(&block[..504])?;
        extended = block[504] != 0;
    }
    Ok((extents, unsigned(&header[483..495])?))
}

/// The map of PAX 1.0, which precedes the data: a count, then offsets and lengths, one decimal a line.
#[derive(Debug, Default)]
pub(super) struct Map {
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl Map {
    pub(super) fn is_whole(&self) -> bool {
        self.numbers.first().is_some_and(|count| (self.numbers.len() as u64 - 1) / 2 >= *count)
    }

    pub(super) fn feed(&mut self, block: &[u8]) -> io::Result<()> {
        for byte in block {
            if self.is_whole() {
                return Ok(());
            }
            match byte {
                b'\n' => {
                    let text = std::str::from_utf8(&self.line).map_err(|_| invalid())?;
                    let value: u64 = text.parse().map_err(|_| invalid())?;
                    if self.numbers.is_empty() && value > EXTENTS_MAX as u64 {
                        return Err(invalid());
                    }
                    self.numbers.push(value);
                    self.line.clear();
                }
                b'0'..=b'9' if self.line.len() < 20 => self.line.push(*byte),
                _ => return Err(invalid()),
            }
        }
        Ok(())
    }

    pub(super) fn extents(&self) -> Vec<Extent> {
        self.numbers
            .get(1..)
            .unwrap_or_default()
            .chunks_exact(2)
            .map(|pair| Extent { offset: pair[0], length: pair[1] })
            .collect()
    }
}

/// Whether the map is in order, within the file, and accounts for every stored byte.
pub(super) fn check(extents: &[Extent], size: u64, stored: u64) -> io::Result<()> {
    let mut end = 0;
    let mut sum = 0_u64;
    for extent in extents {
        if extent.offset < end {
            return Err(invalid());
        }
        end = extent.offset.checked_add(extent.length).ok_or_else(invalid)?;
        sum = sum.checked_add(extent.length).ok_or_else(invalid)?;
    }
    if end > size || sum != stored || i64::try_from(size).is_err() {
        return Err(invalid());
    }
    Ok(())
}
