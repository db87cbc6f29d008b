// SPDX-License-Identifier: Apache-2.0
//! Docker's framing of several output streams on one connection: a byte for the stream, three zeros, the
//! payload's length in big endian.

/// An output stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Place in an array of two.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// The header of a frame. A payload is one read from a pipe: far below 4 GiB.
pub(crate) fn header(stream: Stream, payload: usize) -> [u8; 8] {
    let length = u32::try_from(payload).unwrap_or(u32::MAX).to_be_bytes();
    let id = match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    };
    [id, 0, 0, 0, length[0], length[1], length[2], length[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(header(Stream::Stdout, 5), [1, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(header(Stream::Stderr, 0x0001_0203), [2, 0, 0, 0, 0, 1, 2, 3]);
    }
}
