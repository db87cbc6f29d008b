// SPDX-License-Identifier: Apache-2.0
//! Reading a log and its rotated predecessors, oldest line first. Blocking.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};
use bytes::Bytes;

use super::line::Line;
use super::{LogEntry, LogOptions, Tail};

/// What a batch holds at most.
const BATCH_LINES: usize = 256;
const BATCH_BYTES: usize = 256 << 10;
/// Lines longer than this are no lines of ours and are skipped.
const LONGEST_LINE: usize = 1 << 20;
/// How much is read at a time when looking for the last lines.
const BACKWARDS: usize = 64 << 10;

/// Some output.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) entries: Vec<LogEntry>,
    /// There may be more without waiting.
    pub(super) more: bool,
    /// Nothing will come any more: `until` has passed.
    pub(super) over: bool,
}

#[derive(Debug)]
struct Open {
    inode: u64,
    lines: BufReader<File>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
    /// The line is too long: skip to its end.
    skipping: bool,
}

/// A log being read.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    max_files: u32,
    options: LogOptions,
    /// Oldest first; the last one is (or was) the file that is written to.
    files: VecDeque<Open>,
    /// Time of the last line that was read.
    last: Option<i64>,
    /// Lines up to this time have been read from files that cannot be told from new ones any more.
    skip: Option<i64>,
}

impl Reader {
    /// Opens a log and goes to where `tail` begins.
    ///
    /// # Errors
    ///
    /// A file is there and cannot be read.
    pub(super) fn open(path: PathBuf, max_files: u32, options: LogOptions) -> Result<Self> {
        let mut reader = Self { files: VecDeque::new(), path, max_files, options, last: None, skip: None };
        reader.open_newer_than(None)?;
        if let Tail::Last(lines) = reader.options.tail {
            reader.go_to_tail(lines)?;
        }
        Ok(reader)
    }

