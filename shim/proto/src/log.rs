// SPDX-License-Identifier: Apache-2.0
//! Where a container's output is recorded.

use serde::{Deserialize, Serialize};

/// Where a container's output is recorded; nowhere by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// A file that can be read back.
    #[serde(default)]
    pub file: Option<LogFile>,
    /// Another program that is told each line.
    #[serde(default)]
    pub sink: Option<LogSink>,
}

/// A log file and its rotated predecessors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// The current file; older ones get `.1`, `.2`, ..., with `.gz` behind it once compressed.
    pub path: String,
    /// How records are written.
    #[serde(default)]
    pub format: LogFormat,
    /// Rotate when the file would pass this many bytes; `None` never rotates.
    #[serde(default)]
    pub max_size: Option<u64>,
    /// Files kept, the current one included; at least 1.
    #[serde(default)]
    pub max_files: u32,
    /// Compress rotated files (gzip) when there is time for it.
    #[serde(default)]
    pub compress: bool,
    /// A JSON object that belongs to every record (labels, env, tag options): in each line of a json file, once
    /// at the head of a local one.
    #[serde(default)]
    pub attrs: Option<String>,
}

/// How a log file's records are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// Docker's json-file format: `{"log":"...\n","stream":"stdout","time":"RFC3339Nano"}` lines.
    #[default]
    Json,
    /// [`crate::local`].
    Local,
}

/// A program that is told each line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSink {
    /// Who, and in what words.
    pub kind: SinkKind,
    /// Where.
    pub address: SinkAddress,
    /// Bytes of messages kept while it does not take them.
    pub buffer: u64,
    /// When the buffer is full: drop what comes (`mode=non-blocking`) rather than let the container wait.
    #[serde(default)]
    pub lossy: bool,
}

/// What a sink's messages look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SinkKind {
    /// systemd-journald's native protocol.
    Journald {
        /// Fields of every entry.
        fields: Vec<(String, String)>,
    },
    /// Syslog.
    Syslog {
        /// The layout of a message.
        format: SyslogFormat,
        /// Facility number, 0 to 23.
        facility: u8,
        /// Whose messages they are.
        tag: String,
        /// The host's name.
        hostname: String,
        /// Seconds east of UTC, for the layouts that have local time without saying where.
        utc_offset: i32,
    },
}

/// The layout of a syslog message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyslogFormat {
    /// As for a host's own syslog: RFC 3164 without a host name.
    Unix,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424, times in seconds.
    Rfc5424,
    /// RFC 5424, times in microseconds.
    Rfc5424Micro,
}

/// Where a sink listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SinkAddress {
    /// `address:port`, a literal address.
    Udp(String),
    /// `address:port`, a literal address.
    Tcp(String),
    /// A stream socket's path.
    Unix(String),
    /// A datagram socket's path.
    UnixDatagram(String),
}
