// SPDX-License-Identifier: Apache-2.0
//! Where a repository may be asked for: its mirrors, then its registry.

use std::path::PathBuf;

use berth_domain::reference::DEFAULT_REGISTRY;
use berth_domain::{Error, Result};

use crate::hosts::{self, Hosts, Listed};
use crate::tls::Trust;
use crate::url::{Host, Scheme, Url};

/// One server that may have what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    /// `None`: HTTPS, and for insecure registries HTTP after it.
    pub(crate) scheme: Option<Scheme>,
    /// Path below which `/v2/` is; empty, or begins with a slash and ends with none.
    prefix: String,
    /// The prefix stands for `/v2` itself.
    instead: bool,
    /// The registry whose mirror it is, told in the query `ns` (containerd's rule) so that one may stand for many.
    namespace: Option<String>,
    /// Never sees credentials; tried once.
    pub(crate) mirror: bool,
    pub(crate) trust: Trust,
}

impl Endpoint {
    /// From a base URL that an administrator wrote. Its scheme is what he wants.
    pub(crate) fn configured(base: &str, mirror: bool) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("registry mirror {base:?} {why}"));
        let url = Url::parse(base).ok_or_else(|| bad("is not a URL (https://host[:port])"))?;
        if base.contains(['?', '#']) {
            return Err(bad("must not have a query or a fragment"));
        }
        let prefix = url.path().trim_end_matches('/').to_owned();
        Ok(Self { prefix, mirror, ..Self::at(url.host, Some(url.scheme)) })
    }

    /// A registry as references name it.
    pub(crate) fn named(registry: &str) -> Result<Self> {
        let host = Host::parse(registry)
            .ok_or_else(|| Error::invalid(format!("{registry:?} is not a registry: host[:port] expected")))?;
        Ok(Self::at(host, None))
    }

    fn at(host: Host, scheme: Option<Scheme>) -> Self {
        let (prefix, trust) = (String::new(), Trust::default());
        Self { host, scheme, prefix, instead: false, namespace: None, mirror: false, trust }
    }

    /// As `hosts.toml` has it, for `registry`.
    fn listed(listed: Listed, registry: &str, upstream: &Self) -> Self {
        // Whoever is the registry itself may be told what is for it.
        let mirror = !upstream.is_at(&listed.url);
        let Listed { url, override_path, trust, .. } = listed;
        let prefix = url.path().trim_end_matches('/').to_owned();
        Self {
            prefix,
            instead: override_path,
            namespace: (url.host != upstream.host).then(|| registry.to_owned()),
            mirror,
            trust,
            ..Self::at(url.host, Some(url.scheme))
        }
    }

    fn is_at(&self, url: &Url) -> bool {
        url.host == self.host && self.scheme.is_none_or(|s| s == url.scheme)
    }

    pub(crate) fn url(&self, scheme: Scheme, path: &str) -> Url {
        let below = if self.instead { path.strip_prefix("/v2").unwrap_or(path) } else { path };
        let url = Url::new(scheme, self.host.clone(), format!("{}{below}", self.prefix));
        match &self.namespace {
            Some(namespace) => url.with_query(&[("ns", namespace)]),
            None => url,
        }
    }
}

/// What an endpoint is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// What a tag points at.
    Resolve,
    /// What has a digest.
    Pull,
}

/// Which endpoints stand for which registry.
#[derive(Debug)]
pub(crate) struct Endpoints {
    mirrors: Vec<Endpoint>,
    hub: Endpoint,
    index: Endpoint,
    /// Where `<host>/hosts.toml` is looked for, in order.
    hosts_dirs: Vec<PathBuf>,
}

impl Endpoints {
    pub(crate) fn new(mirrors: &[String], hub: &str, index: &str, hosts_dirs: Vec<PathBuf>) -> Result<Self> {
        let mirrors = mirrors.iter().map(|m| Endpoint::configured(m, true)).collect::<Result<_>>()?;
        let (hub, index) = (Endpoint::configured(hub, false)?, Endpoint::configured(index, false)?);
        Ok(Self { mirrors, hub, index, hosts_dirs })
    }

    /// The mirrors of a registry that are good for this, then itself. Reads small files.
    pub(crate) fn of(&self, registry: &str, need: Need) -> Result<Vec<Endpoint>> {
        let mut listed = hosts::find(&self.hosts_dirs, registry)?.unwrap_or_default();
        let upstream = self.itself(registry, &mut listed)?;
        // What is left of `server` is no registry: the last of the mirrors.
        let hosts = listed.hosts.into_iter().chain(listed.server).filter(|h| match need {
            Need::Resolve => h.resolve,
            Need::Pull => h.pull,
        });
        let mut all: Vec<_> = hosts.map(|h| Endpoint::listed(h, registry, &upstream)).collect();
        if registry == DEFAULT_REGISTRY {
            all.extend(self.mirrors.iter().cloned());
        }
        all.push(upstream);
        Ok(all)
    }

    /// The registry itself: the only one that credentials are for.
    pub(crate) fn upstream(&self, registry: &str) -> Result<Endpoint> {
        let mut listed = hosts::find(&self.hosts_dirs, registry)?.unwrap_or_default();
        self.itself(registry, &mut listed)
    }

    /// Takes the file's `server` if that is the registry.
    fn itself(&self, registry: &str, listed: &mut Hosts) -> Result<Endpoint> {
        let upstream =
            if registry == DEFAULT_REGISTRY { self.hub.clone() } else { Endpoint::named(registry)? };
        // In the registry's own directory the administrator says what it is; in `_default` he cannot mean that one
        // server is every registry, and is to have the passwords of all.
        let default = listed.default;
        Ok(match listed.server.take_if(|server| !default || upstream.is_at(&server.url)) {
            Some(server) => Endpoint { mirror: false, ..Endpoint::listed(server, registry, &upstream) },
            None => upstream,
        })
    }

    /// Where a registry is searched.
    pub(crate) fn index(&self, registry: &str) -> Result<Endpoint> {
        if registry == DEFAULT_REGISTRY { Ok(self.index.clone()) } else { Endpoint::named(registry) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn mirrors_are_for_docker_io_only() {
        let endpoints = Endpoints::new(
            &["https://m.example/base/".into()],
            "https://registry-1.docker.io",
            "https://i",
            Vec::new(),
        )
        .unwrap();
        let urls = |registry: &str| -> Vec<String> {
            let all = endpoints.of(registry, Need::Pull).unwrap();
            all.iter().map(|e| e.url(e.scheme.unwrap_or(Scheme::Https), "/v2/").to_string()).collect()
        };
        assert_eq!(urls("docker.io"), ["https://m.example/base/v2/", "https://registry-1.docker.io/v2/"]);
        assert_eq!(urls("ghcr.io"), ["https://ghcr.io/v2/"]);
        assert_eq!(urls("[::1]:5000"), ["https://[::1]:5000/v2/"]);
    }

    #[test]
    fn bad_mirrors_are_named() {
        for bad in ["", "mirror.example", "ftp://m", "https://u:p@m", "https://m/?x=1"] {
            let error =
                Endpoints::new(&[bad.to_owned()], "https://h", "https://i", Vec::new()).expect_err(bad);
            assert!(error.chain().contains(&format!("{bad:?}")), "{}", error.chain());
        }
    }
}
