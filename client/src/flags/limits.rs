// SPDX-License-Identifier: Apache-2.0
//! `--cpus`, `--ulimit`, `--restart`, and per-device throttles.

use berth_api::types::container_create::{RestartPolicy, ThrottleDevice, Ulimit, WeightDevice};

use super::size;
use crate::fail::{Fail, Result};

/// CPUs in billionths.
pub(crate) fn cpus(text: &str) -> Result<i64> {
    let bad = || {
        Fail::new(format!(
            "invalid argument {text:?} for \"--cpus\" flag: failed to parse {text} as a rational number"
        ))
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(bad());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err(Fail::new(format!(
            "invalid argument {text:?} for \"--cpus\" flag: value is too precise"
        )));
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
    whole.checked_mul(1_000_000_000).and_then(|n| n.checked_add(nanos)).ok_or_else(bad)
}

const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `name=soft[:hard]`.
pub(crate) fn ulimit(flag: &str) -> Result<Ulimit> {
    let bad = || Fail::new(format!("invalid ulimit argument: {flag}"));
    let (name, values) = flag.split_once('=').ok_or_else(bad)?;
    if !ULIMITS.contains(&name) {
        return Err(Fail::new(format!("invalid ulimit type: {name}")));
    }
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard): (i64, i64) = (soft.parse().map_err(|_| bad())?, hard.parse().map_err(|_| bad())?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(Fail::new(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    Ok(Ulimit { name: name.to_owned(), hard, soft })
}

/// `no`, `always`, `unless-stopped`, `on-failure[:times]`.
pub(crate) fn restart(flag: &str) -> Result<RestartPolicy> {
    let (name, count) = match flag.split_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (flag, None),
    };
    if name.is_empty() && count.is_some() {
        return Err(Fail::new("invalid restart policy format: no policy provided before colon"));
    }
    let maximum_retry_count = match count {
        None => 0,
        Some(count) => count.parse().map_err(|_| {
            Fail::new("invalid restart policy format: maximum retry count must be an integer")
        })?,
    };
    Ok(RestartPolicy { name: name.to_owned(), maximum_retry_count })
}

fn device_value<'a>(flag: &'a str, what: &str) -> Result<(&'a str, &'a str)> {
    match flag.rsplit_once(':') {
        Some((path, value)) if path.starts_with("/dev/") => Ok((path, value)),
        _ => Err(Fail::new(format!("bad format for {what}: {flag} (/dev/<device>:<value> expected)"))),
    }
}

/// `--device-read-bps` and `--device-write-bps`.
pub(crate) fn throttle_bytes(flag: &str) -> Result<ThrottleDevice> {
    let (path, rate) = device_value(flag, "a device's rate")?;
    let rate = u64::try_from(size::bytes(rate, "device-*-bps")?).unwrap_or_default();
    Ok(ThrottleDevice { path: path.to_owned(), rate })
}

/// `--device-read-iops` and `--device-write-iops`.
pub(crate) fn throttle_operations(flag: &str) -> Result<ThrottleDevice> {
    let (path, rate) = device_value(flag, "a device's rate")?;
    let rate = rate.parse().map_err(|_| Fail::new(format!("invalid rate for device: {flag}")))?;
    Ok(ThrottleDevice { path: path.to_owned(), rate })
}

/// `--blkio-weight-device`.
pub(crate) fn weight(flag: &str) -> Result<WeightDevice> {
    let (path, weight) = device_value(flag, "a device's weight")?;
    match weight.parse() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => {
            Ok(WeightDevice { path: path.to_owned(), weight })
        }
        _ => Err(Fail::new(format!("invalid weight for device: {flag}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cpu_shares_are_exact() {
        for (text, expected) in [
            ("1", Some(1_000_000_000)),
            ("0.5", Some(500_000_000)),
            (".25", Some(250_000_000)),
            ("1.", Some(1_000_000_000)),
            ("0.100000000000", Some(100_000_000)),
            ("1.0000000001", None),
            ("-1", None),
            ("", None),
            (".", None),
            ("x", None),
            ("99999999999999", None),
        ] {
            assert_eq!(cpus(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn ulimits() {
        assert_eq!(ulimit("nofile=10:20").unwrap(), Ulimit { name: "nofile".into(), soft: 10, hard: 20 });
        assert_eq!(ulimit("core=-1").unwrap(), Ulimit { name: "core".into(), soft: -1, hard: -1 });
        for bad in ["nofile", "bogus=1", "nofile=2:1", "nofile=x", "nofile=-1:5"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn restart_policies() {
        let policy = restart("on-failure:3").unwrap();
        assert_eq!((policy.name.as_str(), policy.maximum_retry_count), ("on-failure", 3));
        assert!(restart("on-failure:x").is_err());
        assert!(restart(":3").is_err());
    }

    #[test]
    fn throttles() {
        assert_eq!(throttle_bytes("/dev/sda:1mb").unwrap().rate, 1 << 20);
        assert_eq!(throttle_operations("/dev/sda:7").unwrap().rate, 7);
        assert!(throttle_operations("sda:7").is_err());
        assert!(weight("/dev/sda:5").is_err());
    }
}
