// SPDX-License-Identifier: Apache-2.0
//! One record of Docker's json-file format.
//!
//! Readers of these files (log shippers, the engine's `logs`) were written against what Go's encoder
//! gives, so the escapes are Go's: `<`, `>`, `&`, U+2028 and U+2029 as `\u....`, control characters but
//! `\n` and `\r` likewise, and one U+FFFD for every byte that is not part of valid UTF-8.

use std::time::Duration;

use super::time;
use crate::stdcopy::Stream;

/// What of a byte needs care inside a JSON string: 0 nothing, 1 an escape, 2 perhaps the start of U+2028/9.
const CARE: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut i = 0;
    while i < 0x20 {
        table[i] = 1;
        i += 1;
    }
    table[b'"' as usize] = 1;
    table[b'\\' as usize] = 1;
    table[b'<' as usize] = 1;
    table[b'>' as usize] = 1;
    table[b'&' as usize] = 1;
    table[0xe2] = 2;
    table
};

const HEX: [u8; 16] = *b"0123456789abcdef";

/// The part of a record after its text; the same for all lines of one stream in one burst.
#[derive(Debug, Default, Clone)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    /// `since_epoch` is when the line was read; `attrs` a JSON object.
    pub(super) fn new(stream: Stream, attrs: Option<&str>, since_epoch: Duration) -> Self {
        let mut tail = Vec::with_capacity(96 + attrs.map_or(0, str::len));
        tail.extend_from_slice(b"\",\"stream\":\"");
        tail.extend_from_slice(stream.name().as_bytes());
        tail.push(b'"');
        if let Some(attrs) = attrs {
            tail.extend_from_slice(b",\"attrs\":");
            tail.extend_from_slice(attrs.as_bytes());
        }
        tail.extend_from_slice(b",\"time\":\"");
        time::push(&mut tail, since_epoch);
        tail.extend_from_slice(b"\"}\n");
        Self(tail)
    }
}

/// Appends one record; `whole` is false for the parts of a line that goes on.
pub(super) fn push_record(out: &mut Vec<u8>, line: &[u8], whole: bool, tail: &Tail) {
    out.reserve(line.len() + tail.0.len() + 16);
    out.extend_from_slice(b"{\"log\":\"");
    match std::str::from_utf8(line) {
        Ok(text) => push_escaped(out, text),
        Err(_) => {
            for chunk in line.utf8_chunks() {
                push_escaped(out, chunk.valid());
                for _ in chunk.invalid() {
                    out.extend_from_slice(b"\\ufffd");
                }
            }
        }
    }
    if whole {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(&tail.0);
}

/// How many bytes at the front need no care; at least one, the first.
fn plain(bytes: &[u8]) -> usize {
    /// As many as a vector register holds, or two: the compiler makes one comparison of it.
    const STRIDE: usize = 32;
    let clean = |chunk: &&[u8]| {
        let mut care = false;
        for &byte in *chunk {
            care |= (byte < 0x20)
                | (byte == b'"')
                | (byte == b'\\')
                | (byte == b'<')
                | (byte == b'>')
                | (byte == b'&')
                | (byte == 0xe2);
        }
        !care
    };
    let skipped = bytes.chunks_exact(STRIDE).take_while(clean).count() * STRIDE;
    let rest = bytes[skipped..].iter().take_while(|byte| CARE[usize::from(**byte)] == 0).count();
    skipped + rest
}

fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut clean = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if CARE[usize::from(byte)] == 0 {
            at += plain(&bytes[at..]);
            continue;
        }
        let width = match CARE[usize::from(byte)] {
            1 => 1,
            _ => match bytes.get(at + 1..at + 3) {
                Some([0x80, 0xa8 | 0xa9]) => 3,
                _ => {
                    at += 1;
                    continue;
                }
            },
        };
        out.extend_from_slice(&bytes[clean..at]);
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0xe2 => {
                out.extend_from_slice(b"\\u202");
                out.push(HEX[usize::from(bytes[at + 2] & 0xf)]);
            }
            other => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(other >> 4)]);
                out.push(HEX[usize::from(other & 0xf)]);
            }
        }
        at += width;
        clean = at;
    }
    out.extend_from_slice(&bytes[clean..]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    fn encode(line: &[u8], whole: bool) -> String {
        let tail = Tail::new(Stream::Stdout, None, Duration::new(1_795_163_767, 851_767_496));
        let mut out = Vec::new();
        push_record(&mut out, line, whole, &tail);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_record_is_laid_out_as_docker_does() {
        assert_eq!(
            encode(b"hi", true),
            "{\"log\":\"hi\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-20T08:36:07.851767496Z\"}\n"
        );
    }

    #[test]
    fn attrs_come_between_stream_and_time() {
        let tail = Tail::new(Stream::Stderr, Some(r#"{"a":"b"}"#), Duration::ZERO);
        let mut out = Vec::new();
        push_record(&mut out, b"", false, &tail);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"b\"},\"time\":\"1970-01-01T00:00:00Z\"}\n"
        );
    }

    #[test]
    fn escapes_are_gos() {
        let record = encode("<a href=\"x\">&\\\t\r\x01\x7fé\u{2028}\u{2029}\u{2030}".as_bytes(), false);
        let expected = concat!(
            r#"{"log":"\u003ca href=\"x\"\u003e\u0026\\\u0009\r\u0001"#,
            "\x7fé",
            r#"\u2028\u2029"#,
            "\u{2030}\","
        );
        assert!(record.starts_with(expected), "{record}");
    }

    #[test]
    fn each_bad_byte_is_one_replacement_character() {
        let record = encode(b"a\xff\xe2\x82b\xed\xa0\x80", false);
        assert!(record.starts_with(r#"{"log":"a\ufffd\ufffd\ufffdb\ufffd\ufffd\ufffd""#), "{record}");
    }

    /// What Go's decoder-of-runes loop makes of bytes: one U+FFFD per byte outside valid UTF-8.
    fn lossy(bytes: &[u8]) -> String {
        let mut text = String::new();
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| '\u{fffd}'));
        }
        text
    }

    proptest! {
        #[test]
        fn decodes_back(line in proptest::collection::vec(any::<u8>(), 0..300), whole: bool) {
            let record = encode(&line, whole);
            prop_assert_eq!(record.bytes().filter(|b| *b == b'\n').count(), 1);
            let value: serde_json::Value = serde_json::from_str(&record).unwrap();
            let mut expected = lossy(&line);
            if whole { expected.push('\n'); }
            prop_assert_eq!(value["log"].as_str().unwrap(), expected);
        }

        #[test]
        fn decodes_back_text(line in "\\PC{0,200}", whole: bool) {
            let record = encode(line.as_bytes(), whole);
            let value: serde_json::Value = serde_json::from_str(&record).unwrap();
            prop_assert_eq!(value["log"].as_str().unwrap().strip_suffix('\n').unwrap_or(&line), line.as_str());
        }
    }
}
