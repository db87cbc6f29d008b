// SPDX-License-Identifier: Apache-2.0
//! `ContainerLogs`: reading back what containers printed.
//!
//! The shim writes the files; here they are only read. A reader holds open what it has yet to read, so that
//! rotation takes nothing away from it, and follows by inotify on the container's directory and by the container's
//! published state: it polls nothing.

//!
//! ```text
//!  files ── reader ── json | local ── output ── chunks of bytes, framed if asked
//!    └ unpacks what is compressed   └ finds times by halving, last lines from the end
//! ```

mod files;
mod follow;
mod json;
mod local;
mod output;
mod reader;

use berth_domain::{Error, Result};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::Engine;
use crate::files::blocking;
use crate::log_config::LogChoice;
use follow::Follow;
use reader::Reader;

/// How many lines from the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tail {
    /// Everything there is.
    #[default]
    All,
    /// The last so many.
    Last(u64),
}

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Go on as more is printed, until the container ends.
    pub follow: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Unix nanoseconds: nothing older.
    pub since: Option<i64>,
    /// Unix nanoseconds: nothing newer.
    pub until: Option<i64>,
    /// Put the time (RFC 3339, nine digits of nanoseconds) and a space before each line.
    pub timestamps: bool,
    /// Put the attributes (`--log-opt labels=...`) before each line.
    pub details: bool,
    /// How many lines from the end to begin with.
    pub tail: Tail,
    /// A frame a record ([`berth_api::stdcopy`]), for clients that tell the streams apart.
    pub framed: bool,
}

/// Output in the order it was recorded, in pieces of many lines.
#[derive(Debug)]
pub struct LogStream {
    pieces: mpsc::Receiver<Result<Bytes>>,
}

impl LogStream {
    /// The next piece; `None` at the end. Safe to drop while it waits.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        self.pieces.recv().await
    }
}

/// Pieces that wait for a slow client.
const QUEUE: usize = 2;

impl Engine {
    /// Reads a container's log.
    ///
    /// # Errors
    ///
    /// No such container; neither stream chosen; its log driver cannot be read back.
    pub async fn container_logs(&self, name: &str, options: LogOptions) -> Result<LogStream> {
        let handle = self.index.resolve(name)?;
        if !(options.stdout || options.stderr) {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        let now = handle.now();
        let choice = LogChoice::derive(&now.host_config.log_config, &now.config)?;
        let log = choice
            .readable(&now)
            .ok_or_else(|| Error::not_implemented("configured logging driver does not support reading"))?;
        let follow = if options.follow && (now.state.status.has_processes()) {
            // Watching begins before reading, so that nothing falls in between.
            Some(Follow::new(&now.paths.dir, handle.snapshot.clone(), options.until)?)
        } else {
            None
        };
        let reader = blocking(move || Reader::open(log, options)).await?;
        let (sender, pieces) = mpsc::channel(QUEUE);
        self.background(pump(reader, follow, sender, self.closing.clone()));
        Ok(LogStream { pieces })
    }
}

/// Reads batch by batch and hands over what was read; ends when the client has gone.
async fn pump(
    mut reader: Reader,
    mut follow: Option<Follow>,
    sender: mpsc::Sender<Result<Bytes>>,
    closing: crate::cancel::Cancel,
) {
    let reading = async {
        loop {
            // Asked before reading: what is printed before the end is in the log when the end is known.
            let last_round = follow.as_ref().is_none_or(Follow::is_over);
            let batch = blocking(move || {
                let batch = reader.batch();
                Ok((reader, batch))
            })
            .await;
            let (returned, batch) = match batch {
                Ok((returned, batch)) => (returned, batch),
                Err(error) => return send(&sender, Err(error)).await,
            };
            reader = returned;
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return send(&sender, Err(error)).await,
            };
            let more = batch.more;
            if !batch.bytes.is_empty() && sender.send(Ok(batch.bytes)).await.is_err() {
                return;
            }
            if batch.over || (last_round && !more) {
                return;
            }
            if !more {
                match &mut follow {
                    Some(follow) => follow.changed().await,
                    None => return,
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = closing.raised() => {}
        () = sender.closed() => {}
        () = reading => {}
    }
}

async fn send(sender: &mpsc::Sender<Result<Bytes>>, entry: Result<Bytes>) {
    if sender.send(entry).await.is_err() {
        tracing::debug!("a client went away before it could be told of an error");
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
