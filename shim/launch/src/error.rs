// SPDX-License-Identifier: Apache-2.0
//! Errors by meaning.

use std::fmt;

/// What a failure means to whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The program is not in the container: exit code 127 for `docker run`.
    CommandNotFound,
    /// The program cannot be executed: exit code 126 for `docker run`.
    CommandNotExecutable,
    /// The spec asks for something that cannot be.
    InvalidInput,
    /// The container has ended.
    NotRunning,
    /// Anything else: the host refused.
    Internal,
}

/// A failure with its meaning and a sentence that names the step, the path and the cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The meaning.
    pub kind: Kind,
    /// The sentence.
    pub message: String,
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The spec or request is at fault.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { kind: Kind::InvalidInput, message: message.into() }
    }

    /// The host is at fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { kind: Kind::Internal, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Says which operation on what failed.
pub(crate) trait Context<T> {
    /// Turns a system error into an [`Error`] of kind [`Kind::Internal`].
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::internal(format!("{}: {cause}", what())))
    }
}
