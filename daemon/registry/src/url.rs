// SPDX-License-Identifier: Apache-2.0
//! The few URLs that a registry client meets: http(s), no user info, no fragment.

use std::fmt;
use std::net::IpAddr;

use crate::failure::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Https,
    Http,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

/// A host, and a port if one was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    /// Lower case; IPv6 without brackets.
    name: String,
    port: Option<u16>,
}

impl Host {
    /// From `host[:port]`.
    pub(crate) fn parse(s: &str) -> Option<Self> {
        if s.contains('@') {
            return None;
        }
        let authority: http::uri::Authority = s.parse().ok()?;
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // Names become directory names (certs.d) and log fields.
        let fine = !name.is_empty()
            && !name.starts_with('.')
            && !name.contains("..")
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b));
        let port = match authority.port() {
            Some(port) => Some(port.as_str().parse().ok()?),
            None if authority.as_str().ends_with(':') => return None,
            None => None,
        };
        fine.then_some(Self { name, port })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.name.parse().ok()
    }

    /// Literal loopback addresses and `localhost`. Other names that happen to resolve to loopback do
    /// not count: whoever answers the DNS query would decide about encryption.
    pub(crate) fn is_loopback(&self) -> bool {
        match self.ip() {
            Some(ip) => ip.to_canonical().is_loopback(),
            None => self.name == "localhost",
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]", self.name)?;
        } else {
            f.write_str(&self.name)?;
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// An absolute http or https URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: Scheme,
    pub(crate) host: Host,
    /// Path and query, beginning with a slash.
    path: String,
}

impl Url {
    pub(crate) fn new(scheme: Scheme, host: Host, path: String) -> Self {
        Self { scheme, host, path }
    }

    pub(crate) fn parse(s: &str) -> Option<Self> {
        let s = s.split('#').next()?;
        let uri: http::Uri = s.parse().ok()?;
        let scheme = match uri.scheme_str()? {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return None,
        };
        let host = Host::parse(uri.authority()?.as_str())?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(Self { scheme, host, path })
    }

    /// A `Location` or `Link` seen in the answer to this URL (RFC 3986, 5.2; dot segments are left alone).
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        let location = location.trim();
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.scheme.as_str()));
        }
        if location.starts_with('/') {
            return Self::parse(&format!("{}://{}{location}", self.scheme.as_str(), self.host));
        }
        let before_path = location.split(['/', '?', '#']).next().unwrap_or_default();
        if before_path.contains(':') {
            return Self::parse(location);
        }
        let path = self.path.split('?').next().unwrap_or_default();
        let directory = if location.starts_with('?') { path } else { &path[..=path.rfind('/').unwrap_or(0)] };
        Self::parse(&format!("{}://{}{directory}{location}", self.scheme.as_str(), self.host))
    }

    /// Whether both are the same server: what may be told to one may be told to the other.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        let port = |u: &Self| u.host.port.unwrap_or(u.scheme.default_port());
        self.scheme == other.scheme && self.host.name == other.host.name && port(self) == port(other)
    }

    /// With these added to its query.
    pub(crate) fn with_query(mut self, pairs: &[(&str, &str)]) -> Self {
        for (name, value) in pairs {
            self.path.push(if self.path.contains('?') { '&' } else { '?' });
            self.path.push_str(name);
            self.path.push('=');
            form_encode(value, &mut self.path);
        }
        self
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn to_uri(&self) -> Result<http::Uri, Failure> {
        self.to_string()
            .parse()
            .map_err(|_| Failure::broken(format!("{self} is not a URL that can be asked for")))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.host, self.path)
    }
}

/// Percent-encodes all but unreserved characters, and what scopes are made of (`:`, `/`, `,`), which
/// some token servers compare undecoded.
pub(crate) fn form_encode(value: &str, into: &mut String) {
    use fmt::Write as _;
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~:/,".contains(&b) {
            into.push(char::from(b));
        } else {
            // Writing to a String cannot fail.
            let _ok = write!(into, "%{b:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn locations_are_resolved() {
        let base = Url::parse("https://r.example:8443/v2/a/blobs/x?y=1").unwrap();
        for (location, expected) in [
            ("https://cdn.example/b?sig=1", Some("https://cdn.example/b?sig=1")),
            ("//cdn.example/b", Some("https://cdn.example/b")),
            ("/elsewhere", Some("https://r.example:8443/elsewhere")),
            ("z", Some("https://r.example:8443/v2/a/blobs/z")),
            ("?last=q", Some("https://r.example:8443/v2/a/blobs/x?last=q")),
            ("http://cdn.example/#frag", Some("http://cdn.example/")),
            ("https://user:pw@cdn.example/", None),
            ("file:///etc/passwd", None),
            ("ftp://x/y", None),
            ("javascript:x", None),
            ("https://../x", None),
        ] {
            assert_eq!(base.join(location).map(|u| u.to_string()).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn origins_compare_by_scheme_host_and_port() {
        let same = |a: &str, b: &str| Url::parse(a).unwrap().same_origin(&Url::parse(b).unwrap());
        assert!(same("https://A.example/x", "https://a.example:443/y"));
        assert!(!same("https://a.example/", "http://a.example/"));
        assert!(!same("https://a.example/", "https://a.example:444/"));
        assert!(!same("https://a.example/", "https://b.a.example/"));
    }

    #[test]
    fn loopback_is_literal() {
        for (host, expected) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("127.9.9.9:1", true),
            ("[::1]:5000", true),
            ("[::ffff:127.0.0.1]:5000", true),
            ("128.0.0.1", false),
            ("localhost.example", false),
            ("127.0.0.1.example", false),
        ] {
            assert_eq!(Host::parse(host).unwrap().is_loopback(), expected, "{host}");
        }
    }

    proptest! {
        #[test]
        fn no_location_breaks_the_parser(location in ".*") {
            let base = Url::parse("https://r.example/v2/").unwrap();
            if let Some(url) = base.join(&location) {
                prop_assert!(!url.host.name().contains('@'));
                prop_assert!(url.path().starts_with('/'));
            }
        }

        #[test]
        fn query_values_stay_values(value in ".*") {
            let url = Url::parse("https://r.example/t").unwrap().with_query(&[("scope", &value)]);
            prop_assert!(url.to_uri().is_ok());
            prop_assert_eq!(url.path().matches(['&', '#']).count(), 0);
        }
    }
}
