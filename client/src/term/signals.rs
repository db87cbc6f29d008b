// SPDX-License-Identifier: Apache-2.0
//! Signals while a container is attached: passed on to it, or at least not the end of the terminal.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::raw;
use crate::api::{Api, Ask};

/// Those that a shell or an init system sends to end or poke a program, by the names that `kill` takes.
const FORWARDED: &[(i32, &str)] = &[
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
];

/// Signals that have been caught.
pub(crate) struct Caught {
    signals: Vec<(i32, &'static str, Signal)>,
}

impl Caught {
    /// From now on these signals do what they should for a container that is attached with `proxy`.
    pub(crate) fn all() -> io::Result<Self> {
        Self::these(FORWARDED.iter())
    }

    /// Those that would end us and leave the terminal raw.
    pub(crate) fn deadly() -> io::Result<Self> {
        Self::these(FORWARDED.iter().filter(|(_, name)| matches!(*name, "HUP" | "INT" | "QUIT" | "TERM")))
    }

    fn these<'a>(which: impl Iterator<Item = &'a (i32, &'static str)>) -> io::Result<Self> {
        let signals = which
            .map(|&(number, name)| Ok((number, name, signal(SignalKind::from_raw(number))?)))
            .collect::<io::Result<_>>()?;
        Ok(Self { signals })
    }

    /// The next one, by number and name.
    pub(crate) async fn next(&mut self) -> (i32, &'static str) {
        std::future::poll_fn(|cx| {
            for (number, name, signal) in &mut self.signals {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready((*number, *name));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Sends every signal on to the container, for ever.
    pub(crate) async fn forward(&mut self, api: &Api, container: &str) -> ! {
        loop {
            let (_, name) = self.next().await;
            let ask = Ask::post(format!("/containers/{container}/kill")).with("signal", name);
            // It may have ended meanwhile; that will show elsewhere.
            api.done(ask).await.ok();
        }
    }

    /// Waits for a deadly one, then puts the terminal back and ends the process as the signal would.
    pub(crate) async fn die(&mut self) -> ! {
        let (number, _) = self.next().await;
        raw::restore();
        std::process::exit(128 + number);
    }
}

/// Tells the container about the terminal's size, now and whenever it changes. `path` is what is resized
/// (`/containers/<id>`, `/exec/<id>`).
pub(crate) async fn follow_size(api: &Api, path: &str) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
    let mut told = None;
    loop {
        if let Some((rows, columns)) = super::size(io::stdout()).filter(|size| told != Some(*size)) {
            let ask = Ask::post(format!("{path}/resize"))
                .with("h", &rows.to_string())
                .with("w", &columns.to_string());
            match api.done(ask).await {
                Ok(()) => told = Some((rows, columns)),
                // Not running yet, or no longer: the next change will try again.
                Err(_) => told = None,
            }
        }
        if changed.recv().await.is_none() {
            return;
        }
    }
}
