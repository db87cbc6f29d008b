// SPDX-License-Identifier: Apache-2.0
//! A command on a pseudo-terminal, typed to and read as a person would.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::pty::OpenptFlags;

use super::wait::DEADLINE;

/// A running command and the terminal's other end.
pub struct Pty {
    master: File,
    child: Child,
    seen: String,
}

impl Pty {
    /// Starts the command with the terminal as its stdio and controlling terminal, 40 rows of 120 columns.
    #[must_use]
    pub fn spawn(command: &mut Command) -> Self {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("openpt");
        rustix::pty::grantpt(&master).expect("grantpt");
        rustix::pty::unlockpt(&master).expect("unlockpt");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("ptsname");
        let slave = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .expect("opening the terminal");
        let size = rustix::termios::Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size).expect("setting the size");
        let stdio = || Stdio::from(slave.try_clone().expect("duplicating the terminal"));
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        super::netns::controlling_terminal(command);
        let child = command.spawn().expect("starting a command on a terminal");
        Self { master: File::from(master), child, seen: String::new() }
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("typing");
    }

    /// Changes the terminal's size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).expect("setting the size");
    }

    /// Reads until `text` has been shown since the last call, and returns what was shown up to its end.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(start.elapsed() < DEADLINE, "{text:?} was not shown; shown: {:?}", self.seen);
            assert!(self.read_some(), "the terminal closed before {text:?}; shown: {:?}", self.seen);
        }
    }

    /// Reads to the end and returns the rest of what was shown and the exit code.
    #[must_use]
    pub fn finish(mut self) -> (String, i32) {
        let start = Instant::now();
        while self.read_some() {
            assert!(start.elapsed() < DEADLINE, "the command did not end; shown: {:?}", self.seen);
        }
        let status = self.child.wait().expect("waiting for the command");
        (std::mem::take(&mut self.seen), status.code().unwrap_or(-1))
    }

    /// False at the end.
    fn read_some(&mut self) -> bool {
        let mut poll =
            [rustix::event::PollFd::from_borrowed_fd(self.master.as_fd(), rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        if rustix::event::poll(&mut poll, Some(&timeout)).expect("poll") == 0 {
            return true;
        }
        let mut buffer = [0u8; 4096];
        match self.master.read(&mut buffer) {
            // EIO is how Linux says that the other end has closed.
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
                true
            }
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|s| s.is_none()) {
            self.child.kill().expect("ending the command");
            self.child.wait().expect("waiting for the command");
        }
    }
}
