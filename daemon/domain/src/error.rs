// SPDX-License-Identifier: Apache-2.0
//! Errors by meaning. The one map from meaning to HTTP status is in `berthd`.

use std::fmt;

/// What an error means to whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// What was named does not exist.
    NotFound,
    /// The request cannot be: a field, its value and the remedy are in the message.
    InvalidInput,
    /// The request collides with what is there (a name taken, an image in use, a wrong state).
    Conflict,
    /// It is already so.
    NotModified,
    /// Not allowed, whoever asks.
    Forbidden,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// Not now: a queue is full, a registry is down, the engine is stopping.
    Unavailable,
    /// The engine does not have this feature.
    NotImplemented,
    /// The request was given up by its client or by shutdown.
    Cancelled,
    /// The engine or the host failed.
    Internal,
}

/// An error: its meaning, what happened at this level, and what caused it.
///
/// `Display` says only this level; [`Error::chain`] joins all of them, as clients are shown.
#[derive(Debug)]
pub struct Error {
    meaning: Meaning,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $meaning:ident;)*) => {
        impl Error {$(
            $(#[$doc])*
            #[must_use]
            pub fn $name(message: impl Into<String>) -> Self {
                Self::new(Meaning::$meaning, message)
            }
        )*}
    };
}

constructors! {
    /// [`Meaning::NotFound`].
    not_found => NotFound;
    /// [`Meaning::InvalidInput`].
    invalid => InvalidInput;
    /// [`Meaning::Conflict`].
    conflict => Conflict;
    /// [`Meaning::NotModified`].
    not_modified => NotModified;
    /// [`Meaning::Forbidden`].
    forbidden => Forbidden;
    /// [`Meaning::Unauthorized`].
    unauthorized => Unauthorized;
    /// [`Meaning::Unavailable`].
    unavailable => Unavailable;
    /// [`Meaning::NotImplemented`].
    not_implemented => NotImplemented;
    /// [`Meaning::Cancelled`].
    cancelled => Cancelled;
    /// [`Meaning::Internal`].
    internal => Internal;
}

impl Error {
    /// An error of this meaning.
    #[must_use]
    pub fn new(meaning: Meaning, message: impl Into<String>) -> Self {
        Self { meaning, message: message.into(), source: None }
    }

    /// Adds what caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts a level on top that says what was being done; the meaning stays.
    #[must_use]
    pub fn context(self, doing: impl Into<String>) -> Self {
        Self { meaning: self.meaning, message: doing.into(), source: Some(Box::new(self)) }
    }

    /// An operation on a path that the kernel refused.
    #[must_use]
    pub fn io(doing: &str, path: impl AsRef<std::path::Path>, error: impl Into<std::io::Error>) -> Self {
        Self::internal(format!("{doing} {}", path.as_ref().display())).because(error.into())
    }

    /// The meaning.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        self.meaning
    }

    /// All levels joined by `: `, outermost first.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_every_level_once() {
        let error = Error::io("opening", "/nope", std::io::Error::from_raw_os_error(2)).context("starting x");
        assert_eq!(error.to_string(), "starting x");
        assert_eq!(error.chain(), "starting x: opening /nope: No such file or directory (os error 2)");
        assert_eq!(error.meaning(), Meaning::Internal);
    }
}
