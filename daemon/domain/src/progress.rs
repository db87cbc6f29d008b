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
    /// A tag was pushed: for programs.
    Pushed {
        /// The tag.
        tag: String,
        /// Of the manifest or index.
        digest: String,
        /// Its length.
        size: u64,
    },
    /// An index is not all here: only one of its manifests was pushed. Media type, digest and length of each.
    PushedInstead {
        /// What the tag was pulled as.
        index: (String, String, u64),
        /// What was pushed.
        manifest: (String, String, u64),
    },
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
