// SPDX-License-Identifier: Apache-2.0
//! Image names as users write them, and pulling by them (`pull`, and `run` of what is not there).

use crate::api::{Api, Ask};
use crate::cli::Context;
use crate::config;
use crate::fail::{Fail, Result};
use crate::show::progress::{self, To};

/// A name taken apart. The daemon judges it; here it only has to be split in the right places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// Repository as written.
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

impl Name {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if repository.is_empty() || tag.as_deref() == Some("") || digest.as_deref() == Some("") {
            return Err(Fail::new("invalid reference format"));
        }
        Ok(Self { repository: repository.to_owned(), tag, digest })
    }

    /// `latest` where neither tag nor digest is named.
    pub(crate) fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// `docker.io` where none is named.
    pub(crate) fn registry(&self) -> &str {
        match self.repository.split_once('/') {
            Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => match first {
                "index.docker.io" => "docker.io",
                first => first,
            },
            _ => "docker.io",
        }
    }

    /// With registry and `library/`.
    fn full_repository(&self) -> String {
        let rest = match self.repository.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => rest,
            _ => &self.repository,
        };
        let library = if self.registry() == "docker.io" && !rest.contains('/') { "library/" } else { "" };
        format!("{}/{library}{rest}", self.registry())
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest);
        }
        name
    }

    /// As users read it: `busybox:latest`.
    pub(crate) fn familiar(&self) -> String {
        let full = self.full_repository();
        let bare = full.strip_prefix("docker.io/").unwrap_or(&full);
        self.suffixed(bare.strip_prefix("library/").unwrap_or(bare).to_owned())
    }

    /// `docker.io/library/busybox:latest`.
    pub(crate) fn full(&self) -> String {
        self.suffixed(self.full_repository())
    }
}

/// Pulls, showing progress. All tags if `all`.
pub(crate) async fn pull(
    context: &Context,
    api: &Api,
    name: &Name,
    platform: Option<&str>,
    all: bool,
    to: To,
) -> Result<()> {
    let auth = config::registry_auth(name.registry(), context.config_dir.as_deref())?;
    let mut ask = Ask::post("/images/create").with("fromImage", &name.repository);
    if !all {
        ask = ask.maybe("tag", name.digest.as_deref().or(name.tag.as_deref()));
    }
    let ask =
        ask.maybe("platform", platform.map(str::to_lowercase).as_deref()).header("x-registry-auth", &auth)?;
    let response = api.stream(ask).await?;
    progress::show(api, response.into_body(), to).await
}

/// `--platform`, else `DOCKER_DEFAULT_PLATFORM`.
pub(crate) fn platform(flag: Option<&String>) -> Option<String> {
    flag.cloned().or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").ok()).filter(|p| !p.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names() {
        let check = |text: &str, registry: &str, familiar: &str, full: &str| {
            let name = Name::parse(text).unwrap().or_latest();
            assert_eq!(
                (name.registry(), name.familiar().as_str(), name.full().as_str()),
                (registry, familiar, full),
                "{text}"
            );
        };
        check("busybox", "docker.io", "busybox:latest", "docker.io/library/busybox:latest");
        check("docker.io/library/busybox:1", "docker.io", "busybox:1", "docker.io/library/busybox:1");
        check("user/app", "docker.io", "user/app:latest", "docker.io/user/app:latest");
        check("localhost:5000/a:t", "localhost:5000", "localhost:5000/a:t", "localhost:5000/a:t");
        check("localhost/a", "localhost", "localhost/a:latest", "localhost/a:latest");
        check("a@sha256:x", "docker.io", "a@sha256:x", "docker.io/library/a@sha256:x");
        for bad in ["", ":x", "a:", "a@", "@x"] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }
}
