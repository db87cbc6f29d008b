// SPDX-License-Identifier: Apache-2.0
//! The format of the `local` log driver's files: what a shim writes and a daemon reads.
//!
//! ```text
//!  file   = block block ...      every block is BLOCK bytes long but for the last
//!  block  = frame frame ... 0*   a frame never crosses the end of a block; zeros fill it up
//!  frame  = header payload
//!  header = magic:u16 kind:u8 stream:u8 length:u32 lines:u32 0:u32 time:i64     little endian
//! ```
//!
//! Frames hold output as it was printed, all lines of one read of one stream in one frame where they fit. Since
//! blocks begin at known places, the frames of any part of a large file can be found without reading what is
//! before it: times are found by halving, last lines by going back a block at a time.

/// Bytes of a block.
pub const BLOCK: usize = 256 * 1024;
/// Bytes of a frame's header.
pub const HEADER: usize = 24;

const MAGIC: u16 = 0xb10c;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JSON object of strings: what `details` shows of the lines that follow.
    Attrs,
    /// Whole lines, each with its newline.
    Lines,
    /// A part of a line that goes on, or the unfinished last line of a stream.
    Part,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// Whether it went to standard error.
    pub stderr: bool,
    /// Bytes of payload.
    pub length: u32,
    /// How many lines (1 for a part).
    pub lines: u32,
    /// Unix nanoseconds.
    pub time: i64,
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = match self.kind {
            Kind::Attrs => 1,
            Kind::Lines => 2,
            Kind::Part => 3,
        };
        bytes[3] = if self.stderr { 2 } else { 1 };
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.lines.to_le_bytes());
        bytes[16..].copy_from_slice(&self.time.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`; `None` where there is none (padding, a torn end, damage).
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let word = |at: usize| {
            let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            u32::from_le_bytes(word)
        };
        if u16::from_le_bytes([bytes[0], bytes[1]]) != MAGIC {
            return None;
        }
        let kind = match bytes[2] {
            1 => Kind::Attrs,
            2 => Kind::Lines,
            3 => Kind::Part,
            _ => return None,
        };
        let mut time = [0; 8];
        time.copy_from_slice(&bytes[16..]);
        let header = Self {
            kind,
            stderr: bytes[3] == 2,
            length: word(4),
            lines: word(8),
            time: i64::from_le_bytes(time),
        };
        (header.length as usize <= BLOCK - HEADER).then_some(header)
    }
}

/// The frames of one block (or of what there is of it).
#[derive(Debug)]
pub struct Frames<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// `block` begins where a frame begins.
    #[must_use]
    pub fn new(block: &'a [u8]) -> Self {
        Self { block, at: 0 }
    }

    /// Where the next frame begins, or the good part ends.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = (Header, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.block.get(self.at..)?;
        let header = Header::decode(rest)?;
        let payload = rest.get(HEADER..HEADER + header.length as usize)?;
        self.at += HEADER + payload.len();
        Some((header, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        for kind in [Kind::Attrs, Kind::Lines, Kind::Part] {
            let header = Header { kind, stderr: kind == Kind::Part, length: 77, lines: 3, time: -5 };
            assert_eq!(Header::decode(&header.encode()), Some(header));
        }
        assert_eq!(Header::decode(&[0; HEADER]), None);
        let long = Header { kind: Kind::Lines, stderr: false, length: u32::MAX, lines: 0, time: 0 };
        assert_eq!(Header::decode(&long.encode()), None);
    }

    #[test]
    fn frames_end_at_padding_and_at_a_torn_end() {
        let header = Header { kind: Kind::Lines, stderr: false, length: 2, lines: 1, time: 1 };
        let mut block = [header.encode().as_slice(), b"a\n"].concat();
        let whole = block.len();
        block.extend([0; 40]);
        let mut frames = Frames::new(&block);
        assert_eq!(frames.by_ref().count(), 1);
        assert_eq!(frames.offset(), whole);
        assert_eq!(Frames::new(&block[..whole - 1]).count(), 0);
    }
}
