// SPDX-License-Identifier: Apache-2.0
//! Writing tar (POSIX.1-1988 ustar, with GNU's binary sizes beyond 8 GiB). Names are ours and short.

use std::io::{self, Write};

const BLOCK: usize = 512;
/// The largest size that eleven octal digits hold.
const OCTAL_MAX: u64 = 0o777_7777_7777;

/// An archive being written.
pub(crate) struct Writer<W> {
    out: W,
    /// Bytes that the current file still lacks, and its padding.
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, left: 0, padding: 0 }
    }

    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.header(name, 0, b'5', 0o755)
    }

    /// Begins a file; its bytes follow by [`Writer::data`].
    pub(crate) fn file(&mut self, name: &str, size: u64) -> io::Result<()> {
        self.header(name, size, b'0', 0o444)?;
        self.left = size;
        self.padding = (BLOCK - usize::try_from(size % BLOCK as u64).unwrap_or(0)) % BLOCK;
        self.pad()
    }

    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("more data than the header says"))?;
        self.out.write_all(bytes)?;
        self.pad()
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    fn pad(&mut self) -> io::Result<()> {
        if self.left == 0 && self.padding > 0 {
            self.out.write_all(&[0; BLOCK][..std::mem::take(&mut self.padding)])?;
        }
        Ok(())
    }

    fn header(&mut self, name: &str, size: u64, kind: u8, mode: u32) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("the file before has less data than its header says"));
        }
        let mut header = [0u8; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        if name.len() > 100 {
            return Err(io::Error::other(format!("the name {name:?} is too long for an archive")));
        }
        put(0, name);
        put(100, &format!("{mode:07o}\0"));
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(136, "00000000000\0");
        put(148, "        ");
        put(257, "ustar\x0000");
        if size <= OCTAL_MAX {
            put(124, &format!("{size:011o}\0"));
        } else {
            header[124] = 0x80;
            header[128..136].copy_from_slice(&size.to_be_bytes());
        }
        header[156] = kind;
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.out.write_all(&header)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::Read;

    use super::*;

    #[test]
    fn others_read_what_is_written() {
        let mut archive = Vec::new();
        let mut writer = Writer::new(&mut archive);
        writer.directory("d/").unwrap();
        for size in [0u64, 1, 511, 512, 513] {
            writer.file(&format!("d/{size}"), size).unwrap();
            writer.data(&vec![7; usize::try_from(size).unwrap()]).unwrap();
        }
        writer.finish().unwrap();
        let mut reader = ::tar::Archive::new(archive.as_slice());
        let mut seen = Vec::new();
        for entry in reader.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert!(content.iter().all(|b| *b == 7));
            seen.push((entry.path().unwrap().display().to_string(), content.len()));
        }
        let expected = [("d/", 0), ("d/0", 0), ("d/1", 1), ("d/511", 511), ("d/512", 512), ("d/513", 513)];
        assert_eq!(seen, expected.map(|(name, size)| (name.to_owned(), size)));
    }

    #[test]
    fn sizes_beyond_octal_are_binary() {
        let mut archive = Vec::new();
        let mut writer = Writer::new(&mut archive);
        writer.file("big", OCTAL_MAX + 1).unwrap();
        let mut reader = ::tar::Archive::new(archive.as_slice());
        let entry = reader.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.size(), OCTAL_MAX + 1);
    }

    #[test]
    fn headers_and_data_must_agree() {
        let mut writer = Writer::new(Vec::new());
        writer.file("a", 1).unwrap();
        assert!(writer.directory("b/").is_err());
        assert!(writer.data(b"xy").is_err());
    }
}
