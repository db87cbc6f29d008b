// SPDX-License-Identifier: Apache-2.0
//! Processes by descriptor: a pid may be reused, a pidfd never is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

/// A process.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: i32,
}

impl PidFd {
    /// The process that has this pid now. Safe for a child that has not been reaped; for others see [`Self::open_started`].
    ///
    /// # Errors
    ///
    /// No such process (`ESRCH`).
    pub fn open(pid: i32) -> io::Result<Self> {
        let valid = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(Errno::SRCH)?;
        let fd = rustix::process::pidfd_open(valid, PidfdFlags::empty())?;
        Ok(Self { fd, pid })
    }

    /// The process of this pid that started at this time (see [`start_time`]); `None` if it has gone, whoever has the pid now.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn open_started(pid: i32, started: u64) -> io::Result<Option<Self>> {
        let gone = |e: &io::Error| {
            e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(Errno::SRCH.raw_os_error())
        };
        // The order matters: the descriptor is held first, so that the pid cannot change hands after the comparison.
        let fd = match Self::open(pid) {
            Ok(fd) => fd,
            Err(e) if gone(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        match start_time(pid) {
            Ok(found) if found == started => Ok(Some(fd)),
            Ok(_) => Ok(None),
            Err(e) if gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Its pid, for people and records.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal; false if the process has ended.
    ///
    /// # Errors
    ///
    /// Not permitted.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Kills it; false if it had ended.
    ///
    /// # Errors
    ///
    /// Not permitted.
    pub fn kill(&self) -> io::Result<bool> {
        self.signal(Signal::KILL)
    }

    /// Whether it has ended (it may be a zombie still).
    ///
    /// # Errors
    ///
    /// The kernel refused to poll.
    pub fn has_ended(&self) -> io::Result<bool> {
        self.wait(std::time::Duration::ZERO)
    }

    /// Waits for its end; false when the time is over.
    ///
    /// # Errors
    ///
    /// The kernel refused to poll.
    pub fn wait(&self, limit: std::time::Duration) -> io::Result<bool> {
        let deadline = std::time::Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match rustix::event::poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
                Ok(n) => return Ok(n > 0),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Collects a child that has ended, without waiting; true once nothing is left to collect, be it that it was no child of ours.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn reap(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(self.fd.as_fd()), options)) {
            Ok(status) => Ok(status.is_some()),
            Err(Errno::CHILD) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// When a process started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
///
/// # Errors
///
/// No such process.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: no start time")))
}

/// How long a process has been there, by a clock that nobody sets.
///
/// # Errors
///
/// No such process.
pub fn age(pid: i32) -> io::Result<std::time::Duration> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = std::time::Duration::try_from(now).unwrap_or_default();
    Ok(age_at(start_time(pid)?, rustix::param::clock_ticks_per_second(), now))
}

/// Both since boot.
fn age_at(started: u64, ticks_per_second: u64, now: std::time::Duration) -> std::time::Duration {
    let ticks = ticks_per_second.max(1);
    let started = std::time::Duration::from_secs(started / ticks)
        + std::time::Duration::from_millis(started % ticks * 1000 / ticks);
    now.saturating_sub(started)
}

/// The name in field 2 may hold spaces and parentheses: fields are counted from its last `)`.
fn parse_start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(parse_start_time(&format!("7 (a) b) c) {tail}")), Some(4242));
        assert_eq!(parse_start_time("7 (x) S 1"), None);
    }

    #[test]
    fn an_age_is_that_of_the_process_and_not_of_the_clock() {
        use std::time::Duration;
        assert_eq!(age_at(1234, 100, Duration::from_secs(20)), Duration::from_millis(7660));
        assert_eq!(age_at(0, 100, Duration::from_secs(20)), Duration::from_secs(20));
        assert_eq!(age_at(5000, 100, Duration::from_secs(20)), Duration::ZERO, "of another boot");
        let mine = age(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(mine < age(1).unwrap(), "{mine:?}");
        age(0).expect_err("there is no process 0");
    }

    #[test]
    fn a_child_is_killed_and_collected_once() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let started = start_time(pid).unwrap();
        let fd = PidFd::open_started(pid, started).unwrap().expect("it runs");
        assert!(PidFd::open_started(pid, started + 1).unwrap().is_none());
        assert!(!fd.has_ended().unwrap());
        assert!(!fd.reap().unwrap());
        assert!(fd.kill().unwrap());
        assert!(fd.wait(std::time::Duration::from_secs(60)).unwrap());
        assert!(fd.reap().unwrap());
        assert!(fd.reap().unwrap());
        assert!(!fd.kill().unwrap());
        assert!(child.wait().is_err(), "already collected");
    }
}
