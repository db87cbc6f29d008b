// SPDX-License-Identifier: Apache-2.0
//! From the engine's words to the API's.

pub(crate) mod auth;
pub(crate) mod container;
pub(crate) mod image;
pub(crate) mod lines;
pub(crate) mod network;
pub(crate) mod volume;

use std::collections::BTreeMap;

use berth_api::Filters;
use berth_api::types::ZERO_TIME;
use berth_domain::{Error, Result};
use jiff::Timestamp;

/// A time on the wire; "never" is the year 1.
pub(crate) fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| ZERO_TIME.to_owned(), |t| t.to_string())
}

/// A moment as prune filters give it: unix time, RFC 3339, or how long ago (`24h`, `1h30m`).
pub(crate) fn moment(text: &str) -> Result<Timestamp> {
    let bad = || Error::invalid(format!("invalid filter 'until={text}': a time or a duration expected"));
    if let Some(nanos) = berth_api::query::parse_timestamp(text) {
        return Timestamp::from_nanosecond(nanos).map_err(|e| bad().because(e));
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let ago = go_duration(text).ok_or_else(bad)?;
    Timestamp::now().checked_sub(ago).map_err(|e| bad().because(e))
}

/// A duration in Go's words: `1h30m`, `1.5s`, `100ms`.
fn go_duration(text: &str) -> Option<std::time::Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    std::time::Duration::try_from_secs_f64(seconds).ok()
}

/// Whether labels pass: every `label` is there, no `label!` is.
pub(crate) fn labels_pass(filters: &Filters, labels: &BTreeMap<String, String>) -> bool {
    filters.labels("label", labels) && !filters.any_label("label!", labels)
}

/// A size for a signed field.
pub(crate) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn moments_come_in_three_shapes() {
        assert_eq!(moment("1.5").unwrap().as_nanosecond(), 1_500_000_000);
        assert_eq!(moment("1970-01-01T00:00:02Z").unwrap().as_second(), 2);
        let hour = Timestamp::now().as_second() - moment("1h").unwrap().as_second();
        assert!((3599..=3601).contains(&hour), "{hour}");
        for bad in ["", "x", "1x", "h"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(go_duration("1h30m"), Some(std::time::Duration::from_secs(5400)));
        assert_eq!(go_duration("1.5s"), Some(std::time::Duration::from_millis(1500)));
        assert_eq!(go_duration("24"), None);
    }
}
