// SPDX-License-Identifier: Apache-2.0
//! Where the daemon is.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::fail::{Fail, Result};

const DEFAULT: &str = "unix:///run/berth/berth.sock";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl Address {
    /// `-H`, else `BERTH_HOST`, else `DOCKER_HOST`, else the default socket.
    pub(crate) fn choose(flag: Option<&str>, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let from_env =
            || ["BERTH_HOST", "DOCKER_HOST"].iter().find_map(|name| env(name).filter(|v| !v.is_empty()));
        let chosen = flag.map(str::to_owned).or_else(from_env).unwrap_or_else(|| DEFAULT.to_owned());
        Self::parse(&chosen)
    }

    fn parse(s: &str) -> Result<Self> {
        let bad = |why: &str| Fail::new(format!("invalid host {s:?}: {why}"));
        match s.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("unix", _)) => Err(bad("unix:// needs an absolute path")),
            Some(("tcp" | "http", rest)) => {
                let host = rest.trim_end_matches('/');
                if host.is_empty() || host.contains('/') {
                    return Err(bad("tcp://host[:port] expected"));
                }
                let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                Ok(Self::Tcp(if has_port { host.to_owned() } else { format!("{host}:2375") }))
            }
            Some((scheme, _)) => Err(bad(&format!("{scheme}:// is not supported; use unix:// or tcp://"))),
            None if s.starts_with('/') => Ok(Self::Unix(s.into())),
            None => Err(bad("use unix:///path or tcp://host:port")),
        }
    }

    /// For the `Host` header.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Unix(_) => "api.moby.localhost",
            Self::Tcp(host) => host,
        }
    }

    /// Why there is no connection, and what to do about it.
    pub(super) fn unreachable(&self, error: &io::Error) -> Fail {
        Fail::new(match error.kind() {
            io::ErrorKind::PermissionDenied => format!(
                "permission denied while connecting to the Berth daemon at {self}: members of the group that owns the socket (berth) may, and root"
            ),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
                "Cannot connect to the Berth daemon at {self}. Is berthd running? ({error}; `systemctl start berth` starts it, -H or BERTH_HOST says where else to look)"
            ),
            _ => format!("Cannot connect to the Berth daemon at {self}: {error}"),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_nearest_word_counts() {
        let env = |name: &str| match name {
            "BERTH_HOST" => Some("tcp://b:1".to_owned()),
            "DOCKER_HOST" => Some("tcp://d:2".to_owned()),
            _ => None,
        };
        let chosen =
            |flag, env: &dyn Fn(&str) -> Option<String>| Address::choose(flag, env).unwrap().to_string();
        assert_eq!(chosen(Some("unix:///x"), &env), "unix:///x");
        assert_eq!(chosen(None, &env), "tcp://b:1");
        assert_eq!(chosen(None, &|n| env(n).filter(|_| n == "DOCKER_HOST")), "tcp://d:2");
        assert_eq!(chosen(None, &|_| None), DEFAULT);
        assert_eq!(chosen(None, &|_| Some(String::new())), DEFAULT);
    }

    #[test]
    fn ports_have_a_default_and_nonsense_is_refused() {
        assert_eq!(Address::parse("tcp://h").unwrap(), Address::Tcp("h:2375".into()));
        assert_eq!(Address::parse("tcp://[::1]:99/").unwrap(), Address::Tcp("[::1]:99".into()));
        for bad in ["", "ssh://h", "unix://relative", "tcp://", "tcp://h/x", "host"] {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
    }
}
