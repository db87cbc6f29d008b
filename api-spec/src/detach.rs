// SPDX-License-Identifier: Apache-2.0
//! The key sequence that ends an attachment: `ctrl-p,ctrl-q` in words, two bytes on the wire.

/// `ctrl-p,ctrl-q`.
pub const DEFAULT: [u8; 2] = [0x10, 0x11];

/// Most keys in a sequence: what a client has to hold back while it may still become one.
pub const MAX_KEYS: usize = 32;

/// The words are no key sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadKeys(String);

impl std::fmt::Display for BadKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invalid detach keys ({}) provided", self.0)
    }
}

impl std::error::Error for BadKeys {}

/// Reads a comma-separated sequence: one character each, or `ctrl-` and a letter or one of `@ [ \ ] ^ _`;
/// `DEL` is the delete key. The empty text is the default.
///
/// # Errors
///
/// A part is none of these, or there are more than [`MAX_KEYS`].
pub fn parse(keys: &str) -> Result<Vec<u8>, BadKeys> {
    if keys.is_empty() {
        return Ok(DEFAULT.to_vec());
    }
    let bad = || BadKeys(keys.to_owned());
    let parts: Vec<&str> = keys.split(',').collect();
    if parts.len() > MAX_KEYS {
        return Err(bad());
    }
    parts.into_iter().map(|part| key(part).ok_or_else(bad)).collect()
}

fn key(part: &str) -> Option<u8> {
    let lower = part.to_ascii_lowercase();
    if let Some(control) = lower.strip_prefix("ctrl-") {
        let [byte] = control.as_bytes() else { return None };
        return match byte {
            b'a'..=b'z' => Some(byte - b'a' + 1),
            b'@' => Some(0),
            b'[' => Some(27),
            b'\\' => Some(28),
            b']' => Some(29),
            b'^' => Some(30),
            b'_' => Some(31),
            _ => None,
        };
    }
    if lower == "del" {
        return Some(127);
    }
    match part.as_bytes() {
        [byte] if byte.is_ascii() => Some(*byte),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequences_are_read() {
        assert_eq!(parse("").unwrap(), DEFAULT);
        assert_eq!(parse("ctrl-p,ctrl-q").unwrap(), DEFAULT);
        assert_eq!(parse("a,ctrl-@,ctrl-\\,DEL").unwrap(), [b'a', 0, 28, 127]);
        assert_eq!(parse("CTRL-A").unwrap(), [1]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in ["ctrl-", "ctrl-1", "abc", "a,,b", "é", ","] {
            assert_eq!(parse(bad).unwrap_err().to_string(), format!("Invalid detach keys ({bad}) provided"));
        }
        assert!(parse(&vec!["a"; MAX_KEYS + 1].join(",")).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            if let Ok(keys) = parse(&text) {
                prop_assert!(!keys.is_empty() && keys.len() <= MAX_KEYS);
            }
        }
    }
}
