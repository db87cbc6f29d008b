// SPDX-License-Identifier: Apache-2.0
//! Options of the syslog driver.

use std::collections::BTreeMap;
use std::path::Path;

use berth_domain::{Error, Result};
use berth_shim_proto::{SinkAddress, SyslogFormat};

/// Where syslog listens when a port is not given.
const PORT: &str = "514";
/// Where a host's own syslog may listen.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// The driver's options, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Syslog {
    pub(crate) address: Address,
    pub(crate) facility: u8,
    pub(crate) format: SyslogFormat,
}

/// A server as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// The host's own.
    Local,
    Unix(String),
    UnixDatagram(String),
    /// Host and port.
    Tcp(String),
    Udp(String),
}

impl Syslog {
    pub(crate) fn derive(options: &BTreeMap<String, String>) -> Result<Self> {
        let option = |name: &str| options.get(name).map_or("", String::as_str);
        if let Some(tls) = options.keys().find(|name| name.starts_with("syslog-tls-")) {
            return Err(no_tls(tls));
        }
        Ok(Self {
            address: address(option("syslog-address"))?,
            facility: facility(option("syslog-facility"))?,
            format: match option("syslog-format") {
                "" => SyslogFormat::Unix,
                "rfc3164" => SyslogFormat::Rfc3164,
                "rfc5424" => SyslogFormat::Rfc5424,
                "rfc5424micro" => SyslogFormat::Rfc5424Micro,
                _ => return Err(Error::invalid("Invalid syslog format")),
            },
        })
    }
}

fn no_tls(what: &str) -> Error {
    Error::not_implemented(format!(
        "HostConfig.LogConfig.Config {what}: syslog over TLS is not implemented; tcp, udp, unix and unixgram are"
    ))
}

fn address(text: &str) -> Result<Address> {
    if text.is_empty() {
        return Ok(Address::Local);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        return Err(Error::invalid(format!("unsupported scheme: '{scheme}'")));
    };
    let host = || {
        let host = rest.split('/').next().unwrap_or("");
        let bare = host.rsplit_once(':').is_none_or(|(_, port)| port.ends_with(']') || port.is_empty());
        let host = host.trim_end_matches(':');
        if bare { format!("{host}:{PORT}") } else { host.to_owned() }
    };
    match scheme {
        "unix" | "unixgram" => {
            let path = rest.to_owned();
            Ok(if scheme == "unix" { Address::Unix(path) } else { Address::UnixDatagram(path) })
        }
        "tcp" => Ok(Address::Tcp(host())),
        "udp" => Ok(Address::Udp(host())),
        "tcp+tls" => Err(no_tls(&format!("syslog-address={text}"))),
        other => Err(Error::invalid(format!("unsupported scheme: '{other}'"))),
    }
}

fn facility(text: &str) -> Result<u8> {
    const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
        "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ];
    if text.is_empty() {
        return Ok(3);
    }
    let named = NAMES.iter().position(|name| *name == text).and_then(|place| u8::try_from(place).ok());
    let number = || text.parse::<u8>().ok().filter(|number| *number < 24);
    named.or_else(number).ok_or_else(|| Error::invalid("invalid syslog facility"))
}

impl Address {
    /// Whether its socket is there, which is asked when a container is made: later it may come and go.
    ///
    /// # Errors
    ///
    /// It is not.
    pub(crate) fn check(&self) -> Result<()> {
        let (Self::Unix(path) | Self::UnixDatagram(path)) = self else { return Ok(()) };
        std::fs::metadata(path)
            .map(drop)
            .map_err(|error| Error::invalid(format!("syslog-address {path:?}")).because(error))
    }

    /// The address as the shim is told: names are looked up here, as the shim has no resolver.
    ///
    /// # Errors
    ///
    /// The name cannot be resolved.
    pub(crate) async fn resolve(&self) -> Result<SinkAddress> {
        let lookup = async |host: &String| {
            let no = || Error::internal(format!("failed to initialize logging driver: resolving {host}"));
            let mut found = tokio::net::lookup_host(host).await.map_err(|error| no().because(error))?;
            found.next().map(|address| address.to_string()).ok_or_else(no)
        };
        Ok(match self {
            Self::Local => {
                let there = LOCAL.iter().find(|path| Path::new(path).exists()).unwrap_or(&LOCAL[0]);
                SinkAddress::UnixDatagram((*there).to_owned())
            }
            Self::Unix(path) => SinkAddress::Unix(path.clone()),
            Self::UnixDatagram(path) => SinkAddress::UnixDatagram(path.clone()),
            Self::Tcp(host) => SinkAddress::Tcp(lookup(host).await?),
            Self::Udp(host) => SinkAddress::Udp(lookup(host).await?),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn derive(options: &[(&str, &str)]) -> Result<Syslog> {
        Syslog::derive(&options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn addresses() {
        let address = |text: &str| derive(&[("syslog-address", text)]).map(|syslog| syslog.address);
        assert_eq!(address("").unwrap(), Address::Local);
        assert_eq!(address("udp://127.0.0.1").unwrap(), Address::Udp("127.0.0.1:514".into()));
        assert_eq!(address("tcp://[::1]").unwrap(), Address::Tcp("[::1]:514".into()));
        assert_eq!(address("tcp://[::1]:99").unwrap(), Address::Tcp("[::1]:99".into()));
        assert_eq!(address("tcp://h:99").unwrap(), Address::Tcp("h:99".into()));
        assert_eq!(address("unixgram:///dev/null").unwrap(), Address::UnixDatagram("/dev/null".into()));
        assert_eq!(address("corn://x").unwrap_err().to_string(), "unsupported scheme: 'corn'");
        assert!(address("unix:///nowhere/x").unwrap().check().is_err());
        assert!(address("tcp+tls://x").unwrap_err().to_string().contains("TLS is not implemented"));
    }

    #[test]
    fn facilities_and_formats() {
        let facility = |text: &str| derive(&[("syslog-facility", text)]).map(|syslog| syslog.facility);
        for (text, number) in [("", 3), ("kern", 0), ("local7", 23), ("19", 19)] {
            assert_eq!(facility(text).unwrap(), number);
        }
        for bad in ["24", "x", "-1"] {
            assert_eq!(facility(bad).unwrap_err().to_string(), "invalid syslog facility");
        }
        assert_eq!(derive(&[("syslog-format", "x")]).unwrap_err().to_string(), "Invalid syslog format");
        assert_eq!(derive(&[("syslog-format", "rfc5424")]).unwrap().format, SyslogFormat::Rfc5424);
    }
}
