// SPDX-License-Identifier: Apache-2.0
//! Waiting for a condition, with a deadline that only a broken engine meets.

use std::time::{Duration, Instant};

/// Longest wait for anything. Generous: machines are slow and shared, and it is never reached when all is well.
pub const DEADLINE: Duration = Duration::from_secs(if cfg!(feature = "hasty") { 10 } else { 60 });

/// Asks `condition` again and again until it gives a value; panics with `what` at the deadline.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
