// SPDX-License-Identifier: Apache-2.0
//! The other role of this program: a container's init (`--init`), which reaps, forwards signals and ends as its only child does.
//!
//! It is the same file because a program for every container has to be static and small, and this one is; the daemon
//! mounts a copy of it as `/sbin/docker-init`, and that name is what chooses the role. The child is leader of a process
//! group, and of the terminal's foreground if there is a terminal, so that keys reach it and not this process too.

use std::ffi::{OsStr, OsString};
use std::io::Result;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::{WaitOptions, wait};

use crate::say::say;
use crate::sys::{self, AllSignals};

/// What it is called in containers, here as in the reference engine.
const NAME: &str = "docker-init";

/// Whether a program called so is to be an init.
pub(crate) fn is_asked_for(program: Option<&OsStr>) -> bool {
    program.is_some_and(|path| Path::new(path).file_name() == Some(OsStr::new(NAME)))
}

/// Runs a program to its end and returns its exit code; 128 and more for the signal that ended it.
pub(crate) fn run(args: impl Iterator<Item = OsString>) -> i32 {
    let mut args = args.peekable();
    if args.peek().is_some_and(|first| first.as_bytes() == b"--") {
        args.next();
    }
    let Some(program) = args.next() else {
        say!("{NAME}: no program to run");
        return 1;
    };
    let signals = match sys::block_all_signals() {
        Ok(signals) => signals,
        Err(error) => {
            say!("{NAME}: {error}");
            return 1;
        }
    };
    let mut command = Command::new(&program);
    command.args(args);
    sys::lead_foreground(&mut command);
    let child = match command.spawn() {
        // Reaped below with all others.
        Ok(child) => child.id(),
        Err(error) => {
            say!("{NAME}: exec {}: {error}", program.to_string_lossy());
            return match error.kind() {
                std::io::ErrorKind::NotFound => 127,
                std::io::ErrorKind::PermissionDenied => 126,
                _ => 1,
            };
        }
    };
    match attend(i32::try_from(child).unwrap_or(i32::MAX), &signals) {
        Ok(code) => code,
        Err(error) => {
            say!("{NAME}: {error}");
            1
        }
    }
}

fn attend(child: i32, signals: &AllSignals) -> Result<i32> {
    loop {
        let signal = signals.wait()?;
        if signal != sys::SIGCHLD {
            sys::kill(child, signal);
            continue;
        }
        // Signals of the same kind are merged: whoever has ended by now is reaped.
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() == child {
                let signalled = status.terminating_signal().map(|signal| 128 + signal);
                ended = Some(status.exit_status().or(signalled).unwrap_or(1));
            }
        }
        if let Some(code) = ended {
            return Ok(code);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_name_chooses_the_role() {
        let check = |name: &str| is_asked_for(Some(OsStr::new(name)));
        assert!(check("/sbin/docker-init") && check("docker-init"));
        assert!(!check("berth-shim") && !check("/x/docker-init/berth-shim") && !is_asked_for(None));
    }
}
