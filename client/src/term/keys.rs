// SPDX-License-Identifier: Apache-2.0
//! The keys that detach from a container, looked for in what the user types.

/// Lets typed bytes through and holds back those that may be the beginning of the sequence.
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    held: usize,
}

impl DetachKeys {
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, held: 0 }
    }

    /// Adds to `out` what goes on to the container. True once the sequence is complete; the bytes after
    /// it are dropped.
    pub(crate) fn filter(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in typed {
            // What was held turns out to be ordinary input when the next byte does not fit; the longest
            // tail of it that still is a beginning stays held.
            while self.held > 0 && self.keys[self.held] != byte {
                let shorter = self.overlap();
                out.extend_from_slice(&self.keys[..self.held - shorter]);
                self.held = shorter;
            }
            if self.keys.get(self.held) == Some(&byte) {
                self.held += 1;
                if self.held == self.keys.len() {
                    return true;
                }
            } else {
                out.push(byte);
            }
        }
        false
    }

    /// Length of the longest proper tail of the held bytes that is also a beginning of the sequence.
    fn overlap(&self) -> usize {
        (1..self.held).rev().find(|&n| self.keys[..n] == self.keys[self.held - n..self.held]).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(keys: &[u8], chunks: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut detach = DetachKeys::new(keys.to_vec());
        let mut out = Vec::new();
        let done = chunks.iter().any(|chunk| detach.filter(chunk, &mut out));
        (out, done)
    }

    #[test]
    fn sequences_are_found_across_reads() {
        assert_eq!(run(b"\x10\x11", &[b"ab\x10", b"\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(run(b"\x10\x11", &[b"\x10x\x11"]), (b"\x10x\x11".to_vec(), false));
        assert_eq!(run(b"\x10\x11", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(run(b"aab", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(run(b"abab!", &[b"ababab!"]), (b"ab".to_vec(), true));
        assert_eq!(run(b"x", &[b"1x2"]), (b"1".to_vec(), true));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_made_up(keys in "[ab]{1,4}", typed in "[abc]{0,40}", cut in 1usize..5) {
            let chunks: Vec<&[u8]> = typed.as_bytes().chunks(cut).collect();
            let (out, done) = run(keys.as_bytes(), &chunks);
            match typed.find(&keys) {
                Some(at) => {
                    prop_assert!(done);
                    prop_assert_eq!(out, typed.as_bytes()[..at].to_vec());
                }
                None => {
                    prop_assert!(!done);
                    prop_assert!(typed.as_bytes().starts_with(&out));
                    prop_assert!(typed.len() - out.len() < keys.len());
                }
            }
        }
    }
}
