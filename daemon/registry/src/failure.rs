// SPDX-License-Identifier: Apache-2.0
//! What can go wrong between us and a registry, before it is known whose request it spoils.
//!
//! A [`Failure`] still knows whether trying again may help; an [`Error`] no longer does.

use std::error::Error as StdError;
use std::time::Duration;

use berth_domain::{Error, Meaning, Reference};
use http::{HeaderMap, StatusCode, header};

/// What a failure means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The registry does not have it.
    NotFound,
    /// The registry will not say whether it has it.
    Denied,
    /// Credentials are missing or refused.
    Unauthorized,
    /// No connection could be made.
    Unreachable,
    /// Connected, but down, throttled, stalled or broken off.
    Unavailable,
    /// The answer is not one that a registry may give.
    Broken,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    No,
    Yes,
    /// Not before this has passed.
    After(Duration),
}

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) again: Again,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, again: Again::No, message: message.into() }
    }

    pub(crate) fn broken(message: impl Into<String>) -> Self {
        Self::new(Kind::Broken, message)
    }

    /// Worth another try.
    pub(crate) fn transient(kind: Kind, message: impl Into<String>) -> Self {
        Self { again: Again::Yes, ..Self::new(kind, message) }
    }

    /// Of another server than the registry that was asked: that this one is unreachable says nothing
    /// about which scheme the registry speaks.
    pub(crate) fn elsewhere(mut self) -> Self {
        if self.kind == Kind::Unreachable {
            self.kind = Kind::Unavailable;
        }
        self
    }

    /// From a status that is no success, and the registry's own words if it had any.
    pub(crate) fn of_status(host: &str, status: StatusCode, headers: &HeaderMap, words: &str) -> Self {
        let said = if words.is_empty() { String::new() } else { format!(": {words}") };
        match status {
            StatusCode::NOT_FOUND => Self::new(Kind::NotFound, words),
            StatusCode::UNAUTHORIZED => {
                let words = if words.is_empty() { "unauthorized: authentication required" } else { words };
                Self::new(Kind::Unauthorized, words)
            }
            StatusCode::FORBIDDEN => Self::new(Kind::Denied, words),
            StatusCode::TOO_MANY_REQUESTS => {
                let words =
                    if words.is_empty() { ": toomanyrequests: too many requests".into() } else { said };
                Self {
                    again: retry_after(headers),
                    ..Self::new(Kind::Unavailable, format!("registry {host}{words}"))
                }
            }
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => Self {
                again: if status == StatusCode::NOT_IMPLEMENTED { Again::No } else { retry_after(headers) },
                ..Self::new(Kind::Unavailable, format!("registry {host} answered {status}{said}"))
            },
            status => Self::broken(format!("registry {host} answered {status}{said}")),
        }
    }

    /// As the caller of this crate sees it. `doing` names what was wanted, for the errors that do not.
    pub(crate) fn into_error(self, reference: &Reference, doing: &str) -> Error {
        let (meaning, message) = match self.kind {
            Kind::Denied => {
                // Docker's words; clients look for "pull access denied" (moby daemon/containerd/image_pull.go).
                let said =
                    if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
                return Error::not_found(format!(
                    "pull access denied for {}, repository does not exist or may require 'docker login'{said}",
                    reference.familiar_name()
                ));
            }
            Kind::NotFound => (Meaning::NotFound, format!("{reference}: not found")),
            Kind::Unauthorized => (Meaning::Unauthorized, self.message),
            Kind::Unreachable | Kind::Unavailable => (Meaning::Unavailable, self.message),
            Kind::Broken => (Meaning::Internal, self.message),
        };
        Error::new(meaning, message).context(doing)
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3); without one the caller's own pauses do.
fn retry_after(headers: &HeaderMap) -> Again {
    let Some(value) = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()) else {
        return Again::Yes;
    };
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Again::After(Duration::from_secs(seconds));
    }
    match jiff::fmt::rfc2822::parse(value) {
        Ok(at) => {
            let wait = at.timestamp().duration_since(jiff::Timestamp::now());
            Again::After(Duration::try_from(wait).unwrap_or_default())
        }
        Err(_) => Again::Yes,
    }
}

/// The innermost cause in words: the layers above it ("client error (Connect)") say nothing to a user.
pub(crate) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    if let Some(io) = innermost.downcast_ref::<std::io::Error>() {
        if io.kind() == std::io::ErrorKind::ConnectionRefused {
            return "connection refused".into();
        }
    }
    innermost.to_string()
}

/// Whether a certificate was refused somewhere in the chain: trying again will not change that.
pub(crate) fn is_bad_certificate(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = inner
            .and_then(|e| e.downcast_ref::<rustls::Error>())
            .or_else(|| error.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn after(value: &str) -> Again {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, value.parse().expect("a header value"));
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(after("17"), Again::After(Duration::from_secs(17)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Again::After(Duration::ZERO), "a date gone by");
        assert!(
            matches!(after("Fri, 31 Dec 2100 23:59:59 GMT"), Again::After(d) if d > Duration::from_secs(86400))
        );
        assert_eq!(after("soon"), Again::Yes);
        assert_eq!(retry_after(&HeaderMap::new()), Again::Yes);
    }

    #[test]
    fn errors_speak_docker() {
        let reference: Reference = "nosuch:1".parse().unwrap();
        let doing = format!("failed to resolve reference \"{reference}\"");
        let error = Failure::new(Kind::NotFound, "").into_error(&reference, &doing);
        assert_eq!(
            error.chain(),
            "failed to resolve reference \"docker.io/library/nosuch:1\": docker.io/library/nosuch:1: not found"
        );
        assert_eq!(error.meaning(), Meaning::NotFound);
        let error = Failure::new(Kind::Denied, "").into_error(&reference, &doing);
        assert_eq!(
            error.chain(),
            "pull access denied for nosuch, repository does not exist or may require 'docker login'"
        );
    }
}
