// SPDX-License-Identifier: Apache-2.0
//! Reading a log and its rotated predecessors, oldest line first. Blocking.

use std::collections::VecDeque;

use berth_domain::Result;
use berth_shim_proto::LogFormat;
use berth_shim_proto::local::BLOCK;
use bytes::Bytes;

use super::files::{self, Open};
use super::local::Place;
use super::output::Output;
use super::{LogOptions, Tail, json, local};
use crate::log_config::Readable;

/// How much is read at a time. Lines longer than this are no lines of ours and are skipped.
const CHUNK: usize = 1 << 20;
const _: () = assert!(CHUNK >= 2 * BLOCK);
/// A batch ends at so many bytes of output.
const BATCH: usize = 512 << 10;
/// How far a file's date may be behind its last line's, in nanoseconds: many ticks of the kernel's coarse clock.
const BEHIND: i64 = 1_000_000_000;

/// Some output.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Bytes,
    /// There may be more without waiting.
    pub(super) more: bool,
    /// Nothing will come any more: `until` has passed.
    pub(super) over: bool,
}

/// A log being read.
#[derive(Debug)]
pub(super) struct Reader {
    log: Readable,
    /// Oldest first; the last one is (or was) the file that is written to.
    files: VecDeque<Open>,
    /// Where to go on in the first of them.
    place: Place,
    /// In the middle of a line that is too long.
    skipping: bool,
    /// Attributes of a local log's records.
    attrs: Vec<u8>,
    buffer: Vec<u8>,
    out: Output,
}

impl Reader {
    /// Opens a log and goes to where reading begins.
    ///
    /// # Errors
    ///
    /// A file is there and cannot be read.
    pub(super) fn open(log: Readable, options: LogOptions) -> Result<Self> {
        let (tail, since, details) = (options.tail, options.since, options.details);
        let mut reader = Self {
            files: files::newer_than(&log.path, None)?.into_iter().rev().collect(),
            log,
            place: Place::default(),
            skipping: false,
            attrs: Vec::new(),
            buffer: Vec::new(),
            out: Output::new(options),
        };
        match (tail, since) {
            (Tail::Last(lines), _) => reader.go_to_tail(lines)?,
            (Tail::All, Some(since)) => reader.go_to_time(since)?,
            (Tail::All, None) => {}
        }
        if details && reader.log.format == LogFormat::Local {
            if let Some(open) = reader.files.front_mut() {
                let found = local::attrs_at(open.file()?, reader.place.offset);
                reader.attrs = found.map_err(|error| open.failed(error))?;
            }
        }
        Ok(reader)
    }

    fn go_to_tail(&mut self, mut wanted: u64) -> Result<()> {
        let mut keep_from = self.files.len();
        for (n, open) in self.files.iter_mut().enumerate().rev() {
            let length = open.length()?;
            if wanted == 0 {
                // No lines at all: only what comes.
                if keep_from == n + 1 && self.place == Place::default() {
                    (keep_from, self.place) = (n, Place { offset: length, lines: 0 });
                }
                break;
            }
            let file = open.file()?;
            let found = match self.log.format {
                LogFormat::Json => json::tail(file, length, wanted)
                    .map(|(offset, lines)| (Place { offset, lines: 0 }, lines)),
                LogFormat::Local => local::tail(file, length, wanted),
            };
            let (place, lines) = found.map_err(|error| open.failed(error))?;
            wanted -= lines;
            (keep_from, self.place) = (n, place);
            if wanted == 0 {
                break;
            }
        }
        self.files.drain(..keep_from.min(self.files.len()));
        Ok(())
    }

    fn go_to_time(&mut self, since: i64) -> Result<()> {
        // A file that was written to last before then holds nothing later. Files are dated by a clock that is some
        // milliseconds behind the one that lines are dated by.
        let surely = since.saturating_sub(BEHIND);
        while self.files.len() > 1 && self.files.front().is_some_and(|open| open.modified_at < surely) {
            self.files.pop_front();
        }
        let Some(open) = self.files.front_mut() else { return Ok(()) };
        let length = open.length()?;
        let file = open.file()?;
        let offset = match self.log.format {
            LogFormat::Json => json::seek(file, length, since),
            LogFormat::Local => local::seek(file, length, since),
        };
        self.place.offset = offset.map_err(|error| open.failed(error))?;
        Ok(())
    }

    /// The next lines.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub(super) fn batch(&mut self) -> Result<Batch> {
        let mut more = true;
        while more && !self.out.over && self.out.len() < BATCH {
            more = self.advance()?;
        }
        if !more {
            // Who follows a quiet log keeps no memory for it.
            self.buffer = Vec::new();
        }
        Ok(Batch { bytes: self.out.take().into(), more, over: self.out.over })
    }

    /// Reads on; false when there is nothing more at present.
    fn advance(&mut self) -> Result<bool> {
        if self.files.is_empty() {
            // Nothing was ever printed, or the file was missing in the middle of a rotation.
            self.files.extend(files::newer_than(&self.log.path, None)?.into_iter().rev());
            return Ok(!self.files.is_empty());
        }
        if self.chunk()? {
            return Ok(true);
        }
        if self.files.len() == 1 {
            let newer = files::newer_than(&self.log.path, self.files.front())?;
            self.files.extend(newer.into_iter().rev());
            if self.files.len() == 1 {
                return Ok(false);
            }
            // What was written before the rotation, after the look above, is in the old file.
            while self.chunk()? {
                if self.out.over || self.out.len() >= BATCH {
                    return Ok(true);
                }
            }
        }
        self.files.pop_front();
        self.place = Place::default();
        self.skipping = false;
        Ok(true)
    }

    /// Reads on in the first file; false at its present end.
    fn chunk(&mut self) -> Result<bool> {
        let Some(open) = self.files.front_mut() else { return Ok(false) };
        let length = open.length()?;
        let Some(ahead) = length.checked_sub(self.place.offset) else {
            // The one file of a log starts over when it is full.
            self.place = Place::default();
            return Ok(true);
        };
        let wanted = usize::try_from(ahead).unwrap_or(CHUNK).min(CHUNK);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let read = local::read_up_to(open.file()?, &mut self.buffer[..wanted], self.place.offset);
        let n = read.map_err(|error| open.failed(error))?;
        let chunk = &self.buffer[..n];
        let before = self.place;
        let limit = BATCH;
        match self.log.format {
            LogFormat::Local => local::read(chunk, &mut self.place, limit, &mut self.attrs, &mut self.out),
            LogFormat::Json => {
                let mut start = 0;
                if self.skipping {
                    let newline = memchr::memchr(b'\n', chunk);
                    self.skipping = newline.is_none();
                    start = newline.map_or(n, |newline| newline + 1);
                }
                let mut used = start + json::read(&chunk[start..], limit, &mut self.out);
                if used == 0 && n == CHUNK {
                    self.skipping = true;
                    used = n;
                }
                self.place.offset += used as u64;
            }
        }
        Ok(self.place != before)
    }
}
