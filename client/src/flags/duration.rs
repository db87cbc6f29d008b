// SPDX-License-Identifier: Apache-2.0
//! Durations and moments as Go's tools write them: `1h30m`, `250ms`; `2024-01-02T15:04:05`.

use crate::fail::{Fail, Result};

/// A duration in nanoseconds.
pub(crate) fn nanos(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        total += number * scale;
        rest = &rest[end..];
    }
    #[allow(clippy::cast_possible_truncation)] // Checked: below 2^63.
    (total < 9.2e18).then_some((sign * total) as i64)
}

/// `--health-interval` and its kin.
pub(crate) fn interval(text: Option<&str>, flag: &str) -> Result<i64> {
    let Some(text) = text else { return Ok(0) };
    let nanos = nanos(text).ok_or_else(|| {
        Fail::new(format!("invalid argument {text:?} for \"--{flag}\" flag: invalid duration"))
    })?;
    if nanos < 0 { Err(Fail::new(format!("--{flag} cannot be negative"))) } else { Ok(nanos) }
}

/// `--since` and `--until`: a duration back from now, a local or RFC 3339 time, or unix seconds, as unix
/// `seconds[.nanos]`.
pub(crate) fn moment(text: &str, now: jiff::Timestamp) -> Result<String> {
    use jiff::civil::{Date, DateTime};
    let write = |at: jiff::Timestamp| {
        let nanos = at.subsec_nanosecond();
        if nanos == 0 { at.as_second().to_string() } else { format!("{}.{nanos:09}", at.as_second()) }
    };
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Ok(text.to_owned());
    }
    let bad = || Fail::new(format!("invalid value for time: {text:?} is neither a duration nor a time"));
    if let Some(back) = nanos(text) {
        let at = now.checked_sub(jiff::SignedDuration::from_nanos(back)).map_err(|_| bad())?;
        return Ok(write(at));
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(write(at));
    }
    let local = match text.parse::<DateTime>() {
        Ok(local) => local,
        Err(_) => text.parse::<Date>().map_err(|_| bad())?.to_datetime(jiff::civil::Time::midnight()),
    };
    let zoned = local.to_zoned(jiff::tz::TimeZone::system()).map_err(|_| bad())?;
    Ok(write(zoned.timestamp()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1s", Some(1_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("250ms", Some(250_000_000)),
            ("3us", Some(3_000)),
            ("-2s", Some(-2_000_000_000)),
            ("", None),
            ("5", None),
            ("1d", None),
            ("s", None),
            ("1s2", None),
        ] {
            assert_eq!(nanos(text), expected, "{text:?}");
        }
        assert!(interval(Some("-1s"), "health-interval").is_err());
    }

    #[test]
    fn moments() {
        let now = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(moment("10m", now).unwrap(), "1699999400");
        assert_eq!(moment("1.5s", now).unwrap(), "1699999998.500000000");
        assert_eq!(moment("1690000000.123", now).unwrap(), "1690000000.123");
        assert_eq!(moment("2023-11-14T22:13:20Z", now).unwrap(), "1700000000");
        assert_eq!(moment("2023-11-14T23:13:20+01:00", now).unwrap(), "1700000000");
        assert!(moment("2023-11-14", now).is_ok());
        assert!(moment("2023-11-14T22:13:20", now).is_ok());
        assert!(moment("yesterday", now).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _seen = (nanos(&text), moment(&text, jiff::Timestamp::UNIX_EPOCH).is_ok());
        }
    }
}
