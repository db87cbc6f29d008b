// SPDX-License-Identifier: Apache-2.0
//! Writing tar: POSIX.1-1988 ustar, with PAX records (POSIX.1-2001) for what its fields are too small for.
//!
//! What fits a plain header gets no PAX record, so that archives of ordinary files stay as small as they can be. Extended
//! attributes go under `SCHILY.xattr.`, as GNU tar, Go and libarchive write and read them. Holes are written as zeros:
//! sparse formats are read wrongly, and silently so, by several clients' tar libraries.

use std::io::{self, Write};

use super::Kind;

const BLOCK: usize = 512;
/// Bytes of the fields `name` and `linkname`, and of `prefix`.
const NAME: usize = 100;
const PREFIX: usize = 155;
/// Octal digits of the numeric fields.
const SHORT: u32 = 7;
const LONG: u32 = 11;

/// An archive being written.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// Bytes that the current file still lacks, and its padding.
    left: u64,
    padding: usize,
    pax: Vec<u8>,
}

/// What an entry's header is to say.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its name; a directory's ends with `/`.
    pub name: &'a [u8],
    /// What a link leads to.
    pub link: &'a [u8],
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes that follow by [`Writer::data`]; 0 for anything but a file.
    pub size: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Header<'a> {
    /// An entry of root's without time, content or attributes.
    #[must_use]
    pub fn new(kind: Kind, name: &'a [u8], mode: u32) -> Self {
        Self {
            kind,
            name,
            link: b"",
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: (0, 0),
            device: (0, 0),
            xattrs: &[],
        }
    }
}

impl<W: Write> Writer<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, left: 0, padding: 0, pax: Vec::new() }
    }

    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(&Header::new(Kind::Directory, name.as_bytes(), 0o755))
    }

    /// Begins a file; its bytes follow by [`Writer::data`].
    pub(crate) fn file(&mut self, name: &str, size: u64) -> io::Result<()> {
        self.entry(&Header { size, ..Header::new(Kind::File, name.as_bytes(), 0o444) })
    }

    /// Writes a header. Where it states a size, so many bytes follow.
    ///
    /// # Errors
    ///
    /// The entry before lacks data; the output fails.
    pub fn entry(&mut self, header: &Header<'_>) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("the file before has less data than its header says"));
        }
        self.pax.clear();
        for (name, value) in header.xattrs {
            // Such a name has no place in a record.
            if !name.contains(&b'=') && !name.contains(&0) {
                record(&mut self.pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
            }
        }
        let block = block(header, &mut self.pax);
        if !self.pax.is_empty() {
            let size = self.pax.len() as u64;
            let extended = Header { size, ..Header::new(Kind::File, b"././@PaxHeader", 0o644) };
            let mut head = self::block(&extended, &mut Vec::new());
            set_kind(&mut head, b'x');
            self.out.write_all(&head)?;
            let rest = padding(size);
            self.pax.resize(self.pax.len() + rest, 0);
            self.out.write_all(&self.pax)?;
        }
        self.out.write_all(&block)?;
        self.left = header.size;
        self.padding = padding(header.size);
        Ok(())
    }

    /// More of the current file.
    ///
    /// # Errors
    ///
    /// More than its header says; the output fails.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.account(bytes.len() as u64)?;
        self.out.write_all(bytes)?;
        self.pad()
    }

    /// So many bytes of the current file that `write` puts out by itself.
    ///
    /// # Errors
    ///
    /// More than its header says; what `write` says.
    pub fn data_by(&mut self, count: u64, write: impl FnOnce(&mut W) -> io::Result<()>) -> io::Result<()> {
        self.account(count)?;
        write(&mut self.out)?;
        self.pad()
    }

    /// Ends the archive.
    ///
    /// # Errors
    ///
    /// The last file lacks data; the output fails.
    pub fn finish(mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("the last file has less data than its header says"));
        }
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    fn account(&mut self, count: u64) -> io::Result<()> {
        self.left =
            self.left.checked_sub(count).ok_or_else(|| io::Error::other("more data than the header says"))?;
        Ok(())
    }

    fn pad(&mut self) -> io::Result<()> {
        if self.left == 0 && self.padding > 0 {
            self.out.write_all(&[0; BLOCK][..std::mem::take(&mut self.padding)])?;
        }
        Ok(())
    }
}

fn padding(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

/// The header as a block; what it cannot hold goes to `pax`.
fn block(header: &Header<'_>, pax: &mut Vec<u8>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let (prefix, name) = match split(header.name) {
        Some(parts) => parts,
        None => {
            record(pax, b"path", header.name);
            (&b""[..], &header.name[..NAME])
        }
    };
    block[..name.len()].copy_from_slice(name);
    block[345..345 + prefix.len()].copy_from_slice(prefix);
    let link = &header.link[..header.link.len().min(NAME)];
    if link.len() < header.link.len() {
        record(pax, b"linkpath", header.link);
    }
    block[157..157 + link.len()].copy_from_slice(link);
    let mut number = |at: usize, digits: u32, key: &str, value: u64| {
        if value >> (3 * digits) == 0 {
            octal(&mut block, at, digits, value);
        } else {
            record(pax, key.as_bytes(), value.to_string().as_bytes());
            octal(&mut block, at, digits, 0);
        }
    };
    number(108, SHORT, "uid", header.uid.into());
    number(116, SHORT, "gid", header.gid.into());
    number(124, LONG, "size", header.size);
    let (seconds, nanos) = header.mtime;
    let plain = u64::try_from(seconds).ok().filter(|s| nanos == 0 && s >> (3 * LONG) == 0);
    if plain.is_none() {
        record(pax, b"mtime", time(seconds, nanos).as_bytes());
    }
    // Readers without PAX see the second.
    let whole = u64::try_from(seconds).ok().filter(|s| s >> (3 * LONG) == 0).unwrap_or(0);
    octal(&mut block, 136, LONG, whole);
    octal(&mut block, 100, SHORT, (header.mode & 0o7777).into());
    octal(&mut block, 329, SHORT, header.device.0.into());
    octal(&mut block, 337, SHORT, header.device.1.into());
    block[257..265].copy_from_slice(b"ustar\x0000");
    set_kind(
        &mut block,
        match header.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Char => b'3',
            Kind::Block => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        },
    );
    block
}

