// SPDX-License-Identifier: Apache-2.0
//! Links between containers (`--link`), which are older than networks with names.
//!
//! On the default bridge a link is what it always was: variables in the environment that tell of the other container, and
//! a line in `/etc/hosts`, kept right when the other starts anew elsewhere. On a user-defined network it is one more name that
//! only this container's resolver knows. The record holds the other's id, so that a rename does not break the link.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use berth_api::types::container_create::HostConfig;
use berth_domain::{ContainerId, Error, Result};

use crate::Engine;
use crate::asked::is_user_defined;
use crate::snapshot::Snapshot;

/// What a container's links come to when it starts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Linked {
    /// Variables for the environment, below those that the user gave.
    pub(crate) env: Vec<String>,
    /// Lines of `/etc/hosts`: address, then names.
    pub(crate) hosts: Vec<(std::net::IpAddr, String)>,
}

/// Splits `name:alias`, `name`, or the form that inspect shows (`/name:/parent/alias`).
///
/// # Errors
///
/// Neither of them.
pub(crate) fn parse(link: &str) -> Result<(&str, &str)> {
    let bad = || Error::invalid(format!("bad format for links: {link}"));
    let (name, alias) = match link.split_once(':') {
        Some((_, alias)) if alias.contains(':') => return Err(bad()),
        Some((name, alias)) => (name, alias.rsplit('/').next().unwrap_or(alias)),
        None => (link, link.rsplit('/').next().unwrap_or(link)),
    };
    let name = name.strip_prefix('/').unwrap_or(name);
    let odd = |word: &str| word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control());
    if odd(name) || odd(alias) { Err(bad()) } else { Ok((name, alias)) }
}

impl Engine {
    /// Puts ids in the place of names, at create.
    ///
    /// # Errors
    ///
    /// There is no such container; a network mode that links make no sense with.
    pub(crate) fn fix_links(&self, host: &mut HostConfig) -> Result<()> {
        let mode = host.network_mode.clone();
        let Some(links) = host.links.as_mut().filter(|links| !links.is_empty()) else { return Ok(()) };
        let what = match &*mode {
            "host" => Some("host type networking"),
            mode if mode.starts_with("container:") => Some("container type network"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(Error::invalid(format!(
                "conflicting options: {what} can't be used with links. This would result in undefined behavior"
            )));
        }
        for link in links {
            let (name, alias) = parse(link)?;
            let child = self.index.resolve(name).map_err(|error| {
                // Not a 404, which would make clients look for the image.
                Error::invalid(format!("could not get container for {name}: {error}"))
            })?;
            if child.now().host_config.network_mode == "host" {
                return Err(Error::invalid(
                    "conflicting options: host type networking can't be used with links. This would result in \
                     undefined behavior",
                ));
            }
            *link = format!("{}:{alias}", child.id);
        }
        Ok(())
    }

    /// A container's links as inspect shows them: `/name:/parent/alias`. Those to containers that are gone are left out.
    #[must_use]
    pub fn links_shown(&self, now: &Snapshot) -> Option<Vec<String>> {
        let shown: Vec<String> = self
            .children(now)
            .map(|(child, alias)| format!("/{}:/{}/{alias}", child.name, now.name))
            .collect();
        (!shown.is_empty()).then_some(shown)
    }

    /// The names that links give to containers, by the container's id: `/parent/alias`.
    #[must_use]
    pub fn link_names(&self) -> BTreeMap<ContainerId, Vec<String>> {
        let mut names: BTreeMap<ContainerId, Vec<String>> = BTreeMap::new();
        if !self.has_links.load(std::sync::atomic::Ordering::Relaxed) {
            return names;
        }
        for handle in self.index.all() {
            let now = handle.now();
            for (child, alias) in self.children(&now) {
                names.entry(child.id.clone()).or_default().push(format!("/{}/{alias}", now.name));
            }
        }
        names
    }

    fn children<'a>(&'a self, now: &'a Snapshot) -> impl Iterator<Item = (Arc<Snapshot>, &'a str)> {
        let links = now.host_config.links.iter().flatten();
        links.filter_map(|link| {
            let (id, alias) = link.split_once(':')?;
            Some((self.index.resolve(id).ok()?.now(), alias))
        })
    }

    /// What the links of a container on the default bridge come to now.
    ///
    /// # Errors
    ///
    /// A container that is linked to does not run, or is on another network.
    pub(crate) fn linked(&self, now: &Snapshot) -> Result<Linked> {
        let mut linked = Linked::default();
        if is_user_defined(&now.host_config.network_mode) || now.host_config.network_mode == "none" {
            return Ok(linked);
        }
        for (child, alias) in self.children(now) {
            if child.state.pid == 0 {
                return Err(Error::conflict(format!(
                    "Cannot link to a non running container: /{} AS /{}/{alias}",
                    child.name, now.name
                )));
            }
            let Some(address) = bridge_address(&child) else {
                return Err(Error::invalid(format!(
                    "Cannot link to /{}, as it does not belong to the default network",
                    child.name
                )));
            };
            linked.env.extend(environment(&now.name, alias, &child, address));
            linked.hosts.push((address, host_names(&child, alias)));
        }
        Ok(linked)
    }

