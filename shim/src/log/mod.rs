// SPDX-License-Identifier: Apache-2.0
//! A container's log.
//!
//! The shim writes it itself, so that output crosses no daemon and survives one. All records of one read
//! go out in one `write`. A container must not stop because its log cannot be written (a full disk): such
//! output is dropped, the file is cut back to whole records, and shim.log says so once per spell.
//!
//! ```text
//!  output ── lines ──┬── json | local ── file, rotated ── squeeze (a child: gzip)
//!                    └── journald | syslog ── queue ── socket
//! ```

mod file;
mod json;
mod lines;
mod local;
mod sink;
mod squeeze;
mod time;

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_shim_proto::{Log, LogFile, LogFormat};
use rustix::event::PollFlags;

use self::file::RotatedFile;
use self::json::Tail;
use self::lines::{Line, Lines};
use self::sink::Sink;
use crate::stdcopy::Stream;
use crate::watch::{Token, Watch};

/// Encoded records are written at the latest when there are this many bytes of them.
const BATCH: usize = 256 * 1024;

/// Records a container's output.
#[derive(Debug)]
pub(crate) struct Recorder {
    lines: [Lines; 2],
    file: Option<FileLog>,
    sink: Option<Sink>,
}

/// The log that can be read back.
#[derive(Debug)]
struct FileLog {
    file: RotatedFile,
    attrs: Option<String>,
    batch: Vec<u8>,
    records: Records,
}

#[derive(Debug)]
enum Records {
    /// The end of the records of one stream at one moment.
    Json(Stream, Duration, Tail),
    Local(local::Encoder),
}

impl Recorder {
    /// Opens the log; `None` when nothing is to be recorded.
    pub(crate) fn open(log: &Log) -> io::Result<Option<Self>> {
        if log.file.is_none() && log.sink.is_none() {
            return Ok(None);
        }
        let file = log.file.as_ref().map(FileLog::open).transpose()?;
        let sink = log.sink.as_ref().map(Sink::open).transpose()?;
        Ok(Some(Self { lines: Default::default(), file, sink }))
    }

    /// Records output as it was read.
    pub(crate) fn write(&mut self, stream: Stream, data: &[u8]) {
        self.record(stream, |lines, now, emit| lines.feed(data, now, emit));
    }

    /// Records the unfinished line of a stream that has ended.
    pub(crate) fn finish(&mut self, stream: Stream) {
        self.record(stream, |lines, now, emit| lines.finish(now, emit));
    }

    /// Whether more may be read: a sink that must not lose anything has room.
    pub(crate) fn has_room(&self) -> bool {
        self.sink.as_ref().is_none_or(Sink::has_room)
    }

    /// The container has ended: the file is whole, and what is left to send must be sent soon.
    pub(crate) fn close(&mut self) {
        self.file = None;
        if let Some(sink) = &mut self.sink {
            sink.last_call();
        }
    }

    /// Whether there is something to wait for after [`Recorder::close`].
    pub(crate) fn pending(&self) -> bool {
        self.sink.as_ref().is_some_and(Sink::pending)
    }

    pub(crate) fn watch<'a>(&'a self, token: Token, watch: &mut Watch<'a>) {
        if let Some((fd, flags)) = self.sink.as_ref().and_then(Sink::interest) {
            watch.add(fd, flags, token);
        }
    }

    pub(crate) fn on_ready(&mut self, flags: PollFlags) {
        if let Some(sink) = &mut self.sink {
            sink.on_ready(flags);
        }
    }

    /// When something is due though nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.sink.as_ref().and_then(Sink::deadline)
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self) {
        if let Some(sink) = &mut self.sink {
            sink.tick();
        }
    }

    /// A child of the shim has ended; true if it was the log's.
    pub(crate) fn child_ended(&mut self, pid: i32, code: i32) -> bool {
        self.file.as_mut().is_some_and(|log| log.file.child_ended(pid, code))
    }

    /// Gives back memory; called when nothing was written for a while.
    pub(crate) fn trim(&mut self) {
        if let Some(log) = &mut self.file {
            log.batch = Vec::new();
        }
        self.lines.iter_mut().for_each(Lines::trim);
    }

    fn record(&mut self, stream: Stream, cut: impl FnOnce(&mut Lines, Duration, &mut dyn FnMut(Line<'_>))) {
        let Self { file, lines, sink } = self;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        cut(&mut lines[stream.index()], now, &mut |line| {
            if let Some(log) = file {
                log.push(stream, &line);
            }
            if let Some(sink) = sink {
                sink.push(stream, &line);
            }
        });
        if let Some(log) = file {
            log.write();
        }
        if let Some(sink) = sink {
            sink.flush();
        }
    }
}

impl FileLog {
    fn open(asked: &LogFile) -> io::Result<Self> {
        let attrs = attributes(asked.attrs.as_deref())?;
        let records = match asked.format {
            LogFormat::Json => {
                let tail = Tail::new(Stream::Stdout, attrs.as_deref(), Duration::ZERO);
                Records::Json(Stream::Stdout, Duration::ZERO, tail)
            }
            LogFormat::Local => Records::Local(local::Encoder::default()),
        };
        let mut log = Self { file: RotatedFile::open(asked)?, attrs, batch: Vec::new(), records };
        // Every run has its own: labels and environment are those of its start.
        log.begin();
        log.write();
        Ok(log)
    }

    /// What the records that follow have in common goes before them.
    fn begin(&mut self) {
        if let (Records::Local(_), Some(attrs)) = (&self.records, &self.attrs) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let position = self.file.size() + self.batch.len() as u64;
            self.batch.extend(local::head(position, attrs, now));
        }
    }

    fn push(&mut self, stream: Stream, line: &Line<'_>) {
        if self.batch.len() >= BATCH {
            self.write();
        }
        match &mut self.records {
            Records::Json(of, at, tail) => {
                if (*of, *at) != (stream, line.at) {
                    *tail = Tail::new(stream, self.attrs.as_deref(), line.at);
                    (*of, *at) = (stream, line.at);
                }
                let start = self.batch.len();
                json::push_record(&mut self.batch, line.text, line.whole, tail);
                if self.file.would_rotate(start, self.batch.len()) {
                    self.file.append(&self.batch[..start]);
                    self.file.rotate();
                    self.batch.drain(..start);
                }
            }
            Records::Local(encoder) => {
                let mut position = self.file.size() + self.batch.len() as u64;
                let cost = local::Encoder::cost(position, line);
                if self.file.would_rotate(self.batch.len(), self.batch.len() + cost) {
                    encoder.close();
                    self.file.append(&self.batch);
                    self.file.rotate();
                    self.batch.clear();
                    self.begin();
                    position = self.file.size() + self.batch.len() as u64;
                }
                if let Records::Local(encoder) = &mut self.records {
                    encoder.push(&mut self.batch, position, stream, line);
                }
            }
        }
    }

    fn write(&mut self) {
        if let Records::Local(encoder) = &mut self.records {
            encoder.close();
        }
        if !self.batch.is_empty() {
            self.file.append(&self.batch);
            self.batch.clear();
        }
    }
}

/// The attributes of all records, checked: they are copied into the log as they are.
fn attributes(text: Option<&str>) -> io::Result<Option<String>> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => match serde_json::from_str(text) {
            Ok(serde_json::Value::Object(object)) if object.is_empty() => Ok(None),
            Ok(object @ serde_json::Value::Object(_)) => Ok(Some(object.to_string())),
            Ok(_) | Err(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "attrs are not a JSON object")),
        },
    }
}

#[cfg(test)]
mod tests;
