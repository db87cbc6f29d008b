// SPDX-License-Identifier: Apache-2.0
//! What a long operation on images tells while it works. Each variant is one line of the API's
//! progress streams; `berthd` gives it its JSON shape.

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// A line about one thing (a layer's short id, a tag): `Pulling fs layer`, `Download complete`, ...
    Status {
        /// What it is about; empty for a line of its own.
        id: String,
        /// The words that clients draw.
        status: String,
        /// Bytes done and in all; `None` draws no bar.
        bytes: Option<(u64, u64)>,
    },
    /// Free text (`load`, `build`).
    Stream(String),
}

impl Progress {
    /// A line without a bar.
    #[must_use]
    pub fn status(id: impl Into<String>, status: impl Into<String>) -> Self {
        Self::Status { id: id.into(), status: status.into(), bytes: None }
    }
}

/// Where progress goes. Called often and from several threads; must not block for long. Returns false
/// when nobody listens any more: the operation may then be given up if nobody else wants it.
pub type Sink = std::sync::Arc<dyn Fn(Progress) -> bool + Send + Sync>;
