// SPDX-License-Identifier: Apache-2.0
//! Query strings with the reference's rules: Go's booleans, unix times with nanoseconds.

use std::fmt;

/// A query value that cannot be what its parameter is; the text is for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadQuery(pub String);

impl fmt::Display for BadQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadQuery {}

/// The decoded parameters of a request, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Takes a query string apart. Broken escapes stay as they are.
    #[must_use]
    pub fn parse(query: &str) -> Self {
        Self(
            query
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// The first value; `""` where there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.given(name).unwrap_or("")
    }

    /// The first value, if the parameter is there at all.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All values of a repeated parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A boolean, false where it is not given.
    #[must_use]
    pub fn bool(&self, name: &str) -> bool {
        is_true(self.get(name))
    }

    /// A boolean that is `default` where it is not given.
    #[must_use]
    pub fn bool_or(&self, name: &str, default: bool) -> bool {
        self.given(name).map_or(default, is_true)
    }

    /// An integer, if given and not empty.
    ///
    /// # Errors
    ///
    /// The value is no integer.
    pub fn int(&self, name: &str) -> Result<Option<i64>, BadQuery> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| BadQuery(format!("invalid value for {name:?}: {text:?} is no integer"))),
        }
    }

    /// A moment in unix nanoseconds, if given: `seconds[.fraction]`. `0` and the empty text are none.
    ///
    /// # Errors
    ///
    /// The value is no such time.
    pub fn timestamp(&self, name: &str) -> Result<Option<i128>, BadQuery> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        match parse_timestamp(text) {
            Some(0) => Ok(None),
            Some(nanos) => Ok(Some(nanos)),
            None => Err(BadQuery(format!("invalid value for {name:?}: {text:?} is no unix time"))),
        }
    }
}

/// Whether a query value means yes: everything but `""`, `0`, `no`, `false` and `none`, in any case.
#[must_use]
pub fn is_true(value: &str) -> bool {
    let value = value.trim();
    !(value.is_empty() || ["0", "no", "false", "none"].iter().any(|no| value.eq_ignore_ascii_case(no)))
}

/// `seconds[.fraction]` as unix nanoseconds; the fraction's digits past the ninth are cut.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<i128> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i128 = digits.parse().ok()?;
    let sign = if text.starts_with('-') { -1 } else { 1 };
    Some(i128::from(seconds) * 1_000_000_000 + sign * nanos)
}

/// Undoes percent-encoding; `plus` also turns `+` into a space, as in query strings. Broken escapes stay as
/// they are, bytes that are no UTF-8 become the replacement character.
#[must_use]
pub fn decode(text: &str, plus: bool) -> String {
    let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escape = match (bytes[i], bytes.get(i + 1), bytes.get(i + 2)) {
            (b'%', Some(a), Some(b)) => hex(*a).zip(hex(*b)).map(|(a, b)| a << 4 | b),
            _ => None,
        };
        match (escape, bytes[i]) {
            (Some(byte), _) => {
                out.push(byte);
                i += 2;
            }
            (None, b'+') if plus => out.push(b' '),
            (None, byte) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// Encodes a query value.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(b"0123456789ABCDEF"[usize::from(byte >> 4)]));
            out.push(char::from(b"0123456789ABCDEF"[usize::from(byte & 15)]));
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn booleans_are_gos() {
        for no in ["", "0", "no", "No", "false", "FALSE", "none", " "] {
            assert!(!is_true(no), "{no:?}");
        }
        for yes in ["1", "true", "yes", "anything", "2"] {
            assert!(is_true(yes), "{yes:?}");
        }
        let q = Query::parse("a=1&b=0&c");
        assert!(q.bool("a") && !q.bool("b") && !q.bool("c") && !q.bool("d"));
        assert!(q.bool_or("d", true) && !q.bool_or("b", true) && !q.bool_or("c", true));
    }

    #[test]
    fn values_are_decoded() {
        let q = Query::parse("filters=%7B%22a%22%3Atrue%7D&x=a+b%2Bc&names=1&names=2&bad=%zz%4");
        assert_eq!(q.get("filters"), "{\"a\":true}");
        assert_eq!(q.get("x"), "a b+c");
        assert_eq!(q.all("names").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(q.get("bad"), "%zz%4");
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        assert_eq!(parse_timestamp("1"), Some(1_000_000_000));
        assert_eq!(parse_timestamp("1.5"), Some(1_500_000_000));
        assert_eq!(parse_timestamp("1.000000001"), Some(1_000_000_001));
        assert_eq!(parse_timestamp("1.0000000019"), Some(1_000_000_001));
        assert_eq!(parse_timestamp("-1.5"), Some(-1_500_000_000));
        for bad in ["", "x", "1.x", "1.-5", "2020-01-01T00:00:00Z"] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
        assert_eq!(Query::parse("since=0").timestamp("since"), Ok(None));
        assert!(Query::parse("since=abc").timestamp("since").is_err());
    }

    proptest! {
        #[test]
        fn encoding_round_trips(text in "\\PC{0,40}") {
            prop_assert_eq!(decode(&encode(&text), true), text);
        }

        #[test]
        fn no_query_panics(text in "\\PC{0,60}") {
            let q = Query::parse(&text);
            let _seen = (q.bool("a"), q.int("a"), q.timestamp("a"));
        }
    }
}
