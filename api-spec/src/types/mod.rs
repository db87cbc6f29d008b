// SPDX-License-Identifier: Apache-2.0
//! Bodies of requests and answers, in the newest version's shape. Differences between versions are
//! made at the daemon's door, not here.

pub mod container;
pub mod container_create;
pub mod event;
pub mod exec;
pub mod image;
pub mod network;
pub mod stats;
pub mod system;
pub mod volume;

use serde::{Deserialize, Serialize};

/// The time that Go writes for "never".
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Every error's body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// For a person; some clients match on parts of it.
    pub message: String,
}

/// What a blob is and where it is found (OCI image spec, descriptor.md).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // The names are the specification's own.
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformSpec>,
}

/// `platform` of a descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct PlatformSpec {
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// One line of a progress stream (`pull`, `push`, `build`, `load`, `import`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProgressLine {
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// What is going on with `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// For the bar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    /// The bar drawn in text, which older clients print.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// What it is about: a layer's short id, a tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How it failed; the last line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ProgressError>,
    /// The same, for older clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Results for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

/// How far a step is, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProgressDetail {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hidecounts: bool,
}

/// A failure inside a progress stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProgressError {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    pub message: String,
}

impl ProgressLine {
    /// The line that ends a stream that failed after it began.
    #[must_use]
    pub fn failed(message: &str) -> Self {
        Self {
            error_detail: Some(ProgressError { code: None, message: message.to_owned() }),
            error: Some(message.to_owned()),
            ..Self::default()
        }
    }

    /// As it goes over the wire: one JSON object and `\r\n`. `<`, `>` and `&` are escaped as Go does in
    /// these streams.
    #[must_use]
    pub fn to_line(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        let mut line = String::with_capacity(json.len() + 2);
        for c in json.chars() {
            match c {
                '<' => line.push_str("\\u003c"),
                '>' => line.push_str("\\u003e"),
                '&' => line.push_str("\\u0026"),
                other => line.push(other),
            }
        }
        line.push_str("\r\n");
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_and_crlf() {
        let line = ProgressLine { stream: Some(" ---> 1<2&".into()), ..ProgressLine::default() };
        assert_eq!(line.to_line(), "{\"stream\":\" ---\\u003e 1\\u003c2\\u0026\"}\r\n");
        assert_eq!(
            ProgressLine::failed("no").to_line(),
            "{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no\"}\r\n"
        );
        let pulling = ProgressLine {
            status: Some("Pulling fs layer".into()),
            progress_detail: Some(ProgressDetail::default()),
            id: Some("c5789f18efb4".into()),
            ..ProgressLine::default()
        };
        assert_eq!(
            pulling.to_line(),
            "{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"c5789f18efb4\"}\r\n"
        );
    }
}
