// SPDX-License-Identifier: Apache-2.0
//! `ContainerLogs`: reading back what containers printed.
//!
//! The shim writes the files; here they are only read. A reader holds open what it has yet to read, so that
//! rotation takes nothing away from it, and follows by inotify on the container's directory and by the container's
//! published state: it polls nothing.

mod follow;
mod line;
mod reader;

use std::pin::Pin;
use std::task::{Context, Poll};

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
}

/// One piece of output, as printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Whether it went to standard error.
    pub stderr: bool,
    /// The bytes, with their line end if they had one.
    pub bytes: Bytes,
}

/// Output in the order it was recorded.
#[derive(Debug)]
pub struct LogStream {
    entries: mpsc::Receiver<Result<LogEntry>>,
}

impl LogStream {
    /// The next piece; `None` at the end. Safe to drop while it waits.
    pub async fn next(&mut self) -> Option<Result<LogEntry>> {
        self.entries.recv().await
    }

    /// The same for hand-written streams.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<LogEntry>>> {
        Pin::new(&mut self.entries).poll_recv(context)
    }
}

/// Pieces that wait for a slow client.
const QUEUE: usize = 128;

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
        let LogChoice::JsonFile { max_files, .. } = choice else {
            return Err(Error::not_implemented("configured logging driver does not support reading"));
        };
        let follow = if options.follow && (now.state.status.has_processes()) {
            // Watching begins before reading, so that nothing falls in between.
            Some(Follow::new(&now.paths.dir, handle.snapshot.clone(), options.until)?)
        } else {
            None
        };
        let path = now.paths.json_log(&now.id);
        let reader = blocking(move || Reader::open(path, max_files, options)).await?;
        let (sender, entries) = mpsc::channel(QUEUE);
        self.background(pump(reader, follow, sender, self.closing.clone()));
        Ok(LogStream { entries })
    }
}

/// Reads batch by batch and hands over what was read; ends when the client has gone.
async fn pump(
    mut reader: Reader,
    mut follow: Option<Follow>,
    sender: mpsc::Sender<Result<LogEntry>>,
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
            for entry in batch.entries {
                if sender.send(Ok(entry)).await.is_err() {
                    return;
                }
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

async fn send(sender: &mpsc::Sender<Result<LogEntry>>, entry: Result<LogEntry>) {
    if sender.send(entry).await.is_err() {
        tracing::debug!("a client went away before it could be told of an error");
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
