// SPDX-License-Identifier: Apache-2.0
//! Raw mode, and the certainty that it ends.
//!
//! The terminal outlives this process. Whatever way the process goes (return, panic, a signal that it
//! handles), the modes that were found are put back: by the guard's drop, by the panic hook, or by
//! [`restore`] from the signal loop.

use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// What standard input's terminal was like before.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode for as long as it lives.
pub(crate) struct Raw(());

impl Raw {
    /// Puts standard input's terminal into raw mode.
    pub(crate) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        {
            let mut saved = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
            if saved.is_none() {
                *saved = Some(before);
                let hook = std::panic::take_hook();
                std::panic::set_hook(Box::new(move |panic| {
                    restore();
                    hook(panic);
                }));
            }
        }
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts back what was found. Harmless when nothing was changed.
pub(crate) fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        // Nothing better can be done about a terminal that has gone.
        tcsetattr(io::stdin(), OptionalActions::Now, before).ok();
    }
}
