// SPDX-License-Identifier: Apache-2.0
//! What a reader hands over: chosen records, each with its prefix, framed if asked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use berth_api::stdcopy;
use jiff::Timestamp;

use super::LogOptions;

/// One record as it was found.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) stderr: bool,
    pub(super) time: Time<'a>,
    pub(super) text: Cow<'a, [u8]>,
    /// A JSON object of strings, or nothing.
    pub(super) attrs: &'a [u8],
}

/// When it was printed: as the file has it, so that nothing is converted that nobody asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Time<'a> {
    /// RFC 3339.
    Text(&'a [u8]),
    /// Unix nanoseconds.
    Nanos(i64),
}

impl Time<'_> {
    /// Unix nanoseconds; `None` for a text that is no time.
    pub(super) fn nanos(self) -> Option<i64> {
        match self {
            Self::Nanos(nanos) => Some(nanos),
            Self::Text(text) => {
                let time: Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
                Some(i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX))
            }
        }
    }
}

/// Collects the records that were asked for.
#[derive(Debug)]
pub(super) struct Output {
    options: LogOptions,
    bytes: Vec<u8>,
    /// `until` has passed: nothing will come any more.
    pub(super) over: bool,
    /// The last time's text and its form in the prefix: most times come many times.
    stamped: (Vec<u8>, i64, String),
    /// Likewise of attributes.
    detailed: (Vec<u8>, String),
}

impl Output {
    pub(super) fn new(options: LogOptions) -> Self {
        Self {
            options,
            bytes: Vec::new(),
            over: false,
            stamped: (Vec::new(), i64::MIN, String::new()),
            detailed: (Vec::new(), String::new()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Takes a record up, or passes it over. False once nothing further can be wanted.
    pub(super) fn push(&mut self, record: &Record<'_>) -> bool {
        if !self.is_timely(record.time) {
            return !self.over;
        }
        let chosen = if record.stderr { self.options.stderr } else { self.options.stdout };
        if !chosen {
            return true;
        }
        self.prepare_prefix(record);
        let stamp = if self.options.timestamps { self.stamped.2.len() } else { 0 };
        let details = if self.options.details { self.detailed.1.len() } else { 0 };
        let length = stamp + details + record.text.len();
        self.bytes.reserve(stdcopy::HEADER + length);
        if self.options.framed {
            let stream = if record.stderr { stdcopy::Stream::Stderr } else { stdcopy::Stream::Stdout };
            self.bytes.extend_from_slice(&stdcopy::header(stream, length));
        }
        if stamp > 0 {
            self.bytes.extend_from_slice(self.stamped.2.as_bytes());
        }
        if details > 0 {
            self.bytes.extend_from_slice(self.detailed.1.as_bytes());
        }
        self.bytes.extend_from_slice(&record.text);
        true
    }

    fn is_timely(&mut self, time: Time<'_>) -> bool {
        if self.options.since.is_none() && self.options.until.is_none() && !self.options.timestamps {
            return true;
        }
        let Some(nanos) = self.nanos(time) else { return false };
        if self.options.until.is_some_and(|until| nanos > until) {
            self.over = true;
            return false;
        }
        self.options.since.is_none_or(|since| nanos >= since)
    }

    fn nanos(&mut self, time: Time<'_>) -> Option<i64> {
        match time {
            Time::Text(text) if text == self.stamped.0 => Some(self.stamped.1),
            Time::Nanos(nanos) if nanos == self.stamped.1 => Some(nanos),
            _ => {
                let nanos = time.nanos()?;
                let text = if let Time::Text(text) = time { text.to_vec() } else { Vec::new() };
                let stamp = match Timestamp::from_nanosecond(nanos.into()) {
                    Ok(time) => format!("{time:.9} "),
                    Err(_) => String::new(),
                };
                self.stamped = (text, nanos, stamp);
                Some(nanos)
            }
        }
    }

    fn prepare_prefix(&mut self, record: &Record<'_>) {
        if self.options.details && (self.detailed.0 != record.attrs || self.detailed.1.is_empty()) {
            let attrs: BTreeMap<Cow<'_, str>, Cow<'_, str>> =
                serde_json::from_slice(record.attrs).unwrap_or_default();
            let mut text = String::new();
            for (n, (key, value)) in attrs.iter().enumerate() {
                let comma = if n == 0 { "" } else { "," };
                // Writing to a String cannot fail.
                let _ok = write!(text, "{comma}{}={}", escape(key), escape(value));
            }
            text.push(' ');
            self.detailed = (record.attrs.to_vec(), text);
        }
    }
}

/// As a query string has it: clients split at commas and equal signs.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            other => {
                let _ok = write!(escaped, "%{other:02X}");
            }
        }
    }
    escaped
}
