// SPDX-License-Identifier: Apache-2.0
//! Cutting a stream of bytes into the lines that Docker's log copier would make of it: a line ends at
//! `\n`; one longer than [`LIMIT`] bytes goes out in parts of exactly that size, whose records all bear
//! the first part's time. Where reads begin and end makes no difference.

use std::time::Duration;

/// Docker's buffer for a line.
pub(super) const LIMIT: usize = 16 * 1024;

/// The unfinished line of one stream.
#[derive(Debug, Default)]
pub(super) struct Lines {
    carry: Vec<u8>,
    /// Time of the first part of a line of which parts went out already.
    part_of: Option<Duration>,
}

/// One line, or one part of a long line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) text: &'a [u8],
    /// Ends in a newline (which `text` does not hold).
    pub(super) whole: bool,
    pub(super) at: Duration,
}

impl Lines {
    /// Hands every line that `data` completes to `emit`.
    pub(super) fn feed(&mut self, mut data: &[u8], now: Duration, mut emit: impl FnMut(Line<'_>)) {
        while !data.is_empty() {
            let room = LIMIT - self.carry.len();
            let window = &data[..data.len().min(room)];
            let (end, used, whole) = match memchr::memchr(b'\n', window) {
                Some(newline) => (newline, newline + 1, true),
                None if window.len() == room => (room, room, false),
                None => {
                    self.carry.extend_from_slice(window);
                    return;
                }
            };
            let at = self.part_of.unwrap_or(now);
            self.part_of = if whole { None } else { Some(at) };
            if self.carry.is_empty() {
                emit(Line { text: &window[..end], whole, at });
            } else {
                self.carry.extend_from_slice(&window[..end]);
                emit(Line { text: &self.carry, whole, at });
                self.carry.clear();
            }
            data = &data[used..];
        }
    }

    /// Hands out what is left at the end of the stream.
    pub(super) fn finish(&mut self, now: Duration, mut emit: impl FnMut(Line<'_>)) {
        if !self.carry.is_empty() {
            emit(Line { text: &self.carry, whole: false, at: self.part_of.unwrap_or(now) });
        }
        *self = Self::default();
    }

    /// Gives back memory that the unfinished line does not need.
    pub(super) fn trim(&mut self) {
        self.carry.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        for piece in pieces {
            lines.feed(piece, Duration::ZERO, |l| got.push((l.text.to_vec(), l.whole)));
        }
        lines.finish(Duration::ZERO, |l| got.push((l.text.to_vec(), l.whole)));
        got
    }

    #[test]
    fn a_line_of_one_byte_less_than_the_limit_is_whole() {
        let mut line = vec![b'x'; LIMIT - 1];
        line.push(b'\n');
        assert_eq!(cut(&[&line]), vec![(vec![b'x'; LIMIT - 1], true)]);
    }

    #[test]
    fn a_line_of_the_limit_is_a_part_and_an_empty_rest() {
        let mut line = vec![b'x'; LIMIT];
        line.push(b'\n');
        assert_eq!(cut(&[&line]), vec![(vec![b'x'; LIMIT], false), (vec![], true)]);
    }

    #[test]
    fn parts_bear_the_time_of_the_first() {
        let mut lines = Lines::default();
        let mut times = Vec::new();
        let at = Duration::from_secs;
        lines.feed(&vec![b'x'; LIMIT + 1], at(1), |l| times.push((l.at, l.whole)));
        lines.feed(b"\nnext\n", at(2), |l| times.push((l.at, l.whole)));
        assert_eq!(times, vec![(at(1), false), (at(1), true), (at(2), true)]);
    }

    proptest! {
        #[test]
        fn reads_make_no_difference(
            data in proptest::collection::vec(prop_oneof![9 => Just(b'x'), 1 => Just(b'\n')], 0..2000),
            repeat in 1usize..40,
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
        ) {
            let mut data = data;
            data.extend(std::iter::repeat_n(b'y', repeat * 1000));
            let mut ends: Vec<usize> = cuts.iter().map(|c| c.index(data.len())).collect();
            ends.push(0);
            ends.push(data.len());
            ends.sort_unstable();
            let pieces: Vec<&[u8]> = ends.windows(2).map(|w| &data[w[0]..w[1]]).collect();
            let got = cut(&pieces);
            prop_assert_eq!(&got, &cut(&[&data]));
            let mut joined = Vec::new();
            for (text, whole) in got {
                joined.extend(text);
                if whole { joined.push(b'\n'); }
            }
            prop_assert_eq!(joined, data);
        }
    }
}
