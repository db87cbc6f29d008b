// SPDX-License-Identifier: Apache-2.0
//! Sizes in bytes as users write them: `64m`, `1.5g`, `512KiB`. Units are powers of 1024.

use crate::fail::{Fail, Result};

/// A size; `what` names the flag in errors.
pub(crate) fn bytes(text: &str, what: &str) -> Result<i64> {
    parse(text).ok_or_else(|| {
        Fail::new(format!("invalid argument {text:?} for \"--{what}\" flag: invalid size: '{text}'"))
    })
}

/// As [`bytes`], where `-1` means without limit.
pub(crate) fn bytes_or_unlimited(text: &str, what: &str) -> Result<i64> {
    if text == "-1" { Ok(-1) } else { bytes(text, what) }
}

fn parse(text: &str) -> Option<i64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
    let (number, unit) = text.split_at(end);
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let (power, rest) = match unit.chars().next() {
        None => (0, ""),
        Some('b') => (0, if unit == "b" { "" } else { return None }),
        Some(letter) => ("kmgtpe".find(letter)? + 1, &unit[1..]),
    };
    if !matches!(rest, "" | "b" | "ib") {
        return None;
    }
    let value = number * 1024f64.powi(i32::try_from(power).ok()?);
    #[allow(clippy::cast_possible_truncation)] // Checked: below 2^63.
    (value < 9.2e18).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("6291456", Some(6_291_456)),
            ("32b", Some(32)),
            ("1k", Some(1024)),
            ("1KB", Some(1024)),
            ("1KiB", Some(1024)),
            ("64m", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("2 GB", Some(2 << 30)),
            ("1t", Some(1 << 40)),
            ("", None),
            ("-1", None),
            ("m", None),
            ("1x", None),
            ("1bb", None),
            ("1kk", None),
            ("1.2.3", None),
            ("9999999999g", None),
            ("1e3", Some(1000)),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
        assert_eq!(bytes_or_unlimited("-1", "memory-swap").unwrap(), -1);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            if let Some(size) = parse(&text) {
                prop_assert!(size >= 0);
            }
        }
    }
}
