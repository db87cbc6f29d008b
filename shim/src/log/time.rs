// SPDX-License-Identifier: Apache-2.0
//! Moments as log formats write them.

use std::time::Duration;

/// A moment taken apart, in UTC or east of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Civil {
    pub(super) year: u64,
    pub(super) month: u64,
    pub(super) day: u64,
    pub(super) hour: u64,
    pub(super) minute: u64,
    pub(super) second: u64,
    pub(super) nanos: u32,
}

impl Civil {
    pub(super) fn of(since_epoch: Duration) -> Self {
        let seconds = since_epoch.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let of_day = seconds % 86_400;
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        Self { year, month, day, hour, minute, second, nanos: since_epoch.subsec_nanos() }
    }

    /// `2026-11-20T08:36:07`
    pub(super) fn seconds(&self) -> String {
        let Self { year, month, day, hour, minute, second, .. } = self;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

/// RFC 3339 in UTC with the fraction's trailing zeros left out, as Go's `RFC3339Nano`.
pub(super) fn push(out: &mut Vec<u8>, since_epoch: Duration) {
    let moment = Civil::of(since_epoch);
    out.extend_from_slice(moment.seconds().as_bytes());
    if moment.nanos != 0 {
        let fraction = format!(".{:09}", moment.nanos);
        out.extend_from_slice(fraction.trim_end_matches('0').as_bytes());
    }
    out.push(b'Z');
}

/// Year, month and day of a count of days since 1970-01-01, by eras of 400 years that begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn check(seconds: u64, nanos: u32, expected: &str) {
        let mut out = Vec::new();
        push(&mut out, Duration::new(seconds, nanos));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn times() {
        check(0, 0, "1970-01-01T00:00:00Z");
        check(951_782_400, 100, "2000-02-29T00:00:00.0000001Z");
        check(4_107_542_399, 999_999_999, "2100-02-28T23:59:59.999999999Z");
        check(1_709_251_199, 500_000_000, "2024-02-29T23:59:59.5Z");
    }
}
