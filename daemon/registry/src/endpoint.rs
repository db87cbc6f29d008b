// SPDX-License-Identifier: Apache-2.0
//! Where a repository may be asked for: its mirrors, then its registry.

use berth_domain::reference::DEFAULT_REGISTRY;
use berth_domain::{Error, Result};

use crate::url::{Host, Scheme, Url};

/// One server that may have what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    /// `None`: HTTPS, and for insecure registries HTTP after it.
    pub(crate) scheme: Option<Scheme>,
    /// Path below which `/v2/` is; empty, or begins with a slash and ends with none.
    prefix: String,
    /// Never sees credentials; tried once.
    pub(crate) mirror: bool,
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
        Ok(Self { host: url.host, scheme: Some(url.scheme), prefix, mirror })
    }

    /// A registry as references name it.
    pub(crate) fn named(registry: &str) -> Result<Self> {
        let host = Host::parse(registry)
            .ok_or_else(|| Error::invalid(format!("{registry:?} is not a registry: host[:port] expected")))?;
        Ok(Self { host, scheme: None, prefix: String::new(), mirror: false })
    }

    pub(crate) fn url(&self, scheme: Scheme, path: &str) -> Url {
        Url::new(scheme, self.host.clone(), format!("{}{path}", self.prefix))
    }
}

/// Which endpoints stand for which registry.
#[derive(Debug)]
pub(crate) struct Endpoints {
    mirrors: Vec<Endpoint>,
    hub: Endpoint,
    index: Endpoint,
}

impl Endpoints {
    pub(crate) fn new(mirrors: &[String], hub: &str, index: &str) -> Result<Self> {
        let mirrors = mirrors.iter().map(|m| Endpoint::configured(m, true)).collect::<Result<_>>()?;
        let (hub, index) = (Endpoint::configured(hub, false)?, Endpoint::configured(index, false)?);
        Ok(Self { mirrors, hub, index })
    }

    /// The mirrors of a registry, then itself.
    pub(crate) fn of(&self, registry: &str) -> Result<Vec<Endpoint>> {
        if registry == DEFAULT_REGISTRY {
            Ok(self.mirrors.iter().chain([&self.hub]).cloned().collect())
        } else {
            Ok(vec![Endpoint::named(registry)?])
        }
    }

    /// The registry itself: the only one that credentials are for.
    pub(crate) fn upstream(&self, registry: &str) -> Result<Endpoint> {
        if registry == DEFAULT_REGISTRY { Ok(self.hub.clone()) } else { Endpoint::named(registry) }
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
        let endpoints =
            Endpoints::new(&["https://m.example/base/".into()], "https://registry-1.docker.io", "https://i")
                .unwrap();
        let urls = |registry: &str| -> Vec<String> {
            let all = endpoints.of(registry).unwrap();
            all.iter().map(|e| e.url(e.scheme.unwrap_or(Scheme::Https), "/v2/").to_string()).collect()
        };
        assert_eq!(urls("docker.io"), ["https://m.example/base/v2/", "https://registry-1.docker.io/v2/"]);
        assert_eq!(urls("ghcr.io"), ["https://ghcr.io/v2/"]);
        assert_eq!(urls("[::1]:5000"), ["https://[::1]:5000/v2/"]);
    }

    #[test]
    fn bad_mirrors_are_named() {
        for bad in ["", "mirror.example", "ftp://m", "https://u:p@m", "https://m/?x=1"] {
            let error = Endpoints::new(&[bad.to_owned()], "https://h", "https://i").expect_err(bad);
            assert!(error.chain().contains(&format!("{bad:?}")), "{}", error.chain());
        }
    }
}
