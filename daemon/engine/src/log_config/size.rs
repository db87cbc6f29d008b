// SPDX-License-Identifier: Apache-2.0
//! Sizes in log options.

/// `10m`, `1.5g`, `500k`, `42`, with or without a trailing `b`; units are powers of 1024.
pub(super) fn parse(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, shift) = match bare.as_bytes().last()? {
        b'k' => (&bare[..bare.len() - 1], 10),
        b'm' => (&bare[..bare.len() - 1], 20),
        b'g' => (&bare[..bare.len() - 1], 30),
        b't' => (&bare[..bare.len() - 1], 40),
        _ => (bare, 0),
    };
    let number = number.trim();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let (whole, fraction) = number.split_once('.')?;
    let digits = u32::try_from(fraction.len()).ok().filter(|n| (1..=9).contains(n))?;
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = fraction.parse().ok()?;
    let part = fraction.checked_mul(1 << shift)? / 10u64.pow(digits);
    whole.checked_mul(1 << shift)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in
            [("42", 42), ("1k", 1024), ("10MB", 10 << 20), ("1.5g", 3 << 29), ("2KiB", 2048), ("0", 0)]
        {
            assert_eq!(parse(text), Some(size), "{text}");
        }
        for bad in ["", "k", "-1", "1x", "1.k", "99999999999t", "1.2.3k"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
