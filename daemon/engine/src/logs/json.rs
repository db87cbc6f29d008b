// SPDX-License-Identifier: Apache-2.0
//! json-file logs: one JSON object a line.
//!
//! Lines as shims (and the reference) write them are taken apart by their fixed layout; anything else that is JSON
//! goes through serde. Times are found by halving: lines are in the order of their times, but for the parts of
//! long lines, which bear the time of the first part.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::output::{Output, Record, Time};

/// Below this, times are not looked for by halving: reading on is as fast.
const NEAR: u64 = 512 << 10;
/// How much is read to find out the time of a place.
const PROBE: usize = 128 << 10;
/// How much is read at a time when looking for the last lines.
const BACKWARDS: usize = 256 << 10;

/// Hands over the whole lines of `chunk`; returns how many bytes they are, or all that were looked at once
/// nothing further is wanted.
pub(super) fn read(chunk: &[u8], limit: usize, out: &mut Output) -> usize {
    let mut at = 0;
    for end in memchr::memchr_iter(b'\n', chunk) {
        let line = &chunk[at..end];
        at = end + 1;
        // What is no line of ours (a torn write, a stray edit) is passed over.
        if let Some(record) = layout(line) {
            if !out.push(&record) {
                return at;
            }
        } else if let Some(record) = loose(line) {
            if !out.push(&record.borrow()) {
                return at;
            }
        }
        if out.len() >= limit {
            return at;
        }
    }
    at
}

/// The fixed layout: `{"log":"...","stream":"std...",["attrs":{...},]"time":"..."}`.
fn layout(line: &[u8]) -> Option<Record<'_>> {
    let rest = line.strip_prefix(b"{\"log\":\"")?;
    let (text, rest) = string(rest)?;
    let rest = rest.strip_prefix(b",\"stream\":\"std")?;
    let (stderr, rest) = match rest.strip_prefix(b"out\"") {
        Some(rest) => (false, rest),
        None => (true, rest.strip_prefix(b"err\"")?),
    };
    let (attrs, rest) = match rest.strip_prefix(b",\"attrs\":") {
        // The time that follows has no brace in it.
        Some(rest) => rest.split_at(memchr::memrchr(b'}', rest.strip_suffix(b"}")?)? + 1),
        None => (&[][..], rest),
    };
    let time = rest.strip_prefix(b",\"time\":\"")?.strip_suffix(b"\"}")?;
    (!time.contains(&b'"')).then_some(Record { stderr, time: Time::Text(time), text, attrs })
}

/// A string's content, of which the opening quote is gone, and what is behind it.
fn string(bytes: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let first = memchr::memchr2(b'"', b'\\', bytes)?;
    if bytes[first] == b'"' {
        return Some((Cow::Borrowed(&bytes[..first]), &bytes[first + 1..]));
    }
    let mut text = Vec::with_capacity(bytes.len());
    let (mut clean, mut at) = (0, first);
    loop {
        text.extend_from_slice(&bytes[clean..at]);
        if bytes[at] == b'"' {
            return Some((Cow::Owned(text), &bytes[at + 1..]));
        }
        at += 2;
        match *bytes.get(at - 1)? {
            b'n' => text.push(b'\n'),
            b't' => text.push(b'\t'),
            b'r' => text.push(b'\r'),
            b'b' => text.push(8),
            b'f' => text.push(12),
            plain @ (b'"' | b'\\' | b'/') => text.push(plain),
            b'u' => {
                let unit = hex(bytes.get(at..at + 4)?)?;
                at += 4;
                let scalar = match unit {
                    0xd800..=0xdbff => {
                        let low = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
                        let low = hex(low).filter(|low| (0xdc00..=0xdfff).contains(low))?;
                        at += 6;
                        0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                    }
                    unit => unit,
                };
                let mut buffer = [0; 4];
                text.extend_from_slice(char::from_u32(scalar)?.encode_utf8(&mut buffer).as_bytes());
            }
            _ => return None,
        }
        clean = at;
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

/// Any other JSON object with a text and a time.
#[derive(Debug, Deserialize)]
struct Any<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow, default)]
    attrs: Option<&'a RawValue>,
}

fn loose(line: &[u8]) -> Option<Any<'_>> {
    let line: Any<'_> = serde_json::from_slice(line).ok()?;
    line.time.parse::<jiff::Timestamp>().ok()?;
    Some(line)
}

