// SPDX-License-Identifier: Apache-2.0
//! Reading tar streams from strangers, and writing our own ([`write`]).
//!
//! Our own reader rather than the `tar` crate's, for three reasons: everything that an archive declares is bounded
//! here (the crate reads long names and PAX records of any length into memory); entry data is lent
//! from the input's buffer instead of copied; and the readings that differ between implementations follow Go's
//! `archive/tar`, because that is what computed and unpacked these archives everywhere else: PAX `size`
//! replaces the header's, link-like entries carry no data, global PAX records are not applied.
//!
//! Understood: V7, POSIX ustar and PAX, GNU (long names, base-256 numbers, sparse files old and PAX 0.0, 0.1, 1.0).

mod pax;
mod sparse;
pub mod write;

#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Read};

use pax::Pax;
pub use sparse::Extent;

const BLOCK: usize = 512;
/// Long names and PAX records above this are refused (Go's bound).
const META_MAX: u64 = 1 << 20;
/// Headers that describe one entry (PAX, long names); more than these four kinds repeat for no good reason.
const META_PER_ENTRY: u32 = 16;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // They are what they are called.
pub enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Directory,
    Fifo,
}

/// One entry's header, with all that PAX and GNU extensions say of it. Names are as written.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub path: Vec<u8>,
    /// What a link leads to.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// The file's length, holes included.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored bytes belong; `None` for a plain file.
    pub sparse: Option<Vec<Extent>>,
}

/// A tar stream.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Stored bytes of the current entry not yet read.
    data: u64,
    /// Zeros after them, up to the next block.
    padding: u64,
    ended: bool,
}

/// Zeros, and so many that a hole takes less room than they do: what had holes where it was packed gets them again.
#[must_use]
pub fn is_hole(bytes: &[u8]) -> bool {
    const LEAST: usize = 32 << 10;
    bytes.len() >= LEAST && bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The archive is not a tar archive, or not a whole one.
pub(crate) fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF")
}

impl<R: BufRead> Reader<R> {
    /// Reads the archive that `input` is.
    pub fn new(input: R) -> Self {
        Self { input, data: 0, padding: 0, ended: false }
    }

    /// The input, wherever it stands.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; what is unread of the current one is skipped.
    ///
    /// # Errors
    ///
    /// The archive is damaged or cut short, or its input cannot be read.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut pax = Pax::default();
        let mut long_path = None;
        let mut long_link = None;
        for _ in 0..=META_PER_ENTRY {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header.size()?;
            match header.type_flag() {
                b'x' => {
                    let records = self.meta(size)?;
                    pax.read(&records)?;
                }
                b'g' => {
                    self.meta(size)?;
                }
                b'L' => long_path = Some(until_nul(&self.meta(size)?).to_vec()),
                b'K' => long_link = Some(until_nul(&self.meta(size)?).to_vec()),
                _ => return self.entry(&header, pax, long_path, long_link).map(Some),
            }
        }
        Err(bad("archive/tar: too many extended headers before an entry"))
    }

    /// The current entry's next stored bytes, lent from the input's buffer; empty at their end.
    ///
    /// # Errors
    ///
    /// The archive is damaged or cut short, or its input cannot be read.
    pub fn data(&mut self) -> io::Result<&[u8]> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let most = self.data;
        let buffer = self.input.fill_buf()?;
        if buffer.is_empty() {
            return Err(cut_short());
        }
        let n = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        Ok(&buffer[..n])
    }

    /// Takes `n` bytes of those lent by [`Reader::data`].
    pub fn consume(&mut self, n: usize) {
        self.input.consume(n);
        self.data -= n as u64;
    }

    fn entry(
        &mut self,
        header: &Header,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Entry> {
        let path = pax.path.clone().or(long_path).unwrap_or_else(|| header.path());
        let kind = match header.type_flag() {
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(bad(format!("unhandled tar header type {:?}", char::from(other))));
            }
        };
        let stored = match pax.size {
            Some(size) => size,
            None => header.size()?,
        };
        // Link-like entries have no data, whatever size they state.
        let stored = if kind == Kind::File { stored } else { 0 };
        self.data = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
        let mut entry = Entry {
            path,
            link: pax.link.clone().or(long_link).unwrap_or_else(|| header.link()),
            kind,
            mode: u32::try_from(header.number(100, 8)? & 0o7777).unwrap_or_default(),
            uid: match pax.uid {
                Some(id) => id,
                None => header.id(108)?,
            },
            gid: match pax.gid {
                Some(id) => id,
                None => header.id(116)?,
            },
            mtime: match pax.mtime {
                Some(time) => time,
                None => (header.number(136, 12)?, 0),
            },
            size: stored,
            device: match kind {
                Kind::Char | Kind::Block => (header.device(329)?, header.device(337)?),
                _ => (0, 0),
            },
            xattrs: Vec::new(),
            sparse: None,
        };
        if kind == Kind::File {
            if header.type_flag() == b'S' {
                let (extents, size) = sparse::gnu(header.bytes(), || self.raw_block())?;
                (entry.sparse, entry.size) = (Some(extents), size);
            } else if pax.sparse.is_some() {
                let (extents, size, name) = self.pax_sparse(&pax)?;
                (entry.sparse, entry.size) = (Some(extents), size);
                if let Some(name) = name {
                    entry.path = name;
                }
            }
            if let Some(extents) = &entry.sparse {
                sparse::check(extents, entry.size, self.data)?;
            }
        }
        entry.xattrs = pax.xattrs;
        Ok(entry)
    }

    fn pax_sparse(&mut self, pax: &Pax) -> io::Result<(Vec<Extent>, u64, Option<Vec<u8>>)> {
        let Some(sparse) = &pax.sparse else {
            return Err(bad("archive/tar: invalid sparse file"));
        };
        let extents = if sparse.version_1 {
            let mut map = sparse::Map::default();
            while !map.is_whole() {
                let mut block = [0; BLOCK];
                if self.data < BLOCK as u64 {
                    return Err(bad("archive/tar: invalid sparse file"));
                }
                self.input.read_exact(&mut block).map_err(eof)?;
                self.data -= BLOCK as u64;
                map.feed(&block)?;
            }
            map.extents()
        } else {
            sparse.extents.clone()
        };
        Ok((extents, sparse.size, sparse.name.clone()))
    }

    fn meta(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > META_MAX {
            return Err(bad("archive/tar: header field too long"));
        }
        let mut bytes = Vec::new();
        (&mut self.input).take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(cut_short());
        }
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(bytes)
    }

    fn skip_data(&mut self) -> io::Result<()> {
        let mut left = self.data + self.padding;
        while left > 0 {
            let got = self.input.fill_buf()?.len() as u64;
            if got == 0 {
                // Some writers leave out the last padding.
                if left <= self.padding {
                    break;
                }
                return Err(cut_short());
            }
            let n = got.min(left);
            self.input.consume(usize::try_from(n).unwrap_or(usize::MAX));
            left -= n;
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }

    fn raw_block(&mut self) -> io::Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.input.read_exact(&mut block).map_err(eof)?;
        Ok(block)
    }

    /// The next header block; `None` at the end, which is two zero blocks or the end of the input.
    fn header(&mut self) -> io::Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        if self.input.fill_buf()?.is_empty() {
            self.ended = true;
            return Ok(None);
        }
        let block = self.raw_block()?;
        if block.iter().all(|b| *b == 0) {
            self.ended = true;
            if !self.input.fill_buf()?.is_empty() && self.raw_block()?.iter().any(|b| *b != 0) {
                return Err(bad("archive/tar: invalid tar header"));
            }
            return Ok(None);
        }
        Header::checked(block).map(Some)
    }
}

