// SPDX-License-Identifier: Apache-2.0
//! How much volumes hold, for `system df`.
//!
//! A volume with a quota is on the kernel's account, which is read and not computed. Any other has to be walked. What
//! was measured is told again for a while, and the longer the walk took, the longer: a volume of a few files is as good as
//! always measured anew, and one of millions costs its disk no more than a fiftieth of the time, however often `df` is asked.

use std::path::Path;
use std::time::{Duration, Instant};

use berth_domain::Result;

use crate::disk;
use crate::store::{Volume, Volumes};

/// So many times as long as the measuring took.
const TOLD_AGAIN: u32 = 50;

/// A size and until when it is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    bytes: u64,
    until: Instant,
}

impl Measured {
    fn new(bytes: u64, took: Duration) -> Self {
        let now = Instant::now();
        let until = took.checked_mul(TOLD_AGAIN).and_then(|while_| now.checked_add(while_)).unwrap_or(now);
        Self { bytes, until }
    }
}

impl Volumes {
    /// Bytes that a volume's content takes on disk; `None` for what is not on the engine's own disk.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        let volume = self.known(name)?;
        if !volume.is_plain()? {
            return Ok(None);
        }
        if let Some(bytes) = accounted(&volume) {
            return Ok(Some(bytes));
        }
        if let Some(known) = self.measured(name)?.filter(|known| Instant::now() < known.until) {
            return Ok(Some(known.bytes));
        }
        let since = Instant::now();
        let bytes = disk::size(&volume.mountpoint)?;
        self.set_measured(name, Measured::new(bytes, since.elapsed()));
        Ok(Some(bytes))
    }
}

/// What the kernel counted.
fn accounted(volume: &Volume) -> Option<u64> {
    let directory: &Path = &volume.mountpoint;
    berth_sys::quota::usage(directory, volume.project?).ok().map(|(bytes, _)| bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn what_was_measured_is_told_again_for_as_long_as_it_took() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(&dir.path().join("volumes")).unwrap();
        let volume = volumes.create(Some("walked"), "local", None, None).unwrap();
        std::fs::write(volume.mountpoint.join("f"), "12345").unwrap();
        assert_eq!(volumes.size("walked").unwrap(), Some(5));
        // A walk of a minute is not repeated for an hour's quarter; one of no time is as good as none.
        volumes.set_measured("walked", Measured::new(99, Duration::from_secs(60)));
        assert_eq!(volumes.size("walked").unwrap(), Some(99));
        volumes.set_measured("walked", Measured::new(99, Duration::ZERO));
        assert_eq!(volumes.size("walked").unwrap(), Some(5));
    }
}
