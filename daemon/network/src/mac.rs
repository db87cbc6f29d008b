// SPDX-License-Identifier: Apache-2.0
//! Ethernet addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use berth_domain::Error;
use serde::{Deserialize, Serialize};

/// An Ethernet address. Read and written as six hexadecimal pairs (`be:42:ac:11:00:02`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address for the interface that has `ip`: locally administered, and the same whenever that IP address
    /// is given out again, so that neighbours' ARP caches are never wrong about it.
    #[must_use]
    pub fn of_ip(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0xbe, 0x42, a, b, c, d])
    }

    /// Locally administered, unicast, the rest by chance.
    pub(crate) fn random() -> Result<Self, Error> {
        let mut bytes = [0; 6];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::internal("reading random bytes").because(e.to_string()))?;
        bytes[0] = bytes[0] & 0xfe | 0x02;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = Error;

    /// Six pairs joined by `:` or `-`; multicast addresses are refused, as an interface cannot have one.
    fn from_str(s: &str) -> Result<Self, Error> {
        let bad = || Error::invalid(format!("invalid MAC address: {s}"));
        let mut bytes = [0; 6];
        let mut parts = s.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(bad());
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn reads_and_writes() {
        let mac: Mac = "BE-42-ac-11-00-02".parse().unwrap();
        assert_eq!(mac.to_string(), "be:42:ac:11:00:02");
        assert_eq!(mac, Mac::of_ip(Ipv4Addr::new(172, 17, 0, 2)));
        for bad in [
            "",
            "be:42",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "be:42:ac:11:00:02:03",
            "be:42:ac:11:0:2",
            "be:42:ac:11:00:+2",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?} was accepted");
        }
    }
}