    /// Opens the files that are newer than the one with this inode (all of them for `None`).
    fn open_newer_than(&mut self, known: Option<u64>) -> Result<()> {
        let mut found = VecDeque::new();
        let mut met = known.is_none();
        for n in 0..self.max_files.max(1) {
            let path = rotated(&self.path, n);
            let (file, inode) = match File::open(&path).and_then(|file| Ok((file.metadata()?.ino(), file))) {
                Ok((inode, file)) => (file, inode),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Between the two renames of a rotation the newest name is missing.
                    if n == 0 { continue } else { break }
                }
                Err(error) => return Err(Error::io("opening", &path, error)),
            };
            if Some(inode) == known {
                met = true;
                break;
            }
            // A rotation while files are opened shows the same one twice.
            if found.iter().any(|open: &Open| open.inode == inode) {
                continue;
            }
            found.push_front(Open {
                inode,
                lines: BufReader::with_capacity(32 << 10, file),
                partial: Vec::new(),
                skipping: false,
            });
        }
        if !met {
            // The file was rotated away altogether; some of what is there may have been read before it.
            self.skip = self.last;
        }
        self.files.extend(found);
        Ok(())
    }

    fn go_to_tail(&mut self, mut wanted: u64) -> Result<()> {
        let mut keep_from = self.files.len();
        for (n, open) in self.files.iter_mut().enumerate().rev() {
            if wanted == 0 {
                break;
            }
            let (offset, lines) = find_tail(open.lines.get_ref(), wanted)
                .map_err(|error| Error::io("reading", &self.path, error))?;
            open.lines
                .seek(SeekFrom::Start(offset))
                .map_err(|error| Error::io("seeking in", &self.path, error))?;
            wanted -= lines;
            keep_from = n;
        }
        if keep_from == self.files.len() {
            // No lines at all: only what comes.
            if let Some(open) = self.files.back_mut() {
                open.lines
                    .seek(SeekFrom::End(0))
                    .map_err(|error| Error::io("seeking in", &self.path, error))?;
                keep_from -= 1;
            }
        }
        self.files.drain(..keep_from);
        Ok(())
    }

    /// The next lines.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub(super) fn batch(&mut self) -> Result<Batch> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.entries.len() < BATCH_LINES && bytes < BATCH_BYTES {
            let Some(line) = self.line()? else { return Ok(batch) };
            let Some(line) = Line::parse(&line) else { continue };
            let time = line.unix_nanoseconds();
            if self.skip.is_some_and(|skip| time <= skip) {
                continue;
            }
            self.last = Some(time);
            if self.options.until.is_some_and(|until| time > until) {
                batch.over = true;
                return Ok(batch);
            }
            let stderr = line.stream == "stderr";
            let chosen = if stderr { self.options.stderr } else { self.options.stdout };
            if !chosen || self.options.since.is_some_and(|since| time < since) {
                continue;
            }
            let mut text = line.prefix(self.options.timestamps, self.options.details).into_bytes();
            text.extend_from_slice(line.log.as_bytes());
            bytes += text.len();
            batch.entries.push(LogEntry { stderr, bytes: Bytes::from(text) });
        }
        batch.more = true;
        Ok(batch)
    }

    /// The next whole line; `None` when there is none yet.
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let Some(open) = self.files.front_mut() else {
                // Nothing was ever printed, or the file was missing in the middle of a rotation.
                self.open_newer_than(None)?;
                if self.files.is_empty() {
                    return Ok(None);
                }
                continue;
            };
            if let Some(line) = open.next().map_err(|error| Error::io("reading", &self.path, error))? {
                return Ok(Some(line));
            }
            if self.files.len() == 1 {
                let inode = self.files.front().map(|open| open.inode);
                // Looked up before the last read below: what was written before the rotation is in the old file.
                self.open_newer_than(inode)?;
                if self.files.len() == 1 {
                    return Ok(None);
                }
                if let Some(open) = self.files.front_mut() {
                    if let Some(line) =
                        open.next().map_err(|error| Error::io("reading", &self.path, error))?
                    {
                        return Ok(Some(line));
                    }
                }
            }
            self.files.pop_front();
        }
    }
}

impl Open {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let room = LONGEST_LINE.saturating_sub(self.partial.len()).max(1);
            let read = (&mut self.lines)
                .take(u64::try_from(room).unwrap_or(u64::MAX))
                .read_until(b'\n', &mut self.partial)?;
            let whole = self.partial.last() == Some(&b'\n');
            if whole {
                let line = std::mem::take(&mut self.partial);
                if !std::mem::take(&mut self.skipping) {
                    return Ok(Some(line));
                }
            } else if read == 0 {
                return Ok(None);
            } else if self.partial.len() >= LONGEST_LINE {
                self.partial.clear();
                self.skipping = true;
            }
        }
    }
}

/// The current file for 0, its predecessors from 1 on.
fn rotated(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

/// Where the last `wanted` lines begin, and how many there are.
fn find_tail(file: &File, wanted: u64) -> io::Result<(u64, u64)> {
    let mut end = file.metadata()?.len();
    let mut lines = 0;
    let mut buffer = vec![0; BACKWARDS];
    let mut last = true;
    while end > 0 {
        let step = usize::try_from(end).unwrap_or(BACKWARDS).min(BACKWARDS);
        let start = end - u64::try_from(step).unwrap_or(0);
        let chunk = &mut buffer[..step];
        file.read_exact_at(chunk, start)?;
        for (n, byte) in chunk.iter().enumerate().rev() {
            // The newline at the very end closes the last line and begins none.
            let is_end = std::mem::take(&mut last);
            if *byte != b'\n' {
                continue;
            }
            if !is_end {
                lines += 1;
                if lines == wanted {
                    return Ok((start + u64::try_from(n).unwrap_or(0) + 1, wanted));
                }
            }
        }
        end = start;
    }
    let any = u64::from(file.metadata()?.len() > 0);
    Ok((0, lines + any))
}