/// Sets the type, and then the checksum.
fn set_kind(block: &mut [u8; BLOCK], kind: u8) {
    block[156] = kind;
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    octal(block, 148, 6, sum);
    block[154..156].copy_from_slice(b"\0 ");
}

/// The fields `prefix` and `name`; `None` for a name that fits neither alone nor cut at a slash.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= NAME {
        return Some((b"", name));
    }
    // The last slash of a directory is part of its name.
    let body = &name[..name.len() - 1];
    let first = name.len().checked_sub(NAME + 1)?;
    let cut = first + body.get(first..)?.iter().position(|b| *b == b'/')?;
    (cut > 0 && cut <= PREFIX).then(|| (&name[..cut], &name[cut + 1..]))
}

fn octal(block: &mut [u8; BLOCK], at: usize, digits: u32, mut value: u64) {
    for place in block[at..at + digits as usize].iter_mut().rev() {
        *place = b'0' + u8::try_from(value & 7).unwrap_or(0);
        value >>= 3;
    }
}

/// Seconds as a decimal fraction; a time before 1970 counts down from there.
fn time(seconds: i64, nanos: u32) -> String {
    if nanos == 0 {
        return seconds.to_string();
    }
    let text = if seconds < 0 {
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos)
    } else {
        format!("{seconds}.{nanos:09}")
    };
    text.trim_end_matches('0').to_owned()
}

/// `<length> <key>=<value>\n`, the length counting itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::Read;

    use super::*;
    use crate::tar::Reader;

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
    fn sizes_beyond_octal_are_records() {
        let mut archive = Vec::new();
        let mut writer = Writer::new(&mut archive);
        writer.file("big", 1 << 33).unwrap();
        let mut reader = ::tar::Archive::new(archive.as_slice());
        let entry = reader.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.size(), 1 << 33);
    }

    #[test]
    fn headers_and_data_must_agree() {
        let mut writer = Writer::new(Vec::new());
        writer.file("a", 1).unwrap();
        assert!(writer.directory("b/").is_err());
        assert!(writer.data(b"xy").is_err());
        assert!(writer.finish().is_err());
    }

    #[track_caller]
    fn check(header: &Header<'_>, blocks: usize) {
        let mut archive = Vec::new();
        let mut writer = Writer::new(&mut archive);
        writer.entry(header).unwrap();
        writer
            .data_by(header.size, |out| out.write_all(&vec![0; usize::try_from(header.size).unwrap()]))
            .unwrap();
        writer.finish().unwrap();
        assert_eq!(archive.len(), (blocks + 2) * BLOCK, "blocks");
        let entry = Reader::new(&archive[..]).next_entry().unwrap().unwrap();
        assert_eq!((entry.kind, &*entry.path, &*entry.link), (header.kind, header.name, header.link));
        assert_eq!((entry.mode, entry.mtime, entry.device), (header.mode, header.mtime, header.device));
        assert_eq!((entry.uid, entry.gid, entry.size), (header.uid.into(), header.gid.into(), header.size));
        assert_eq!(entry.xattrs, header.xattrs);
    }

    #[test]
    fn what_fits_is_plain_and_what_does_not_is_in_records() {
        let plain = Header::new(Kind::File, b"a", 0o4755);
        check(&plain, 1);
        check(&Header { kind: Kind::Char, device: (1, 1_048_575), ..plain }, 1);
        check(&Header { uid: 2_097_151, mtime: (8_589_934_591, 0), ..plain }, 1);
        check(&Header { uid: 2_097_152, gid: u32::MAX - 1, ..plain }, 3);
        for mtime in
            [(1, 5), (-1, 0), (-2, 500_000_000), (-1, 999_999_999), (1 << 33, 1), (i64::from(i32::MIN), 0)]
        {
            check(&Header { mtime, ..plain }, 3);
        }
        let attributes = [(b"user.x".to_vec(), vec![0, b'\n', b'=', 255]), (b"user.y".to_vec(), Vec::new())];
        check(&Header { xattrs: &attributes, size: 513, ..plain }, 5);
        let (name, deep) = ("n".repeat(100), format!("{}/{}/", "d".repeat(150), "e".repeat(90)));
        check(&Header { name: name.as_bytes(), ..plain }, 1);
        check(&Header { kind: Kind::Directory, name: deep.as_bytes(), ..plain }, 1);
        for long in ["n".repeat(255), format!("{}/x", "d".repeat(200)), format!("a\nb/{}", "e".repeat(101))] {
            check(&Header { name: long.as_bytes(), ..plain }, 3);
        }
        check(&Header { kind: Kind::Symlink, link: "l\n".repeat(400).as_bytes(), ..plain }, 4);
    }
}
