// SPDX-License-Identifier: Apache-2.0
//! Freezing and thawing.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::groups::{PATIENCE, keyed, wait_until, write_file};
use crate::error::{Context as _, Error, Result};

pub(super) fn freeze_v1(state: &Path, frozen: bool) -> Result<()> {
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    let what = || state.display().to_string();
    let result = wait_until(&format!("{wanted} in {}", state.display()), || {
        // Written again each time: a process that forked just then is caught by the next try.
        let mut file = fs::OpenOptions::new().read(true).write(true).open(state).context(what)?;
        file.write_all(wanted.as_bytes()).context(what)?;
        let mut text = String::new();
        let mut file = fs::File::open(state).context(what)?;
        file.read_to_string(&mut text).context(what)?;
        Ok(text.trim() == wanted)
    });
    if frozen && result.is_err() {
        // Half frozen is worse than not frozen.
        write_file(state, "THAWED").context(what)?;
    }
    result
}

pub(super) fn freeze_v2(directory: &Path, frozen: bool) -> Result<()> {
    let events = directory.join("cgroup.events");
    let what = || events.display().to_string();
    let mut file = fs::File::open(&events).context(what)?;
    let control = directory.join("cgroup.freeze");
    write_file(&control, if frozen { "1" } else { "0" }).context(|| control.display().to_string())?;
    let start = std::time::Instant::now();
    loop {
        let mut text = String::new();
        io::Seek::rewind(&mut file).context(what)?;
        file.read_to_string(&mut text).context(what)?;
        if keyed(&text, "frozen") == Some(u64::from(frozen)) {
            return Ok(());
        }
        let left = PATIENCE.saturating_sub(start.elapsed());
        if left.is_zero() {
            write_file(&control, "0").context(|| control.display().to_string())?;
            return Err(Error::internal(format!("{}: not frozen in time", directory.display())));
        }
        let timeout = rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::internal(format!("poll {}: {errno}", events.display()))),
        }
    }
}
