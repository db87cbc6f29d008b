// SPDX-License-Identifier: Apache-2.0
//! The daemon's own limits.

use std::io;

use rustix::process::{Resource, Rlimit};

/// Raises the soft limit of open files to the hard one; answers it (`None` is no limit).
///
/// # Errors
///
/// The kernel refused.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum)
}

/// This process's readiness to be killed for memory, -1000 to 1000.
///
/// # Errors
///
/// `/proc` is missing.
pub fn oom_score_adj() -> io::Result<i32> {
    std::fs::read_to_string("/proc/self/oom_score_adj")?
        .trim()
        .parse()
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Sets it. Lowering needs `CAP_SYS_RESOURCE`.
///
/// # Errors
///
/// Not permitted.
pub fn set_oom_score_adj(value: i32) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", value.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_soft_limit_reaches_the_hard_one() {
        let limit = raise_open_files().unwrap();
        assert_eq!(rustix::process::getrlimit(Resource::Nofile).current, limit);
        assert!((-1000..=1000).contains(&oom_score_adj().unwrap()));
    }
}
