// SPDX-License-Identifier: Apache-2.0
//! Moments on the way of a request, at trace level: `make trace` draws one start from them.

use berth_domain::ContainerId;
use tracing::Level;

/// What the moments are logged under.
const TARGET: &str = "berth::path";

/// A step of a lane has just ended; a lane's first mark, `begin`, says when it began.
pub(crate) fn mark(id: &ContainerId, lane: &str, step: &str) {
    tracing::trace!(target: TARGET, container = id.as_str(), lane, step);
}

/// Whether anybody looks.
pub(crate) fn wanted() -> bool {
    tracing::enabled!(target: TARGET, Level::TRACE)
}