    /// Waits for those that a container is linked to, as long as the reference does: five seconds.
    pub(crate) async fn await_linked(&self, now: &Snapshot) {
        let running = async {
            for (child, _) in self.children(now).collect::<Vec<_>>() {
                let Ok(handle) = self.index.resolve(child.id.as_str()) else { continue };
                // One that is removed meanwhile is missed at the start itself.
                drop(handle.snapshot.clone().wait_for(|child| child.state.pid != 0).await);
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), running).await.is_err() {
            tracing::info!(container = %now.id, "what it is linked to does not run yet");
        }
    }

    /// A container runs, perhaps at another address than before: tells those that are linked to it. Blocking.
    pub(crate) fn relink(&self, child: &Snapshot) {
        let Some(address) = bridge_address(child) else { return };
        for handle in self.index.all() {
            let parent = handle.now();
            if parent.state.pid == 0 || parent.host_config.links.as_ref().is_none_or(Vec::is_empty) {
                continue;
            }
            for (_, alias) in self.children(&parent).filter(|(linked, _)| linked.id == child.id) {
                let names = host_names(child, alias);
                if let Err(error) = crate::network::etc::replace_host(&parent.paths.hosts, address, &names) {
                    tracing::warn!(container = %parent.id, error = error.chain(), "a link's address is not up to date");
                }
            }
        }
    }
}

fn bridge_address(now: &Snapshot) -> Option<std::net::IpAddr> {
    let sandbox = now.sandbox.as_deref()?;
    let endpoint = sandbox.endpoints.iter().find(|endpoint| endpoint.network_name == "bridge")?;
    endpoint.ipv4.map(Into::into)
}

/// The alias, the host name, and the name if it is not the alias.
fn host_names(child: &Snapshot, alias: &str) -> String {
    let mut names = format!("{alias} {}", child.config.hostname);
    if alias != child.name {
        let _ok = write!(names, " {}", child.name);
    }
    names
}

/// `ALIAS_NAME`, `ALIAS_PORT…` for what the other exposes, `ALIAS_ENV_…` for what it was told.
fn environment(parent: &str, alias: &str, child: &Snapshot, address: std::net::IpAddr) -> Vec<String> {
    let prefix = alias.to_uppercase().replace('-', "_");
    let mut ports: Vec<(u16, String)> = child
        .config
        .exposed_ports
        .keys()
        .filter_map(|port| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some((number.parse().ok()?, protocol.to_owned()))
        })
        .collect();
    // The default is TCP's lowest, or else the lowest of the next protocol.
    ports.sort_by(|a, b| (a.1 != "tcp", &a.1, a.0).cmp(&(b.1 != "tcp", &b.1, b.0)));
    let url = |(number, protocol): &(u16, String)| format!("{protocol}://{address}:{number}");
    let mut env = Vec::new();
    if let Some(first) = ports.first() {
        env.push(format!("{prefix}_PORT={}", url(first)));
    }
    // First and last.
    let mut run = None;
    for (place, port) in ports.iter().enumerate() {
        let (number, protocol) = (port.0, &port.1);
        let name = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        env.push(format!("{name}={}", url(port)));
        env.push(format!("{name}_ADDR={address}"));
        env.push(format!("{name}_PORT={number}"));
        env.push(format!("{name}_PROTO={protocol}"));
        // Ports in a row are told of as a range too.
        let follows = |end: &&(u16, String)| end.0.checked_add(1) == Some(number) && end.1 == *protocol;
        let (first, last) = match run {
            Some((first, end)) if follows(&end) => {
                run = Some((first, port));
                if place + 1 < ports.len() {
                    continue;
                }
                (first, port)
            }
            Some(run) => run,
            None => (port, port),
        };
        if first != last {
            let name = format!("{prefix}_PORT_{}_{}", first.0, first.1.to_uppercase());
            env.push(format!("{name}_START={}", url(first)));
            env.push(format!("{name}_PORT_START={}", first.0));
            env.push(format!("{name}_END={}", url(last)));
            env.push(format!("{name}_PORT_END={}", last.0));
        }
        run = Some((port, port));
    }
    env.push(format!("{prefix}_NAME=/{parent}/{alias}"));
    for variable in child.config.env.iter().flatten() {
        let Some((name, value)) = variable.split_once('=') else { continue };
        if name != "HOME" && name != "PATH" {
            env.push(format!("{prefix}_ENV_{name}={value}"));
        }
    }
    env
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn links_are_split() {
        for (link, name, alias) in
            [("db", "db", "db"), ("db:sql", "db", "sql"), ("/db:/web/sql", "db", "sql")]
        {
            assert_eq!(parse(link).unwrap(), (name, alias), "{link}");
        }
        for bad in ["", ":", "a:", ":b", "a:b:c", "a b:c", "a:b\n1.2.3.4"] {
            assert_eq!(parse(bad).unwrap_err().to_string(), format!("bad format for links: {bad}"));
        }
    }
}
