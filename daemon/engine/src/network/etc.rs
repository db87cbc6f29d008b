// SPDX-License-Identifier: Apache-2.0
//! A running container's hosts and resolv.conf after it joined or left a network.
//!
//! The files are mounted into the container, so they are written in place; and they may have been written there, so only
//! lines of ours change.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use berth_domain::{Error, Result};
use berth_network::SandboxRecord;

use crate::container::start::addresses;
use crate::files::blocking;
use crate::task::Task;

/// A file that grew beyond this inside the container is left alone.
const LARGEST: u64 = 1 << 20;

impl Task {
    pub(crate) async fn refresh_etc(&mut self, before: Option<&SandboxRecord>) -> Result<()> {
        let (engine, now, asked) = (Arc::clone(&self.engine), self.now.clone(), Arc::clone(&self.asked));
        let Some(sandbox) = now.sandbox.clone() else { return Ok(()) };
        let old = before.map(addresses).unwrap_or_default();
        let joins_resolver = sandbox.resolver && !before.is_some_and(|before| before.resolver);
        blocking(move || {
            let new = addresses(&sandbox);
            let hosts = read(&now.paths.hosts)?;
            let names = match &*now.config.domainname {
                "" => now.config.hostname.clone(),
                domain => format!("{host}.{domain} {host}", host = now.config.hostname),
            };
            write(&now.paths.hosts, &change_hosts(&hosts, &old, &new, &names))?;
            if joins_resolver {
                // What somebody wrote into it stays.
                let untouched = engine.resolv_conf(&now, &asked, false)?;
                if read(&now.paths.resolv_conf)? == untouched {
                    write(&now.paths.resolv_conf, &engine.resolv_conf(&now, &asked, true)?)?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Gives names another address in a hosts file. Blocking.
pub(crate) fn replace_host(path: &Path, address: IpAddr, names: &str) -> Result<()> {
    let text = read(path)?;
    let mut changed = String::new();
    for line in text.lines() {
        let (first, rest) = line.split_once('\t').unwrap_or((line, ""));
        if rest == names && first.parse::<IpAddr>().is_ok() {
            let _ok = writeln!(changed, "{address}\t{names}");
        } else {
            let _ok = writeln!(changed, "{line}");
        }
    }
    if changed == text { Ok(()) } else { write(path, &changed) }
}

fn change_hosts(text: &str, old: &[IpAddr], new: &[IpAddr], names: &str) -> String {
    let mut changed = String::new();
    let gone = |line: &str| {
        let address = line.split_whitespace().next().and_then(|word| word.parse::<IpAddr>().ok());
        address.is_some_and(|address| old.contains(&address) && !new.contains(&address))
    };
    for line in text.lines().filter(|line| !gone(line)) {
        // Writing to a String cannot fail.
        let _ok = writeln!(changed, "{line}");
    }
    for address in new.iter().filter(|address| !old.contains(address)) {
        let _ok = writeln!(changed, "{address}\t{names}");
    }
    changed
}

fn read(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| Error::io("opening", path, error))?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| Error::io("reading", path, error))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::invalid(format!("{} is too large", path.display())));
    }
    String::from_utf8(bytes).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .map_err(|error| Error::io("opening", path, error))?;
    file.write_all(text.as_bytes()).map_err(|error| Error::io("writing", path, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn only_lines_of_ours_change() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let text = "127.0.0.1\tlocalhost\n10.0.0.2\th\n# mine\n10.0.0.9 other\n";
        assert_eq!(
            change_hosts(text, &[ip("10.0.0.2")], &[ip("10.0.1.2")], "h"),
            "127.0.0.1\tlocalhost\n# mine\n10.0.0.9 other\n10.0.1.2\th\n"
        );
        assert_eq!(change_hosts(text, &[ip("10.0.0.2")], &[ip("10.0.0.2")], "h"), text);
    }
}
