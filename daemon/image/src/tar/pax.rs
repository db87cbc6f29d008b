// SPDX-License-Identifier: Apache-2.0
//! PAX extended headers: `<length> <key>=<value>\n`, the length counting the whole record.

use std::io;

use super::bad;
use super::sparse::{EXTENTS_MAX, Extent};

/// What the PAX records of one entry say.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<PaxSparse>,
}

/// `GNU.sparse.*`.
#[derive(Debug, Default, Clone)]
pub(super) struct PaxSparse {
    pub(super) version_1: bool,
    pub(super) size: u64,
    pub(super) name: Option<Vec<u8>>,
    pub(super) extents: Vec<Extent>,
    offset: Option<u64>,
}

fn invalid() -> io::Error {
    bad("archive/tar: invalid tar header")
}

fn decimal(value: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).ok_or_else(invalid)
}

fn time(value: &[u8]) -> io::Result<(i64, u32)> {
    let text = std::str::from_utf8(value).map_err(|_| invalid())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| invalid())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid());
    }
    let nanos: u32 = format!("{fraction:0<9}")[..9].parse().map_err(|_| invalid())?;
    if whole.starts_with('-') && nanos > 0 {
        // -1.25 is two seconds before, three quarters on.
        return Ok((seconds.checked_sub(1).ok_or_else(invalid)?, 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

impl Pax {
    /// Takes the records of one extended header; later records win.
    pub(super) fn read(&mut self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            let space = records.iter().take(20).position(|b| *b == b' ').ok_or_else(invalid)?;
            let len = usize::try_from(decimal(&records[..space])?).map_err(|_| invalid())?;
            if len <= space + 1 || len > records.len() || records[len - 1] != b'\n' {
                return Err(invalid());
            }
            let record = &records[space + 1..len - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(invalid)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            records = &records[len..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() || name.contains(&0) {
                return Err(invalid());
            }
            self.xattrs.retain(|(n, _)| n != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.get_or_insert_default().record(key, value);
        }
        // An empty value takes an earlier one back.
        let given = !value.is_empty();
        match key {
            b"path" | b"linkpath" if value.contains(&0) => return Err(invalid()),
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = given.then(|| decimal(value)).transpose()?,
            b"uid" => self.uid = given.then(|| decimal(value)).transpose()?,
            b"gid" => self.gid = given.then(|| decimal(value)).transpose()?,
            b"mtime" => self.mtime = given.then(|| time(value)).transpose()?,
            _ => {}
        }
        Ok(())
    }
}

impl PaxSparse {
    fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"major" => self.version_1 = decimal(value)? == 1,
            b"size" | b"realsize" => self.size = decimal(value)?,
            b"name" => self.name = Some(value.to_vec()),
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(invalid)?;
                self.push(offset, decimal(value)?)?;
            }
            b"map" => {
                self.extents.clear();
                let mut numbers = value.split(|b| *b == b',');
                while let Some(offset) = numbers.next() {
                    let length = numbers.next().ok_or_else(invalid)?;
                    self.push(decimal(offset)?, decimal(length)?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.extents.len() >= EXTENTS_MAX {
            return Err(invalid());
        }
        self.extents.push(Extent { offset, length });
        Ok(())
    }
}
