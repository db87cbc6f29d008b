// SPDX-License-Identifier: Apache-2.0
//! Sizes and ages in words.

use std::time::Duration;

pub(crate) use berth_api::text::{bytes_size, human_duration};

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];

/// Powers of a thousand with three significant digits: `4.26MB`, `117MB`, `0B`.
pub(crate) fn size(bytes: i64) -> String {
    #[allow(clippy::cast_precision_loss)] // Three digits are shown.
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < DECIMAL.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", three_digits(value), DECIMAL[unit])
}

/// As C's `%.3g`.
fn three_digits(value: f64) -> String {
    if value.abs() >= 999.5 {
        return "1e+03".to_owned();
    }
    let decimals = if value.abs() >= 99.95 {
        0
    } else if value.abs() >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// How long ago a unix time was: `2 hours ago`.
pub(crate) fn ago(then: i64, now: i64) -> String {
    let seconds = u64::try_from(now.saturating_sub(then)).unwrap_or(0);
    format!("{} ago", human_duration(Duration::from_secs(seconds)))
}

/// A unix time as tables have it: `2024-01-02 15:04:05 +0100 CET`.
pub(crate) fn local_time(unix: i64) -> String {
    match jiff::Timestamp::from_second(unix) {
        Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_984_512, "1.98MB"),
            (4_260_000, "4.26MB"),
            (12_340_000, "12.3MB"),
            (116_900_000, "117MB"),
            (999_600, "1e+03kB"),
            (1_230_000_000_000, "1.23TB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn ages() {
        assert_eq!(ago(100, 100), "Less than a second ago");
        assert_eq!(ago(100, 50), "Less than a second ago");
        assert_eq!(ago(0, 90), "About a minute ago");
        assert_eq!(ago(0, 3 * 86400), "3 days ago");
    }
}
