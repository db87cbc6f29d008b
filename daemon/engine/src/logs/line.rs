// SPDX-License-Identifier: Apache-2.0
//! One line of a json-file log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Deserialize;

/// One line of the file.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    pub(super) log: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) stream: Cow<'a, str>,
    pub(super) time: Timestamp,
    #[serde(default)]
    pub(super) attrs: BTreeMap<String, String>,
}

impl<'a> Line<'a> {
    /// `None` for what is no line of ours: a torn write, a stray edit.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn unix_nanoseconds(&self) -> i64 {
        i64::try_from(self.time.as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// What goes before the text.
    pub(super) fn prefix(&self, timestamps: bool, details: bool) -> String {
        let mut prefix = String::new();
        if timestamps {
            // Writing to a String cannot fail.
            let _ok = write!(prefix, "{:.9} ", self.time);
        }
        if details {
            for (n, (key, value)) in self.attrs.iter().enumerate() {
                let comma = if n == 0 { "" } else { "," };
                let _ok = write!(prefix, "{comma}{}={}", escape(key), escape(value));
            }
            prefix.push(' ');
        }
        prefix
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
