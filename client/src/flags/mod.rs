// SPDX-License-Identifier: Apache-2.0
//! The docker CLI's flags of `run` and `create`, and what they mean in the API's terms.

pub(crate) mod build;
pub(crate) mod container;
pub(crate) mod device;
pub(crate) mod duration;
pub(crate) mod env;
pub(crate) mod limits;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod ports;
pub(crate) mod security;
pub(crate) mod size;

use std::collections::BTreeMap;

use crate::fail::{Fail, Result};

/// `key=value` pairs as a map; a key alone has an empty value.
pub(crate) fn map(pairs: &[String]) -> Option<BTreeMap<String, String>> {
    (!pairs.is_empty()).then(|| {
        pairs
            .iter()
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (key.to_owned(), value.to_owned())
            })
            .collect()
    })
}

/// A boolean as Go's flags read it.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `None` instead of nothing in it, as the API has its lists.
pub(crate) fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// Splits one record of comma-separated values; quotes protect commas (RFC 4180).
pub(crate) fn csv(record: &str) -> Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let mut field = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut chars = quoted.char_indices().peekable();
            let after = loop {
                match chars.next() {
                    None => return Err(Fail::new(format!("{record:?} has a quote that does not close"))),
                    Some((_, '"')) if chars.peek().is_some_and(|(_, c)| *c == '"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some((i, '"')) => break &quoted[i + 1..],
                    Some((_, c)) => field.push(c),
                }
            };
            rest = after;
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(Fail::new(format!("{record:?} has text behind a closing quote")));
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err(Fail::new(format!("{record:?} has a bare quote")));
            }
            field.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records() {
        assert_eq!(csv("a,b=c,").unwrap(), ["a", "b=c", ""]);
        assert_eq!(csv("type=tmpfs,\"x=a,\"\"b\"").unwrap(), ["type=tmpfs", "x=a,\"b"]);
        assert_eq!(csv("").unwrap(), [""]);
        for bad in ["\"a", "a\"b", "\"a\"b"] {
            assert!(csv(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(fields in prop::collection::vec("[a-z,\" ]{0,8}", 1..5)) {
            let record: Vec<String> = fields.iter().map(|f| format!("\"{}\"", f.replace('"', "\"\""))).collect();
            prop_assert_eq!(csv(&record.join(",")).unwrap(), fields);
        }
    }
}