impl Any<'_> {
    fn borrow(&self) -> Record<'_> {
        Record {
            stderr: self.stream == "stderr",
            time: Time::Text(self.time.as_bytes()),
            text: Cow::Borrowed(self.log.as_bytes()),
            attrs: self.attrs.map_or(&[], |attrs| attrs.get().as_bytes()),
        }
    }
}

/// A place at or before the first line that is not older than `since`.
pub(super) fn seek(file: &File, length: u64, since: i64) -> io::Result<u64> {
    let (mut low, mut high) = (0, length);
    let mut buffer = vec![0; PROBE];
    while high - low > NEAR {
        let middle = low + (high - low) / 2;
        let n = file.read_at(&mut buffer, middle)?;
        let probe = &buffer[..n];
        // The part of a line in front tells nothing; neither does a line without end.
        let first = memchr::memchr(b'\n', probe).map(|newline| newline + 1);
        let newest = first.and_then(|first| newest(&probe[first..]));
        match (first, newest) {
            (Some(first), Some(time)) if time < since => low = middle + first as u64,
            (_, Some(_)) => high = middle,
            // Nothing of ours here: what is wanted may be on either side.
            (_, None) => return Ok(low),
        }
    }
    Ok(low)
}

/// The greatest time among the first lines.
fn newest(chunk: &[u8]) -> Option<i64> {
    /// A few lines are enough to have a look past a late part of a long line.
    const LINES: usize = 16;
    let ends = memchr::memchr_iter(b'\n', chunk);
    let mut start = 0;
    let mut newest = None;
    for end in ends.take(LINES) {
        let line = &chunk[start..end];
        start = end + 1;
        let time = match layout(line) {
            Some(record) => record.time.nanos(),
            None => loose(line).and_then(|line| line.borrow().time.nanos()),
        };
        newest = newest.max(time);
    }
    newest
}

/// Where the last `wanted` lines begin, and how many there are.
pub(super) fn tail(file: &File, length: u64, wanted: u64) -> io::Result<(u64, u64)> {
    let mut end = length;
    let mut lines = 0;
    let mut buffer = vec![0; BACKWARDS];
    // The newline at the very end closes the last line and begins none.
    let mut last = true;
    while end > 0 {
        let step = usize::try_from(end).unwrap_or(BACKWARDS).min(BACKWARDS);
        let start = end - step as u64;
        let chunk = &mut buffer[..step];
        file.read_exact_at(chunk, start)?;
        let mut newlines = memchr::memrchr_iter(b'\n', chunk).peekable();
        if std::mem::take(&mut last) {
            newlines.next_if_eq(&(step - 1));
        }
        for newline in newlines {
            lines += 1;
            if lines == wanted {
                return Ok((start + newline as u64 + 1, wanted));
            }
        }
        end = start;
    }
    Ok((0, lines + u64::from(length > 0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn check(line: &str) {
        let (fast, slow) = (layout(line.as_bytes()), loose(line.as_bytes()));
        let (fast, slow) = (fast.unwrap(), slow.unwrap());
        let slow = slow.borrow();
        assert_eq!(
            (fast.stderr, fast.time.nanos(), &fast.text, fast.attrs),
            (slow.stderr, slow.time.nanos(), &slow.text, slow.attrs)
        );
    }

    #[test]
    fn both_ways_read_the_same() {
        for line in [
            r#"{"log":"x\n","stream":"stdout","time":"2026-01-01T00:00:00.5Z"}"#,
            r#"{"log":"","stream":"stderr","time":"2026-01-01T00:00:00Z"}"#,
            r#"{"log":"\"\\\/\b\f\t\r\u003c\ud83d\ude00\ufffd\u2028","stream":"stderr","time":"2026-01-01T00:00:00Z"}"#,
            r#"{"log":"x","stream":"stdout","attrs":{"a":"}","b":"\"}"},"time":"2026-01-01T00:00:00Z"}"#,
        ] {
            check(line);
        }
        for bad in [
            "",
            "{",
            r#"{"log":"x"#,
            r#"{"log":"\ud800","stream":"stdout","time":"2026-01-01T00:00:00Z"}"#,
            r#"{"log":"x","stream":"stdout"}"#,
        ] {
            assert!(layout(bad.as_bytes()).is_none() && loose(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text: String) {
            let text = serde_json::to_string(&text).unwrap();
            check(&format!("{{\"log\":{text},\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}}"));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let line = [b"{\"log\":\"".as_slice(), &bytes].concat();
            let _whatever = (layout(&line), loose(&line));
        }
    }
}
