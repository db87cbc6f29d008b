// SPDX-License-Identifier: Apache-2.0
//! Ports: `80`, `80/tcp`, `8000-8010/udp`, and what publishing them asks for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::Error;

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The word the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.to_ascii_lowercase().as_str() {
            "" | "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(Error::invalid(format!("invalid protocol: {text:?}"))),
        }
    }
}

/// One or several ports of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// The protocol.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port, the same for a single one.
    pub last: u16,
}

impl Ports {
    /// How many.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Each port.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

fn bad(text: &str) -> Error {
    Error::invalid(format!("invalid port specification: {text:?}"))
}

/// `80` or `80-90`.
///
/// # Errors
///
/// Neither, or the wrong way round.
pub fn parse_range(text: &str) -> Result<(u16, u16), Error> {
    let number = |s: &str| {
        if s.is_empty() || !s.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad(text));
        }
        s.parse::<u16>().map_err(|_| bad(text))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if last < first { Err(bad(text)) } else { Ok((first, last)) }
}

impl FromStr for Ports {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = parse_range(ports)?;
        if first == 0 {
            return Err(bad(text));
        }
        Ok(Self { protocol: protocol.parse()?, first, last })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}/{}", self.first, self.protocol)
        } else {
            write!(f, "{}-{}/{}", self.first, self.last, self.protocol)
        }
    }
}

/// One container port to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRequest {
    /// The protocol.
    pub protocol: Protocol,
    /// Port in the container.
    pub container_port: u16,
    /// Address on the host; `None` for all.
    pub host_ip: Option<IpAddr>,
    /// The first port on the host that will do; 0 for any.
    pub host_first: u16,
    /// The last that will do.
    pub host_last: u16,
}

impl PortRequest {
    /// From the API's binding of one container port. `Ports` of several container ports bind to a range of
    /// the same length, one to one.
    ///
    /// # Errors
    ///
    /// No address, no port, ranges of different lengths.
    pub fn parse(ports: Ports, host_ip: &str, host_port: &str) -> Result<Vec<Self>, Error> {
        let host_ip = match host_ip {
            "" => None,
            ip => {
                let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
                Some(
                    bare.parse::<IpAddr>()
                        .map_err(|_| Error::invalid(format!("invalid IP address: {ip}")))?,
                )
            }
        };
        // `8080/tcp` is accepted where a bare host port is meant.
        let bare = host_port.split_once('/').map_or(host_port, |(port, _)| port);
        let (first, last) = if bare.is_empty() { (0, 0) } else { parse_range(bare)? };
        let one = |container_port, host_first, host_last| Self {
            protocol: ports.protocol,
            container_port,
            host_ip,
            host_first,
            host_last,
        };
        if ports.count() == 1 {
            return Ok(vec![one(ports.first, first, last)]);
        }
        if (first, last) == (0, 0) {
            return Ok(ports.iter().map(|port| one(port, 0, 0)).collect());
        }
        if u32::from(last) - u32::from(first) + 1 != ports.count() {
            return Err(Error::invalid(format!(
                "invalid ranges specified for container and host Ports: {ports} and {host_port}"
            )));
        }
        Ok(ports.iter().zip(first..=last).map(|(port, host)| one(port, host, host)).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports_are_read() {
        assert_eq!("80".parse::<Ports>().unwrap().to_string(), "80/tcp");
        assert_eq!("53/UDP".parse::<Ports>().unwrap().to_string(), "53/udp");
        assert_eq!("8000-8010/tcp".parse::<Ports>().unwrap().count(), 11);
        for bad in ["", "/tcp", "0", "65536", "80-", "-80", "90-80", "+80", "80/xyz", "80/tcp/udp", " 80"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bindings_are_read() {
        let check = |ports: &str, ip: &str, host: &str| PortRequest::parse(ports.parse().unwrap(), ip, host);
        let one = check("80", "127.0.0.1", "8080").unwrap();
        assert_eq!((one.len(), one[0].host_first, one[0].host_last), (1, 8080, 8080));
        assert_eq!(one[0].host_ip, Some("127.0.0.1".parse().unwrap()));
        let any = check("80", "", "").unwrap();
        assert_eq!((any[0].host_ip, any[0].host_first), (None, 0));
        let choice = check("80", "", "8000-8010").unwrap();
        assert_eq!((choice.len(), choice[0].host_first, choice[0].host_last), (1, 8000, 8010));
        let pairs = check("80-82", "[::1]", "8080-8082").unwrap();
        assert_eq!(
            pairs.iter().map(|p| (p.container_port, p.host_first)).collect::<Vec<_>>(),
            [(80, 8080), (81, 8081), (82, 8082)]
        );
        check("80-82", "", "8080-8081").expect_err("ranges differ in length");
        check("80", "nowhere", "1").expect_err("no address");
        assert_eq!(
            check("80", "", "http").expect_err("no port").to_string(),
            "invalid port specification: \"http\""
        );
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_back(first in 1u16.., more in 0u16..100, udp: bool) {
            let ports = Ports {
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                first,
                last: first.saturating_add(more),
            };
            prop_assert_eq!(ports.to_string().parse::<Ports>().unwrap(), ports);
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,20}", host in "\\PC{0,20}") {
            if let Ok(ports) = text.parse::<Ports>() {
                let _either = PortRequest::parse(ports, "", &host);
            }
        }
    }
}
