// SPDX-License-Identifier: Apache-2.0
//! Writing a container's `/etc` files and mounting them.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use berth_api::types::container_create::HostConfig;
use berth_domain::{Error, Result};
use oci_spec::runtime::{Mount, MountBuilder};

use crate::Engine;
use crate::asked::{Asked, NetworkChoice};
use crate::etc::{Hosts, Resolver, host_options, is_stub, split_extra_host};
use crate::files::write_whole;
use crate::links::Linked;
use crate::snapshot::{Paths, Snapshot};

const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved keeps the real servers when the usual file names its stub.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// The mounts of the three files. A mount of the user's on one of them wins.
pub(crate) fn mounts(files: &Paths, now: &Snapshot, user: &[Mount]) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for (source, destination) in [
        (&files.resolv_conf, "/etc/resolv.conf"),
        (&files.hostname, "/etc/hostname"),
        (&files.hosts, "/etc/hosts"),
    ] {
        if user.iter().any(|mount| mount.destination() == Path::new(destination)) {
            continue;
        }
        let mut options = vec!["rbind".to_owned(), "rprivate".to_owned()];
        if now.host_config.readonly_rootfs {
            options.push("ro".to_owned());
        }
        if now.id_map.is_some() {
            // The daemon writes them, as the host's root; in the container they are its root's.
            options.push("idmap".to_owned());
        }
        let mount = MountBuilder::default()
            .destination(destination)
            .typ("bind")
            .source(source)
            .options(options)
            .build()
            .map_err(|error| Error::internal("describing a mount").because(error))?;
        mounts.push(mount);
    }
    Ok(mounts)
}

/// Where the embedded resolver answers.
const RESOLVER: &str = "127.0.0.11";

fn asked_or(own: &[String], default: &[String]) -> Vec<String> {
    if own.is_empty() { default.to_vec() } else { own.to_vec() }
}

fn read_host(path: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::io("reading", path, error)),
    }
}

impl Engine {
    /// Writes hostname, hosts and resolv.conf of a container. Blocking.
    ///
    /// # Errors
    ///
    /// An entry of `--add-host` that is none; a file that cannot be written.
    pub(crate) fn write_etc(
        &self,
        now: &Snapshot,
        asked: &Asked,
        (addresses, resolver): (&[IpAddr], bool),
        hostname: &str,
        linked: &Linked,
    ) -> Result<()> {
        let host = &now.host_config;
        let mut extra = Vec::new();
        for entry in host.extra_hosts.iter().flatten() {
            let bad = || Error::invalid(format!("bad format for add-host: {entry:?}"));
            let (name, address) = split_extra_host(entry).ok_or_else(bad)?;
            if address == "host-gateway" {
                extra.extend(self.host_gateways().into_iter().map(|gateway| (name.to_owned(), gateway)));
            } else {
                let address = address
                    .parse()
                    .map_err(|_| Error::invalid(format!("invalid IP address in add-host: {address:?}")))?;
                extra.push((name.to_owned(), address));
            }
        }
        extra.extend(linked.hosts.iter().map(|(address, names)| (names.clone(), *address)));
        let hosts = Hosts { addresses, hostname, domainname: &now.config.domainname, extra: &extra };
        let hosts = match asked.network {
            // A container in the host's network sees what the host sees.
            NetworkChoice::Host => read_host("/etc/hosts")? + &hosts.render_extra(),
            _ => hosts.render(),
        };
        let resolv_conf = self.resolv_conf(now, asked, resolver)?;
        write_whole(&now.paths.hostname, format!("{hostname}\n").as_bytes(), 0o644)?;
        write_whole(&now.paths.hosts, hosts.as_bytes(), 0o644)?;
        write_whole(&now.paths.resolv_conf, resolv_conf.as_bytes(), 0o644)
    }

    /// The text of a container's resolv.conf; `resolver` says that the embedded one answers for it. Blocking.
    pub(crate) fn resolv_conf(&self, now: &Snapshot, asked: &Asked, resolver: bool) -> Result<String> {
        let host = &now.host_config;
        let servers = if resolver { vec![RESOLVER.to_owned()] } else { self.name_servers(host) };
        let search = asked_or(&host.dns_search, &self.config.dns_search);
        let mut options = asked_or(&host.dns_options, &self.config.dns_options);
        let mut resolv_conf = read_host(HOST_RESOLV_CONF)?;
        let host_network = asked.network == NetworkChoice::Host;
        if is_stub(&resolv_conf) && !host_network {
            resolv_conf = read_host(RESOLVED_CONF)?;
        }
        if host_network && servers.is_empty() && search.is_empty() && options.is_empty() {
            return Ok(resolv_conf);
        }
        if resolver {
            if options.is_empty() {
                options = host_options(&resolv_conf);
            }
            // A container's name has no dot: it is asked for as it is before search domains are tried.
            if !options.iter().any(|option| option.starts_with("ndots:")) {
                options.push("ndots:0".to_owned());
            }
        }
        Ok(Resolver { servers: &servers, search: &search, options: &options }.render(&resolv_conf))
    }

    /// The name servers asked for; empty for the host's.
    pub(crate) fn name_servers(&self, host: &HostConfig) -> Vec<String> {
        let default: Vec<String> = self.config.dns.iter().map(ToString::to_string).collect();
        asked_or(&host.dns, &default)
    }

    fn host_gateways(&self) -> Vec<IpAddr> {
        if self.config.host_gateway_ips.is_empty() {
            self.backends.networks.gateway("bridge").into_iter().collect()
        } else {
            self.config.host_gateway_ips.clone()
        }
    }
}
