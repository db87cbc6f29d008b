// SPDX-License-Identifier: Apache-2.0
//! What the shim has to tell an operator: lines on standard error, which the daemon points at shim.log.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The log lies on a tmpfs and nobody rotates it.
const LINES: u32 = 1000;

static SAID: AtomicU32 = AtomicU32::new(0);

/// Writes a line to shim.log.
macro_rules! say {
    ($($arg:tt)*) => { $crate::say::line(format_args!($($arg)*)) };
}
pub(crate) use say;

pub(crate) fn line(text: Arguments<'_>) {
    if SAID.fetch_add(1, Ordering::Relaxed) >= LINES {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = format!("{}.{:03} {text}\n", now.as_secs(), now.subsec_millis());
    // There is nobody left to tell that this failed.
    std::io::stderr().write_all(line.as_bytes()).ok();
}
