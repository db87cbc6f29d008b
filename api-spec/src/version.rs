// SPDX-License-Identifier: Apache-2.0
//! API versions, `major.minor`.

use std::fmt;
use std::str::FromStr;

/// A version of the Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Always 1 so far.
    pub major: u16,
    /// Compared as a number: 1.9 is older than 1.24.
    pub minor: u16,
}

impl ApiVersion {
    /// The newest version spoken, and what an unversioned path means. Clients that do not negotiate
    /// (bollard sends 1.53) must find their version here.
    pub const NEWEST: Self = Self::v1(55);
    /// The oldest version accepted.
    pub const OLDEST: Self = Self::v1(24);

    /// `1.minor`.
    #[must_use]
    pub const fn v1(minor: u16) -> Self {
        Self { major: 1, minor }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The text is not `major.minor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAVersion;

impl fmt::Display for NotAVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an API version: major.minor expected")
    }
}

impl std::error::Error for NotAVersion {}

impl FromStr for ApiVersion {
    type Err = NotAVersion;
    fn from_str(s: &str) -> Result<Self, NotAVersion> {
        let number = |part: &str| {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(NotAVersion);
            }
            part.parse::<u16>().map_err(|_| NotAVersion)
        };
        let (major, minor) = s.split_once('.').ok_or(NotAVersion)?;
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(ApiVersion::v1(9) < ApiVersion::OLDEST);
        assert!("1.100".parse::<ApiVersion>().is_ok_and(|v| v > ApiVersion::NEWEST));
        assert_eq!("1.41".parse(), Ok(ApiVersion::v1(41)));
        assert_eq!(ApiVersion::v1(41).to_string(), "1.41");
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for bad in ["", "1", "1.", ".1", "1.2.3", "v1.2", "1.99999", "1.+2", "1.-2"] {
            assert_eq!(bad.parse::<ApiVersion>(), Err(NotAVersion), "{bad:?}");
        }
    }
}
