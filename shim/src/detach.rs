// SPDX-License-Identifier: Apache-2.0
//! Finding the detach keys in what a client types.
//!
//! A client types key by key, so the sequence may be spread over any number of reads. Keys that may be the
//! beginning of the sequence are held back until it is certain that they are not.

/// Looks for one key sequence in a stream of bytes.
#[derive(Debug)]
pub(crate) struct Keys {
    keys: Vec<u8>,
    /// For each length of a match, the longest proper prefix of the keys that is its suffix.
    shorter: Vec<usize>,
    matched: usize,
}

impl Keys {
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        let mut shorter = vec![0usize; keys.len()];
        let mut length = 0;
        for i in 1..keys.len() {
            while length > 0 && keys[i] != keys[length] {
                length = shorter[length - 1];
            }
            if keys[i] == keys[length] {
                length += 1;
            }
            shorter[i] = length;
        }
        Self { keys, shorter, matched: 0 }
    }

    /// Appends to `out` what of the input is not part of a detach sequence; true once the sequence is
    /// complete (the rest of the input is dropped then).
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(input);
            return false;
        }
        for &byte in input {
            while self.matched > 0 && self.keys[self.matched] != byte {
                let keep = self.shorter[self.matched - 1];
                out.extend_from_slice(&self.keys[..self.matched - keep]);
                self.matched = keep;
            }
            if self.keys[self.matched] == byte {
                self.matched += 1;
            } else {
                out.push(byte);
            }
            if self.matched == self.keys.len() {
                self.matched = 0;
                return true;
            }
        }
        false
    }

    /// Lets go of held back keys at the end of the input.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.keys[..self.matched]);
        self.matched = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(keys: &[u8], reads: &[&[u8]], passed: &[u8], detached: bool) {
        let mut matcher = Keys::new(keys.to_vec());
        let mut out = Vec::new();
        let found = reads.iter().any(|read| matcher.feed(read, &mut out));
        if !found {
            matcher.finish(&mut out);
        }
        assert_eq!((out.as_slice(), found), (passed, detached));
    }

    #[test]
    fn keys_are_found_over_reads() {
        check(b"\x10\x11", &[b"ls\n\x10", b"\x11rest"], b"ls\n", true);
        check(b"\x10\x11", &[b"\x10", b"x\x10\x11"], b"\x10x", true);
        check(b"\x10\x11", &[b"\x10\x10", b"\x11"], b"\x10", true);
        check(b"aab", &[b"aa", b"a", b"b"], b"a", true);
        check(b"abab", &[b"aba", b"c"], b"abac", false);
        check(b"\x10\x11", &[b"end\x10"], b"end\x10", false);
        check(b"", &[b"\x10\x11"], b"\x10\x11", false);
        check(b"q", &[b"abq"], b"ab", true);
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_search(
            keys in proptest::collection::vec(0u8..3, 1..5),
            input in proptest::collection::vec(0u8..3, 0..60),
            step in 1usize..7,
        ) {
            let expected = input.windows(keys.len()).position(|w| w == keys);
            let reads: Vec<&[u8]> = input.chunks(step).collect();
            check(&keys, &reads, &input[..expected.unwrap_or(input.len())], expected.is_some());
        }
    }
}
