// SPDX-License-Identifier: Apache-2.0
//! The framing of attach and log streams without a terminal: one byte of stream, three zero bytes, four
//! bytes of big-endian length, then the payload.

/// Bytes of a frame's header.
pub const HEADER: usize = 8;

/// Longest frame that the decoder believes; the reference's clients give up at less.
pub const MAX_FRAME: usize = 64 << 20;

/// Whose bytes a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// What the client typed; readers show it with stdout.
    Stdin,
    /// Output.
    Stdout,
    /// Errors.
    Stderr,
    /// The engine's own complaint: clients raise it.
    System,
}

impl Stream {
    /// The first byte of the header.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::System => 3,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::System,
            _ => return None,
        })
    }
}

/// The header of a frame; lengths past 4 GiB do not occur, and are cut to what the field holds.
#[must_use]
pub fn header(stream: Stream, length: usize) -> [u8; HEADER] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [stream.byte(), 0, 0, 0, a, b, c, d]
}

/// Appends one frame to `out`.
pub fn encode(stream: Stream, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&header(stream, payload.len()));
    out.extend_from_slice(payload);
}

/// The stream is not framed as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A first byte that names no stream.
    UnknownStream(u8),
    /// A length past [`MAX_FRAME`].
    TooLong(u32),
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownStream(b) => write!(f, "unrecognized stream: {b}"),
            Self::TooLong(n) => write!(f, "a frame of {n} bytes is too long"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Takes frames apart as bytes arrive in pieces of any size. Payload is handed on as it comes: a frame is
/// never held whole.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER],
    have: usize,
    current: Option<(Stream, usize)>,
}

impl Decoder {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Feeds bytes; `sink` gets each run of payload.
    ///
    /// # Errors
    ///
    /// The bytes are no frames; nothing sensible can follow.
    pub fn feed(&mut self, mut bytes: &[u8], mut sink: impl FnMut(Stream, &[u8])) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            match self.current.take() {
                Some((stream, left)) => {
                    let (now, rest) = bytes.split_at(left.min(bytes.len()));
                    sink(stream, now);
                    self.current = (left > now.len()).then(|| (stream, left - now.len()));
                    bytes = rest;
                }
                None => {
                    let take = (HEADER - self.have).min(bytes.len());
                    let (now, rest) = bytes.split_at(take);
                    self.header[self.have..self.have + take].copy_from_slice(now);
                    self.have += take;
                    bytes = rest;
                    if self.have == HEADER {
                        self.have = 0;
                        let [s, _, _, _, a, b, c, d] = self.header;
                        let stream = Stream::from_byte(s).ok_or(Malformed::UnknownStream(s))?;
                        let length = u32::from_be_bytes([a, b, c, d]);
                        let whole = usize::try_from(length).unwrap_or(usize::MAX);
                        if whole > MAX_FRAME {
                            return Err(Malformed::TooLong(length));
                        }
                        self.current = (whole > 0).then_some((stream, whole));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the stream may end here: between two frames.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.have == 0 && self.current.is_none()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_has_the_documented_bytes() {
        let mut out = Vec::new();
        encode(Stream::Stderr, b"hi\n", &mut out);
        assert_eq!(out, b"\x02\0\0\0\0\0\0\x03hi\n");
    }

    #[test]
    fn nonsense_is_refused() {
        let mut d = Decoder::new();
        assert_eq!(d.feed(b"\x07\0\0\0\0\0\0\x01", |_, _| {}), Err(Malformed::UnknownStream(7)));
        let mut d = Decoder::new();
        assert_eq!(d.feed(b"\x01\0\0\0\xff\xff\xff\xff", |_, _| {}), Err(Malformed::TooLong(u32::MAX)));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            frames in prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 0..300)), 0..12),
            cut in 1usize..50,
        ) {
            let mut wire = Vec::new();
            let mut expected = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
            for (stream, payload) in &frames {
                encode(Stream::from_byte(*stream).unwrap(), payload, &mut wire);
                expected[usize::from(*stream)].extend_from_slice(payload);
            }
            let mut got = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
            let mut decoder = Decoder::new();
            for piece in wire.chunks(cut) {
                decoder.feed(piece, |s, bytes| got[usize::from(s.byte())].extend_from_slice(bytes)).unwrap();
            }
            prop_assert!(decoder.at_boundary());
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new();
            let mut seen = 0;
            if decoder.feed(&bytes, |_, b| seen += b.len()).is_ok() {
                prop_assert!(seen <= bytes.len());
            }
        }
    }
}
