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
    // Without a zone: the host's own time, as in Docker.
    if let Ok(at) = text.parse::<jiff::civil::DateTime>() {
        let at = at.to_zoned(jiff::tz::TimeZone::system()).map_err(|e| bad().because(e))?;
        return Ok(at.timestamp());
    }
    let ago = berth_domain::duration::parse(text).ok_or_else(bad)?;
    Timestamp::now().checked_sub(ago).map_err(|e| bad().because(e))
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
}
