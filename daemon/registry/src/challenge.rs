// SPDX-License-Identifier: Apache-2.0
//! `WWW-Authenticate` (RFC 9110, 11.6.1): several challenges, in one header or many, with parameters
//! whose quoted values hold commas.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// Headers longer than this are not looked at.
const MAX_BYTES: usize = 16 * 1024;

/// One way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
        /// Why a token that was sent would not do (`insufficient_scope`).
        error: Option<String>,
    },
}

/// The challenges that are understood, in the server's order.
pub(crate) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .filter(|v| v.len() <= MAX_BYTES)
        .flat_map(parse)
        .filter_map(|raw| raw.understood())
        .collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Raw {
    scheme: String,
    params: Vec<(String, String)>,
}

impl Raw {
    fn param(&self, name: &str) -> Option<String> {
        self.params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone())
    }

    fn understood(&self) -> Option<Challenge> {
        if self.scheme.eq_ignore_ascii_case("basic") {
            Some(Challenge::Basic)
        } else if self.scheme.eq_ignore_ascii_case("bearer") {
            Some(Challenge::Bearer {
                realm: self.param("realm")?,
                service: self.param("service"),
                scope: self.param("scope").filter(|s| !s.is_empty()),
                error: self.param("error"),
            })
        } else {
            None
        }
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn blanks(&mut self) {
        self.take_while(|c| c == ' ' || c == '\t');
    }

    fn token(&mut self) -> &'a str {
        self.take_while(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
    }

    fn eat(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// After the opening quote; a missing closing quote ends at the end.
    fn quoted(&mut self) -> String {
        let mut value = String::new();
        let mut chars = self.rest.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => value.extend(chars.next()),
                c => value.push(c),
            }
        }
        self.rest = chars.as_str();
        value
    }

    /// Credentials-like data after a scheme (`Negotiate YII=`) instead of parameters.
    fn token68(&mut self) {
        let before = self.rest;
        let data = self.take_while(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        self.take_while(|c| c == '=');
        self.blanks();
        if data.is_empty() || !(self.rest.is_empty() || self.rest.starts_with(',')) {
            self.rest = before;
        }
    }
}

fn parse(header: &str) -> Vec<Raw> {
    let mut all: Vec<Raw> = Vec::new();
    let mut scanner = Scanner { rest: header };
    loop {
        scanner.take_while(|c| c == ' ' || c == '\t' || c == ',');
        if scanner.rest.is_empty() {
            return all;
        }
        let word = scanner.token();
        if word.is_empty() {
            // Not a token: step over it rather than give up on the challenges behind it.
            let mut chars = scanner.rest.chars();
            chars.next();
            scanner.rest = chars.as_str();
            continue;
        }
        scanner.blanks();
        match all.last_mut() {
            Some(challenge) if scanner.eat('=') => {
                scanner.blanks();
                let value = if scanner.eat('"') {
                    scanner.quoted()
                } else {
                    scanner.take_while(|c| !matches!(c, ' ' | '\t' | ',' | '"')).to_owned()
                };
                challenge.params.push((word.to_owned(), value));
            }
            _ => {
                all.push(Raw { scheme: word.to_owned(), params: Vec::new() });
                scanner.token68();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn check(headers: &[&str], expected: &[Challenge]) {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, header.parse().expect("a header value"));
        }
        assert_eq!(challenges(&map), expected, "{headers:?}");
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
            error: None,
        }
    }

    #[test]
    fn what_registries_send() {
        let hub = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:a/b:pull,push"),
        );
        check(
            &[
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            ],
            std::slice::from_ref(&hub),
        );
        check(&[r#"Basic realm="Registry Realm""#], &[Challenge::Basic]);
        check(&["Basic"], &[Challenge::Basic]);
        check(&[r#"bearer Realm = https://x/t , service = s"#], &[bearer("https://x/t", Some("s"), None)]);
        check(
            &[r#"Negotiate YII==, Bearer realm="https://x/t", Basic realm="a, Bearer realm=b""#],
            &[bearer("https://x/t", None, None), Challenge::Basic],
        );
        check(
            &["Basic", r#"Bearer realm="https://x/t""#],
            &[Challenge::Basic, bearer("https://x/t", None, None)],
        );
        check(&[r#"Bearer realm="a\"b\\c""#], &[bearer("a\"b\\c", None, None)]);
        check(&[r#"Bearer realm="never closed"#], &[bearer("never closed", None, None)]);
        check(&["Bearer service=x", "Digest realm=x", "", "=,=,\"", "@"], &[]);
    }

    proptest! {
        #[test]
        fn nothing_breaks_the_parser(header in "[ -~]{0,200}") {
            let total: usize = parse(&header).iter().map(|r| r.scheme.len() + r.params.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()).sum();
            prop_assert!(total <= header.len());
        }

        #[test]
        fn quoted_values_come_back(realm in "[ -~]{0,60}", scope in "[!-~]{1,60}") {
            let quote = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{}\",scope=\"{}\"", quote(&realm), quote(&scope));
            let mut map = HeaderMap::new();
            map.append(WWW_AUTHENTICATE, header.parse().unwrap());
            prop_assert_eq!(challenges(&map), vec![bearer(&realm, None, Some(&scope))]);
        }
    }
}
