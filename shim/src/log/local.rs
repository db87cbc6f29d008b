// SPDX-License-Identifier: Apache-2.0
//! Writing [`berth_shim_proto::local`]: lines of one read go into one frame as they are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use berth_shim_proto::local::{BLOCK, Frames, HEADER, Header, Kind};

use super::lines::Line;
use crate::say::say;
use crate::stdcopy::Stream;

/// The frame at the end of a batch that further lines may join.
#[derive(Debug, Clone, Copy)]
struct Open {
    start: usize,
    stream: Stream,
    at: Duration,
    header: Header,
}

/// Appends lines to a batch of bytes.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    open: Option<Open>,
}

impl Encoder {
    /// A batch was written or begun anew.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// How much a line would add at most, padding included.
    pub(super) fn cost(position: u64, line: &Line<'_>) -> usize {
        let payload = line.text.len() + usize::from(line.whole);
        HEADER + payload + padding(position, HEADER + payload)
    }

    /// Appends a line to `out`, whose end is at `position` of the file.
    pub(super) fn push(&mut self, out: &mut Vec<u8>, position: u64, stream: Stream, line: &Line<'_>) {
        let payload = line.text.len() + usize::from(line.whole);
        let fits = |open: &&mut Open| {
            line.whole
                && open.header.kind == Kind::Lines
                && (open.stream, open.at) == (stream, line.at)
                && padding(position, payload) == 0
        };
        if let Some(open) = self.open.as_mut().filter(fits) {
            open.header.length += u32::try_from(payload).unwrap_or(0);
            open.header.lines += 1;
            out[open.start..open.start + HEADER].copy_from_slice(&open.header.encode());
        } else {
            out.resize(out.len() + padding(position, HEADER + payload), 0);
            let header = Header {
                kind: if line.whole { Kind::Lines } else { Kind::Part },
                stderr: stream == Stream::Stderr,
                length: u32::try_from(payload).unwrap_or(0),
                lines: 1,
                time: i64::try_from(line.at.as_nanos()).unwrap_or(i64::MAX),
            };
            self.open = Some(Open { start: out.len(), stream, at: line.at, header });
            out.extend_from_slice(&header.encode());
        }
        out.extend_from_slice(line.text);
        if line.whole {
            out.push(b'\n');
        }
    }
}

/// The frame that tells the attributes of the records after it, for a batch whose end is at `position`; empty when
/// they are too many.
pub(super) fn head(position: u64, attrs: &str, now: Duration) -> Vec<u8> {
    if attrs.len() > BLOCK - HEADER {
        say!("the log's attributes are {} bytes long and are left out", attrs.len());
        return Vec::new();
    }
    let header = Header {
        kind: Kind::Attrs,
        stderr: false,
        length: u32::try_from(attrs.len()).unwrap_or(0),
        lines: 0,
        time: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
    };
    let mut head = vec![0; padding(position, HEADER + attrs.len())];
    head.extend_from_slice(&header.encode());
    head.extend_from_slice(attrs.as_bytes());
    head
}

/// Zeros needed before `length` bytes that must not cross the end of a block.
fn padding(position: u64, length: usize) -> usize {
    let within = usize::try_from(position % BLOCK as u64).unwrap_or(0);
    let left = BLOCK - within;
    // A whole block is left at its very beginning, where nothing needs to be filled up.
    if length > left { left } else { 0 }
}

/// Where the whole frames of a file end. What a power cut tore is behind it.
pub(super) fn sound_length(file: &File, length: u64) -> io::Result<u64> {
    let mut start = length - length % BLOCK as u64;
    let mut block = vec![0; usize::try_from(length - start).unwrap_or(0)];
    file.read_exact_at(&mut block, start)?;
    let mut frames = Frames::new(&block);
    while frames.next().is_some() {}
    let good = frames.offset();
    // Padding up to the next block, all zeros, is written together with what follows it, so that none is left at
    // the end of a sound file; a file that ends at a block's end is sound as it is.
    start += good as u64;
    Ok(start)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    /// Frames of a file, block by block.
    fn read(file: &[u8]) -> Vec<(bool, Kind, Vec<u8>, u32)> {
        let frames = file.chunks(BLOCK).flat_map(Frames::new);
        frames.map(|(header, payload)| (header.stderr, header.kind, payload.to_vec(), header.lines)).collect()
    }

    fn line(text: &[u8], whole: bool) -> Line<'_> {
        Line { text, whole, at: Duration::from_secs(1) }
    }

    fn push(encoder: &mut Encoder, out: &mut Vec<u8>, stream: Stream, line: &Line<'_>) {
        let position = out.len() as u64;
        assert!(out.len() + Encoder::cost(position, line) >= out.len());
        encoder.push(out, position, stream, line);
    }

    #[test]
    fn lines_of_one_read_share_a_frame() {
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        push(&mut encoder, &mut out, Stream::Stdout, &line(b"a", true));
        push(&mut encoder, &mut out, Stream::Stdout, &line(b"b", true));
        push(&mut encoder, &mut out, Stream::Stderr, &line(b"c", true));
        push(&mut encoder, &mut out, Stream::Stderr, &line(b"part", false));
        push(&mut encoder, &mut out, Stream::Stderr, &line(b"end", true));
        assert_eq!(
            read(&out),
            [
                (false, Kind::Lines, b"a\nb\n".to_vec(), 2),
                (true, Kind::Lines, b"c\n".to_vec(), 1),
                (true, Kind::Part, b"part".to_vec(), 1),
                (true, Kind::Lines, b"end\n".to_vec(), 1),
            ]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_frame_crosses_a_block(lengths in proptest::collection::vec(0usize..16_384, 1..120)) {
            let (mut encoder, mut out) = (Encoder::default(), Vec::new());
            let mut expected = Vec::new();
            for length in lengths {
                let text = vec![b'x'; length];
                push(&mut encoder, &mut out, Stream::Stdout, &line(&text, true));
                expected.extend_from_slice(&text);
                expected.push(b'\n');
            }
            let got: Vec<u8> = read(&out).into_iter().flat_map(|(_, _, payload, _)| payload).collect();
            prop_assert_eq!(got, expected);
            for torn in [out.len(), out.len() - 1, out.len() / 2] {
                let file = tempfile::tempfile().unwrap();
                file.write_all_at(&out[..torn], 0).unwrap();
                let good = sound_length(&file, torn as u64).unwrap();
                prop_assert!(good <= torn as u64);
                if torn == out.len() { prop_assert_eq!(good, torn as u64); }
            }
        }
    }
}
