// SPDX-License-Identifier: Apache-2.0
//! Image references: `[registry/]repository[:tag][@digest]`, in Docker's familiar and full forms
//! (grammar: distribution/reference).

use std::fmt;
use std::str::FromStr;

use crate::{Digest, Error};

/// The registry meant when none is named.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag meant when neither tag nor digest is named.
pub const DEFAULT_TAG: &str = "latest";

/// A full reference. `busybox` is `docker.io/library/busybox` with neither tag nor digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

fn invalid(s: &str) -> Error {
    Error::invalid(format!("invalid reference format: {s:?}"))
}

fn is_component(s: &str) -> bool {
    // alphanumeric runs joined by one of . _ __ or any number of -
    let bytes = s.as_bytes();
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    s.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|sep| !sep.is_empty())
        .all(|sep| matches!(sep, "." | "_" | "__") || sep.bytes().all(|b| b == b'-'))
}

fn is_tag(s: &str) -> bool {
    let mut bytes = s.bytes();
    s.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn is_registry(s: &str) -> bool {
    let (host, port) = match s.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => {
            if v6.is_empty() || !v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return false;
            }
            (None, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("x") }))
        }
        None => match s.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(s), None),
        },
    };
    let host_ok = host.is_none_or(|h| {
        h.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    });
    host_ok && port.is_none_or(|p| p.parse::<u16>().is_ok())
}

impl Reference {
    /// Host and port of the registry (`docker.io`, `localhost:5000`).
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Repository without the registry (`library/busybox`).
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was named.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was named.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    ///
    /// The tag breaks the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, Error> {
        if !is_tag(tag) {
            return Err(invalid(tag));
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// `latest` where neither tag nor digest was named.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Repository as users write it: `busybox`, `user/app`, `localhost:5000/app`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.registry == DEFAULT_REGISTRY {
            // `library/a/b` stays as it is: `a/b` is the image of a user.
            let official = self.repository.strip_prefix("library/").filter(|name| !name.contains('/'));
            official.unwrap_or(&self.repository).to_owned()
        } else {
            format!("{}/{}", self.registry, self.repository)
        }
    }

    /// The whole reference as users write it: `busybox:latest`, `busybox@sha256:...`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest.as_str());
        }
        name
    }
}

impl fmt::Display for Reference {
    /// The full form: `docker.io/library/busybox:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(format!("{}/{}", self.registry, self.repository)))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let (rest, digest) = match s.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|_| invalid(s))?)),
            None => (s, None),
        };
        // A colon after the last slash starts the tag.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(invalid(s));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':', '['])
                    || first == "localhost"
                    || first.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                let first = if first == "index.docker.io" { DEFAULT_REGISTRY } else { first };
                (first, path)
            }
            _ => (DEFAULT_REGISTRY, name),
        };
        if !is_registry(registry) || !repository.split('/').all(is_component) {
            if repository.bytes().any(|b| b.is_ascii_uppercase()) {
                return Err(Error::invalid(format!(
                    "invalid reference format: repository name ({repository}) must be lowercase"
                )));
            }
            return Err(invalid(s));
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if repository.len() + registry.len() + 1 > 255 {
            return Err(Error::invalid(
                "invalid reference format: repository name must not be more than 255 characters",
            ));
        }
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, full: &str, familiar: &str) {
        let reference: Reference = input.parse().expect(input);
        assert_eq!(reference.to_string(), full, "full form of {input}");
        assert_eq!(reference.familiar(), familiar, "familiar form of {input}");
        assert_eq!(full.parse::<Reference>().expect(full), reference, "the full form reads back");
    }

    #[test]
    fn familiar_and_full_forms() {
        check("busybox", "docker.io/library/busybox", "busybox");
        check("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36");
        check("user/app", "docker.io/user/app", "user/app");
        check("index.docker.io/library/x", "docker.io/library/x", "x");
        check("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b");
        check("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t");
        check("localhost/a", "localhost/a", "localhost/a");
        check("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a");
        check("ghcr.io/o/r__x--y.z:V_1", "ghcr.io/o/r__x--y.z:V_1", "ghcr.io/o/r__x--y.z:V_1");
        let digest = format!("sha256:{}", "a".repeat(64));
        check(&format!("a@{digest}"), &format!("docker.io/library/a@{digest}"), &format!("a@{digest}"));
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for bad in [
            "",
            "A",
            "a:",
            "a@x",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a:b:c",
            "a..b",
            "a b",
            "host:99999/a",
            "a@sha256:ABC",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?} was accepted");
        }
    }
}
