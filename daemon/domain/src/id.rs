// SPDX-License-Identifier: Apache-2.0
//! Identifiers, validated on construction.

use std::fmt;
use std::str::FromStr;

use crate::Error;

fn is_hex64(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// From 32 random bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                use fmt::Write as _;
                let mut s = String::with_capacity(64);
                for b in bytes {
                    // Writing to a String cannot fail.
                    let _ok = write!(s, "{b:02x}");
                }
                Self(s)
            }

            /// All 64 digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits, as tables show it.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self, Error> {
                if is_hex64(s) {
                    Ok(Self(s.to_owned()))
                } else {
                    Err(Error::invalid(format!("{s:?} is not an id: 64 hexadecimal digits expected")))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.short())
            }
        }
    };
}

hex_id!(
    /// A container: 64 hexadecimal digits.
    ContainerId
);
hex_id!(
    /// A network: 64 hexadecimal digits.
    NetworkId
);
hex_id!(
    /// A container's place on a network: 64 hexadecimal digits.
    EndpointId
);
hex_id!(
    /// A process started by exec: 64 hexadecimal digits.
    ExecId
);

/// A content digest, `sha256:<64 hexadecimal digits>` (image spec, descriptor.md). Other algorithms are refused.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

/// An image is known by the digest of its config.
pub type ImageId = Digest;

impl Digest {
    /// From the 32 bytes of a SHA-256 sum.
    #[must_use]
    pub fn from_sha256(sum: [u8; 32]) -> Self {
        Self(format!("sha256:{}", ContainerId::from_bytes(sum).as_str()))
    }

    /// With the algorithm.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first 12 digits, as tables show it.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s.strip_prefix("sha256:") {
            Some(hex) if is_hex64(hex) => Ok(Self(s.to_owned())),
            _ => Err(Error::invalid(format!(
                "invalid digest {s:?}: \"sha256:\" and 64 lower-case hexadecimal digits expected"
            ))),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}