fn eof(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { cut_short() } else { error }
}

/// One header block whose checksum is right.
#[derive(Debug)]
struct Header([u8; BLOCK]);

impl Header {
    fn checked(block: [u8; BLOCK]) -> io::Result<Self> {
        let header = Self(block);
        let stated = header.number(148, 8)?;
        let sum = |as_signed: bool| -> i64 {
            let byte = |b: u8| if as_signed { i64::from(i8::from_ne_bytes([b])) } else { i64::from(b) };
            header
                .0
                .iter()
                .enumerate()
                .map(|(i, b)| if (148..156).contains(&i) { 32 } else { byte(*b) })
                .sum()
        };
        if stated != sum(false) && stated != sum(true) {
            return Err(bad("archive/tar: invalid tar header"));
        }
        Ok(header)
    }

    fn bytes(&self) -> &[u8; BLOCK] {
        &self.0
    }

    fn type_flag(&self) -> u8 {
        self.0[156]
    }

    fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = if &self.0[257..263] == b"ustar\0" { until_nul(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn link(&self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    fn number(&self, at: usize, len: usize) -> io::Result<i64> {
        number(&self.0[at..at + len])
    }

    fn size(&self) -> io::Result<u64> {
        u64::try_from(self.number(124, 12)?).map_err(|_| bad("archive/tar: invalid tar header"))
    }

    fn id(&self, at: usize) -> io::Result<u64> {
        u64::try_from(self.number(at, 8)?).map_err(|_| bad("archive/tar: invalid tar header"))
    }

    fn device(&self, at: usize) -> io::Result<u32> {
        u32::try_from(self.number(at, 8)?).map_err(|_| bad("archive/tar: invalid tar header"))
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())]
}

/// A numeric field: octal digits among spaces and NULs, or base 256 in two's complement when the top bit is set.
fn number(field: &[u8]) -> io::Result<i64> {
    let invalid = || bad("archive/tar: invalid tar header");
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (i, byte) in field.iter().enumerate() {
            let byte = match (i, negative) {
                (0, false) => byte & 0x7f,
                _ => *byte,
            };
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| invalid());
    }
    let digits = until_nul(field).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8).map(|v| v + i64::from(digit - b'0')).ok_or_else(invalid),
        _ => Err(invalid()),
    })
}
