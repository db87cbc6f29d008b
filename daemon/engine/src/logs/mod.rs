// SPDX-License-Identifier: Apache-2.0
//! `ContainerLogs`: reading back what containers printed.

use berth_domain::Result;
use bytes::Bytes;

use crate::Engine;
use crate::engine::not_yet;

/// How many lines from the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tail {
    /// Everything there is.
    #[default]
    All,
    /// The last so many.
    Last(u64),
}

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Go on as more is printed, until the container ends.
    pub follow: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Unix nanoseconds: nothing older.
    pub since: Option<i64>,
    /// Unix nanoseconds: nothing newer.
    pub until: Option<i64>,
    /// Put the time (RFC 3339, nine digits of nanoseconds) and a space before each line.
    pub timestamps: bool,
    /// Put the attributes (`--log-opt labels=...`) before each line.
    pub details: bool,
    /// How many lines from the end to begin with.
    pub tail: Tail,
}

/// One piece of output, as printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Whether it went to standard error.
    pub stderr: bool,
    /// The bytes, with their line end if they had one.
    pub bytes: Bytes,
}

/// Output in the order it was recorded.
#[derive(Debug)]
pub struct LogStream {}

impl LogStream {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<LogEntry>> {
        None
    }
}

impl Engine {
    /// Reads a container's log.
    ///
    /// # Errors
    ///
    /// No such container; neither stream chosen; its log driver cannot be read back.
    pub async fn container_logs(&self, _name: &str, _options: LogOptions) -> Result<LogStream> {
        Err(not_yet("logs"))
    }
}
