// SPDX-License-Identifier: Apache-2.0
//! Running an OCI runtime's commands.
//!
//! A command either is waited for (while there is no container yet, or no more), or runs beside the loop
//! as a [`Job`]: a runtime that hangs must not keep the shim from reading output and killing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use berth_shim_proto::{Failure, FailureKind};
use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{Outcome, internal};
use crate::sys;
use crate::watch::{Token, Watch};

/// A command that takes longer is killed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How to call the runtime for one container.
#[derive(Debug)]
pub(crate) struct Cli {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) state: PathBuf,
    pub(crate) bundle: PathBuf,
    pub(crate) id: String,
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) pid: i32,
    /// The verb, for messages.
    pub(crate) verb: &'static str,
    pub(crate) deadline: Instant,
    log: PathBuf,
}

impl Cli {
    /// A command with the global arguments and the verb; its words go to a log file of its own, since its
    /// stderr may be the container's.
    pub(crate) fn command(&self, verb: &'static str, number: u64) -> (Command, PathBuf) {
        let log = self.bundle.join(format!("runtime-{verb}-{number}.log"));
        let mut command = Command::new(&self.program);
        command.args(&self.args).arg("--root").arg(&self.state);
        command.arg("--log").arg(&log).args(["--log-format", "json"]).arg(verb);
        command.current_dir(&self.bundle);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        (command, log)
    }

    /// Runs a command whose arguments after the verb are `args` and waits for it.
    pub(crate) fn run(&self, verb: &'static str, args: &[&str]) -> Outcome<()> {
        let (mut command, log) = self.command(verb, 0);
        command.args(args).arg(&self.id);
        wait(&spawn(command, verb, log)?)
    }

    /// Starts a command with flags before the container's id and operands after it, and leaves it to the loop.
    pub(crate) fn start(
        &self,
        verb: &'static str,
        number: u64,
        flags: &[&str],
        operands: &[&str],
    ) -> Outcome<Job> {
        let (mut command, log) = self.command(verb, number);
        command.args(flags).arg(&self.id).args(operands);
        spawn(command, verb, log)
    }
}

/// Starts a command; the reaper or [`wait`] hears of its end.
pub(crate) fn spawn(mut command: Command, verb: &'static str, log: PathBuf) -> Outcome<Job> {
    sys::unblock_signals(&mut command);
    let child = command.spawn().map_err(|e| internal(&command.get_program().to_string_lossy(), e))?;
    let pid = i32::try_from(child.id()).map_err(|e| internal(verb, e))?;
    Ok(Job { pid, verb, deadline: Instant::now() + PATIENCE, log })
}

/// Waits for a command; only for when nothing else is to be served.
pub(crate) fn wait(job: &Job) -> Outcome<()> {
    let ended = wait_for(job.pid, job.deadline).map_err(|e| internal(job.verb, e))?;
    job.result(ended)
}

fn wait_for(pid: i32, deadline: Instant) -> io::Result<ExitStatus> {
    use std::os::unix::process::ExitStatusExt;
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut ready = Vec::new();
    while ready.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)?;
            break;
        }
        let mut watch = Watch::default();
        watch.add(&pidfd, PollFlags::IN, Token::Signals);
        watch.wait(Some(left), &mut ready)?;
    }
    match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())? {
        Some((_, status)) => Ok(ExitStatus::from_raw(status.as_raw())),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

impl Job {
    /// What came of it, given how it ended.
    pub(crate) fn result(&self, status: ExitStatus) -> Outcome<()> {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        forget(&self.log);
        if status.success() {
            return Ok(());
        }
        let message = last_error(&said).unwrap_or_else(|| {
            let late = if Instant::now() >= self.deadline { ", as it took too long" } else { "" };
            format!("the runtime's {} ended with {status}{late}", self.verb)
        });
        let kind = kind_of(&message);
        Err(Failure { kind, message: in_known_words(kind, message) })
    }
}

/// Clients derive their exit codes from runc's wording (`docker run`: 127 and 126), so that another runtime's gets it
/// in front.
fn in_known_words(kind: FailureKind, message: String) -> String {
    let (known, words): (&[&str], _) = match kind {
        FailureKind::CommandNotFound => (
            &["executable file not found", "no such file or directory"],
            "executable file not found in $PATH",
        ),
        FailureKind::CommandNotExecutable => (&["permission denied"], "permission denied"),
        _ => return message,
    };
    if known.iter().any(|k| message.contains(k)) { message } else { format!("exec: {words}: {message}") }
}

/// Removes a file that may not be there.
pub(crate) fn forget(path: &Path) {
    // It is on a tmpfs in a directory that goes away with the container.
    fs::remove_file(path).ok();
}

/// The last error of a runtime's JSON log.
fn last_error(log: &str) -> Option<String> {
    let errors = log.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    errors.filter(|e| e["level"] == "error").find_map(|e| Some(e["msg"].as_str()?.trim().to_owned()))
}

/// Runtimes tell what went wrong by words alone.
fn kind_of(message: &str) -> FailureKind {
    let lower = message.to_lowercase();
    let command = lower.contains("exec") || lower.contains("open executable");
    if lower.contains("container not running")
        || lower.contains("does not exist")
        || lower.contains("is not running")
    {
        FailureKind::NotRunning
    } else if lower.contains("executable file") && lower.contains("not found")
        || command && lower.contains("no such file or directory")
    {
        FailureKind::CommandNotFound
    } else if command && (lower.contains("permission denied") || lower.contains("exec format error")) {
        FailureKind::CommandNotExecutable
    } else {
        FailureKind::Internal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_the_words_that_they_look_for() {
        let said = |message: &str| in_known_words(kind_of(message), message.to_owned());
        let crun = said("executable file `x` not found in $PATH: No such file or directory");
        assert!(crun.starts_with("exec: executable file not found in $PATH: "), "{crun}");
        assert_eq!(
            said("exec: \"x\": executable file not found in $PATH"),
            "exec: \"x\": executable file not found in $PATH"
        );
        assert!(said("open executable: Permission denied").starts_with("exec: permission denied: "));
        assert_eq!(said("mount `proc`: Invalid argument"), "mount `proc`: Invalid argument");
    }

    #[test]
    fn failures_by_their_words() {
        let check = |message: &str, kind| assert_eq!(kind_of(message), kind, "{message}");
        check(
            "executable file `nosuch` not found in $PATH: No such file or directory",
            FailureKind::CommandNotFound,
        );
        check(
            "unable to start container process: error during container init: exec: \"nosuch\": executable file not found in $PATH",
            FailureKind::CommandNotFound,
        );
        check("open executable: Permission denied", FailureKind::CommandNotExecutable);
        check("exec: \"/etc\": permission denied", FailureKind::CommandNotExecutable);
        check("container not running", FailureKind::NotRunning);
        check("mount `proc`: Invalid argument", FailureKind::Internal);
    }

    #[test]
    fn the_last_error_counts() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"one\"}\n{\"level\":\"error\",\"msg\":\"two\\n\"}\nnot json\n";
        assert_eq!(last_error(log).as_deref(), Some("two"));
        assert_eq!(last_error(""), None);
    }
}
