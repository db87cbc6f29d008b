// SPDX-License-Identifier: Apache-2.0
//! Texts that the engine makes for tables: how long ago, how it stands, how big.

use std::time::Duration;

/// A duration as tables show it: `Less than a second`, `2 minutes`, `About an hour`, `3 weeks`.
#[must_use]
pub fn human_duration(d: Duration) -> String {
    let seconds = d.as_secs();
    let minutes = seconds / 60;
    // Hours are rounded, everything else is cut.
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, _, _) => "Less than a second".to_owned(),
        (1, _, _) => "1 second".to_owned(),
        (2..60, _, _) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, 0..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Never started.
    Created,
    /// Runs since this long.
    Up {
        /// Since.
        since: Duration,
        /// Its processes are frozen.
        paused: bool,
        /// `starting`, `healthy`, `unhealthy`; empty without a health check.
        health: &'a str,
    },
    /// Waits to be started again.
    Restarting {
        /// The last exit code.
        code: i64,
        /// When it ended.
        ago: Duration,
    },
    /// Ended.
    Exited {
        /// Its exit code.
        code: i64,
        /// When it ended.
        ago: Duration,
    },
    /// Is being removed.
    Removing,
    /// Could not be removed.
    Dead,
}

/// The `Status` of a container list.
#[must_use]
pub fn status(standing: Standing<'_>) -> String {
    match standing {
        Standing::Created => "Created".to_owned(),
        Standing::Up { since, paused: true, .. } => format!("Up {} (Paused)", human_duration(since)),
        Standing::Up { since, health, .. } => match health {
            "" | "none" => format!("Up {}", human_duration(since)),
            "starting" => format!("Up {} (health: starting)", human_duration(since)),
            other => format!("Up {} ({other})", human_duration(since)),
        },
        Standing::Restarting { code, ago } => format!("Restarting ({code}) {} ago", human_duration(ago)),
        Standing::Exited { code, ago } => format!("Exited ({code}) {} ago", human_duration(ago)),
        Standing::Removing => "Removal In Progress".to_owned(),
        Standing::Dead => "Dead".to_owned(),
    }
}

/// A size in powers of ten with at most four digits: `1.234kB`, `64MB`, `0B`.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// A size in powers of two with at most four digits: `64MiB`.
#[must_use]
pub fn bytes_size(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn scaled(bytes: u64, base: f64, units: &[&str]) -> String {
    #[allow(clippy::cast_precision_loss)] // Four digits are shown.
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    // Four significant digits, without the zeros behind the point.
    let before_point = if value >= 1000.0 {
        4
    } else if value >= 100.0 {
        3
    } else if value >= 10.0 {
        2
    } else {
        1
    };
    let text = format!("{value:.*}", 4 - before_point);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_docker_writes_them() {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 3600;
        const DAY: u64 = 24 * HOUR;
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (3 * MINUTE + 59, "3 minutes"),
            (59 * MINUTE, "59 minutes"),
            (HOUR, "About an hour"),
            (HOUR + 45 * MINUTE, "2 hours"),
            (47 * HOUR, "47 hours"),
            (48 * HOUR, "2 days"),
            (13 * DAY, "13 days"),
            (15 * DAY, "2 weeks"),
            (59 * DAY, "8 weeks"),
            (70 * DAY, "2 months"),
            (2 * 365 * DAY, "2 years"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text, "{seconds} s");
        }
    }

    #[test]
    fn statuses_read_as_docker_writes_them() {
        let two = Duration::from_secs(2);
        for (standing, text) in [
            (Standing::Created, "Created"),
            (Standing::Up { since: two, paused: false, health: "" }, "Up 2 seconds"),
            (Standing::Up { since: two, paused: true, health: "healthy" }, "Up 2 seconds (Paused)"),
            (Standing::Up { since: two, paused: false, health: "healthy" }, "Up 2 seconds (healthy)"),
            (
                Standing::Up { since: two, paused: false, health: "starting" },
                "Up 2 seconds (health: starting)",
            ),
            (Standing::Exited { code: 137, ago: two }, "Exited (137) 2 seconds ago"),
            (Standing::Restarting { code: 1, ago: two }, "Restarting (1) 2 seconds ago"),
            (Standing::Removing, "Removal In Progress"),
            (Standing::Dead, "Dead"),
        ] {
            assert_eq!(status(standing), text);
        }
    }

    #[test]
    fn sizes_have_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.235MB"),
            (12_345_678, "12.35MB"),
            (2_000_000_000, "2GB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
        assert_eq!(bytes_size(64 << 20), "64MiB");
        assert_eq!(bytes_size(1536), "1.5KiB");
    }
}
