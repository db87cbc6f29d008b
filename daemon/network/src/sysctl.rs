// SPDX-License-Identifier: Apache-2.0
//! Kernel settings of one link in a container, asked for with its endpoint
//! (`com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,…`).

use std::path::PathBuf;

use berth_domain::{Error, Result};

use crate::EndpointRequest;

/// Docker's name of the option.
pub(crate) const OPTION: &str = "com.docker.network.endpoint.sysctls";
/// Stands for the link's name, which nobody knows before it is made.
const LINK: &str = "IFNAME";
/// More than that nobody needs.
const MOST: usize = 64;

/// What is to be written, where.
pub(crate) struct Setting<'a> {
    family: &'a str,
    table: &'a str,
    key: &'a str,
    value: &'a str,
}

impl Setting<'_> {
    /// The file, seen from a thread in the container's network namespace.
    pub(crate) fn path(&self, link: &str) -> PathBuf {
        PathBuf::from("/proc/sys/net").join(self.family).join(self.table).join(link).join(self.key)
    }

    pub(crate) fn value(&self) -> &str {
        self.value
    }
}

/// Reads the option.
///
/// # Errors
///
/// A part of it is not of the form `net.<family>.<table>.IFNAME.<key>=<value>`: nothing else can be told to concern this link alone.
pub(crate) fn parse(option: &str) -> Result<Vec<Setting<'_>>> {
    let parts: Vec<&str> = option.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.len() > MOST {
        return Err(Error::invalid(format!("{OPTION}: more than {MOST} settings")));
    }
    parts.into_iter().map(one).collect()
}

fn one(part: &str) -> Result<Setting<'_>> {
    let bad =
        |why: &str| Error::invalid(format!("invalid network interface sysctl {part:?} in {OPTION}: {why}"));
    let (name, value) = part.split_once('=').ok_or_else(|| bad("NAME=VALUE expected"))?;
    let [root, family, table, link, key] = name.split('.').collect::<Vec<_>>()[..] else {
        return Err(bad("a name of the form net.ipv4.conf.IFNAME.key expected"));
    };
    if root != "net" || link != LINK {
        return Err(bad("a name of the form net.ipv4.conf.IFNAME.key expected"));
    }
    if !matches!(family, "ipv4" | "ipv6" | "mpls") || !matches!(table, "conf" | "neigh") {
        return Err(bad(
            "only settings of net.ipv4, net.ipv6 and net.mpls beneath conf and neigh belong to one link",
        ));
    }
    let plain = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !plain(key) || value.is_empty() || value.len() > 256 || value.bytes().any(|b| b.is_ascii_control()) {
        return Err(bad("that is no setting"));
    }
    Ok(Setting { family, table, key, value })
}

/// What is asked of an endpoint's link.
pub(crate) fn check(request: &EndpointRequest) -> Result<()> {
    request.options.get(OPTION).map_or(Ok(()), |option| parse(option).map(|_| ()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn settings_of_the_link_and_no_others() {
        let option = "net.ipv4.conf.IFNAME.log_martians=1, net.ipv6.conf.IFNAME.accept_ra=2";
        let read = parse(option).unwrap();
        let shown: Vec<_> =
            read.iter().map(|s| format!("{}={}", s.path("eth0").display(), s.value())).collect();
        assert_eq!(
            shown,
            ["/proc/sys/net/ipv4/conf/eth0/log_martians=1", "/proc/sys/net/ipv6/conf/eth0/accept_ra=2"]
        );
        for bad in [
            "net.ipv4.conf.all.forwarding=1",
            "net.ipv4.ip_forward=1",
            "kernel.IFNAME.x.y.z=1",
            "net.ipv4.conf.IFNAME./../../x=1",
            "net.ipv4.conf.IFNAME.x",
            "net.ipv4.conf.IFNAME.x=",
            "net.../.conf.IFNAME.x=1",
        ] {
            assert!(parse(bad).is_err(), "{bad} was accepted");
        }
        assert!(parse(&"net.ipv4.conf.IFNAME.x=1,".repeat(65)).is_err());
    }
}
