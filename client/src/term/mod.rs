// SPDX-License-Identifier: Apache-2.0
//! The user's terminal: raw mode, size, streams to and from a container, signals.

pub(crate) mod keys;
pub(crate) mod pump;
pub(crate) mod raw;
pub(crate) mod signals;

use std::os::fd::AsFd;

/// Rows and columns; `None` where there is no terminal.
pub(crate) fn size(fd: impl AsFd) -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(fd).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

pub(crate) fn is_terminal(fd: impl AsFd) -> bool {
    rustix::termios::isatty(fd)
}
