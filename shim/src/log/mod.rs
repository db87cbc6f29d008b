// SPDX-License-Identifier: Apache-2.0
//! A container's log on disk.
//!
//! The shim writes it itself, so that output crosses no daemon and survives one. All records of one read
//! go out in one `write`. A container must not stop because its log cannot be written (a full disk): such
//! output is dropped, the file is cut back to whole records, and shim.log says so once per spell.

mod encode;
mod file;
mod lines;

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_shim_proto::Log;

use self::encode::Tail;
use self::file::RotatedFile;
use self::lines::{Line, Lines};
use crate::stdcopy::Stream;

/// Encoded records are written at the latest when there are this many bytes of them.
const BATCH: usize = 256 * 1024;

/// A json-file log.
#[derive(Debug)]
pub(crate) struct JsonLog {
    file: RotatedFile,
    attrs: Option<String>,
    lines: [Lines; 2],
    batch: Vec<u8>,
}

impl JsonLog {
    /// Opens the log; `None` when nothing is to be recorded.
    pub(crate) fn open(log: &Log) -> io::Result<Option<Self>> {
        let Log::JsonFile { path, max_size, max_files, attrs } = log else { return Ok(None) };
        let attrs = match attrs.as_deref() {
            None | Some("") => None,
            Some(text) => match serde_json::from_str(text) {
                Ok(serde_json::Value::Object(object)) if object.is_empty() => None,
                Ok(object @ serde_json::Value::Object(_)) => Some(object.to_string()),
                Ok(_) | Err(_) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "attrs are not a JSON object"));
                }
            },
        };
        let file = RotatedFile::open(path.into(), *max_size, *max_files)?;
        Ok(Some(Self { file, attrs, lines: Default::default(), batch: Vec::new() }))
    }

    /// Records output as it was read.
    pub(crate) fn write(&mut self, stream: Stream, data: &[u8]) {
        self.record(stream, |lines, now, emit| lines.feed(data, now, emit));
    }

    /// Records the unfinished line of a stream that has ended.
    pub(crate) fn finish(&mut self, stream: Stream) {
        self.record(stream, |lines, now, emit| lines.finish(now, emit));
    }

    /// Gives back memory; called when nothing was written for a while.
    pub(crate) fn trim(&mut self) {
        self.batch = Vec::new();
        self.lines.iter_mut().for_each(Lines::trim);
    }

    fn record(&mut self, stream: Stream, cut: impl FnOnce(&mut Lines, Duration, &mut dyn FnMut(Line<'_>))) {
        let Self { file, attrs, lines, batch } = self;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut tail = Tail::new(stream, attrs.as_deref(), now);
        let mut tail_at = now;
        batch.clear();
        cut(&mut lines[stream.index()], now, &mut |line| {
            if line.at != tail_at {
                tail = Tail::new(stream, attrs.as_deref(), line.at);
                tail_at = line.at;
            }
            let start = batch.len();
            encode::push_record(batch, line.text, line.whole, &tail);
            if file.would_rotate(start, batch.len()) {
                file.append(&batch[..start]);
                file.rotate();
                batch.drain(..start);
            } else if batch.len() >= BATCH {
                file.append(batch);
                batch.clear();
            }
        });
        if !batch.is_empty() {
            file.append(batch);
        }
    }
}

#[cfg(test)]
mod tests;
