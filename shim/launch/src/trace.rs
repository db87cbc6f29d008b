// SPDX-License-Identifier: Apache-2.0
//! Moments of a launch, for who asks where its time goes: a line on standard error for each, `trace NANOSECONDS LANE STEP`
//! (Unix time), of which the child's end when its standard error becomes the container's.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

static WANTED: AtomicBool = AtomicBool::new(false);

/// From now on.
pub fn begin() {
    WANTED.store(true, Ordering::Relaxed);
}

/// A step of a lane has just ended; a lane's first mark, `begin`, says when it began.
pub fn mark(lane: &str, step: &str) {
    if WANTED.load(Ordering::Relaxed) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = format!("trace {} {lane} {step}\n", now.as_nanos());
        // A trace that cannot be written is missed by who reads it.
        std::io::stderr().write_all(line.as_bytes()).ok();
    }
}
