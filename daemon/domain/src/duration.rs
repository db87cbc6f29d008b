// SPDX-License-Identifier: Apache-2.0
//! Durations in Go's words, as the API and Dockerfiles have them: `1h30m`, `1.5s`, `100ms`, `0`.

use std::time::Duration;

/// Longer ones are no duration that anybody means: a century.
const LONGEST: f64 = 3.2e9;

/// `None` for what is no duration, a negative one, or one of more than a century.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    match rest {
        "" => return None,
        "0" => return Some(Duration::ZERO),
        _ => {}
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|n| *n > 0)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    if seconds > LONGEST { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in
            [("0", 0), ("0s", 0), ("1h30m", 5_400_000), ("1.5s", 1500), ("100ms", 100), (".5s", 500)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "24", "h", "1x", "-1s", "1h2", "1..s", "999999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
