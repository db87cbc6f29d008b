// SPDX-License-Identifier: Apache-2.0
//! Making the pipes and terminals between a process and the shim.

use std::os::fd::{AsFd, OwnedFd};

use berth_shim_proto::TerminalSize;
use rustix::fs::{Mode, OFlags};
use rustix::io::Result;
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;

/// The shim's ends of a process's streams.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Read ends of stdout and stderr.
    pub(super) outputs: [Option<OwnedFd>; 2],
    pub(super) stdin: Option<OwnedFd>,
    pub(super) pty: Option<OwnedFd>,
    pub(super) slave: Option<OwnedFd>,
}

/// Which streams of a process lead to the shim; the others are `/dev/null`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// Pipes for a process without a terminal: its stdin, stdout and stderr, and our ends.
pub(crate) fn pipes(wanted: Wanted) -> Result<([OwnedFd; 3], Ends)> {
    let mut ends = Ends::default();
    let stdin = if wanted.stdin {
        let (theirs, ours) = pipe()?;
        ends.stdin = Some(nonblocking(ours)?);
        theirs
    } else {
        null()?
    };
    let mut output = |wanted: bool, place: usize| -> Result<OwnedFd> {
        if !wanted {
            return null();
        }
        let (ours, theirs) = pipe()?;
        ends.outputs[place] = Some(nonblocking(ours)?);
        Ok(theirs)
    };
    let stdout = output(wanted.stdout, 0)?;
    let stderr = output(wanted.stderr, 1)?;
    Ok(([stdin, stdout, stderr], ends))
}

/// Our ends of a terminal.
pub(crate) fn terminal(master: OwnedFd, with_stdin: bool) -> Result<Ends> {
    let master = nonblocking(master)?;
    let output = duplicate(&master)?;
    let stdin = if with_stdin { Some(duplicate(&master)?) } else { None };
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC,
    )
    .ok();
    Ok(Ends { outputs: [Some(output), None], stdin, pty: Some(master), slave })
}

pub(crate) fn resize(terminal: impl AsFd, size: TerminalSize) -> Result<()> {
    rustix::termios::tcsetwinsize(
        terminal,
        Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 },
    )
}

/// `/dev/null`, for reading and writing.
pub(crate) fn null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

fn nonblocking(fd: OwnedFd) -> Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    Ok(fd)
}
