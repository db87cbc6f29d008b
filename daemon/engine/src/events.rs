// SPDX-License-Identifier: Apache-2.0
//! Events: a bus with a short memory.

use std::sync::Arc;

use berth_domain::{Event, Filters, Result};

use crate::Engine;
use crate::engine::not_yet;

/// Events as they happen, the remembered ones first. A reader that is too slow misses some.
#[derive(Debug)]
pub struct EventStream {}

impl EventStream {
    /// The next one; `None` when `until` has passed or the engine shuts down.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        None
    }
}

impl Engine {
    /// Listens. Times are Unix nanoseconds. Without `since` nothing is replayed.
    ///
    /// # Errors
    ///
    /// `since` after `until`; an unknown filter.
    pub fn events_subscribe(
        &self,
        _since: Option<i64>,
        _until: Option<i64>,
        _filters: Filters,
    ) -> Result<EventStream> {
        Err(not_yet("events"))
    }
}
