// SPDX-License-Identifier: Apache-2.0
//! The file under a log: appending, rotation, and going on when the disk does not.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::say::say;

/// An append-only file with numbered predecessors (`.1` the youngest).
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    /// `None` after a failed rotation; opened again at the next write.
    file: Option<File>,
    size: u64,
    max_size: Option<u64>,
    /// Size to rotate at: `max_size`, or later after a rotation that failed.
    limit: Option<u64>,
    max_files: u32,
    /// Bytes that could not be written in the present spell of failure.
    dropped: u64,
}

impl RotatedFile {
    pub(super) fn open(path: PathBuf, max_size: Option<u64>, max_files: u32) -> io::Result<Self> {
        let mut this = Self {
            path,
            file: None,
            size: 0,
            max_size,
            limit: max_size,
            max_files: max_files.max(1),
            dropped: 0,
        };
        this.reopen()?;
        Ok(this)
    }

    /// Whether a record that makes a batch of `before` bytes one of `after` belongs into the next file. A
    /// record larger than the limit has a file for itself.
    pub(super) fn would_rotate(&self, before: usize, after: usize) -> bool {
        self.limit.is_some_and(|max| self.size + before as u64 > 0 && self.size + after as u64 > max)
    }

    /// Appends whole records, or drops them where the disk refuses.
    pub(super) fn append(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        match self.try_append(records) {
            Ok(()) if self.dropped > 0 => {
                say!("log {}: writing again, {} bytes were lost", self.path.display(), self.dropped);
                self.dropped = 0;
            }
            Ok(()) => {}
            Err((error, kept)) => {
                if self.dropped == 0 {
                    say!("log {}: {error}; output is dropped until it can be written", self.path.display());
                }
                self.dropped += (records.len() - kept) as u64;
            }
        }
    }

    /// Begins a new file.
    pub(super) fn rotate(&mut self) {
        self.limit = self.max_size;
        if let Err(error) = self.try_rotate() {
            say!("log {}: rotation: {error}", self.path.display());
            self.limit = self.max_size.map(|max| self.size.saturating_add(max));
        }
    }

    fn try_append(&mut self, records: &[u8]) -> Result<(), (io::Error, usize)> {
        if self.file.is_none() {
            self.reopen().map_err(|e| (e, 0))?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut written = 0;
        let error = loop {
            match file.write(&records[written..]) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break e,
            }
            if written == records.len() {
                self.size += written as u64;
                return Ok(());
            }
        };
        let kept = memchr::memrchr(b'\n', &records[..written]).map_or(0, |newline| newline + 1);
        self.size += kept as u64;
        // A torn record would take the next one with it. If even this fails, opening mends it.
        if kept != written && file.set_len(self.size).is_err() {
            self.file = None;
        }
        Err((error, kept))
    }

    fn reopen(&mut self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(&self.path)?;
        self.size = file.metadata()?.len();
        if self.size > 0 {
            let mut last = [0u8];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last[0] != b'\n' {
                // What a power cut tore must not spoil the first record of ours.
                file.write_all(b"\n")?;
                self.size += 1;
            }
        }
        self.file = Some(file);
        Ok(())
    }

    fn try_rotate(&mut self) -> io::Result<()> {
        if self.max_files == 1 {
            match &self.file {
                Some(file) => file.set_len(0)?,
                None => return Ok(()),
            }
            self.size = 0;
            return Ok(());
        }
        for number in (1..self.max_files).rev() {
            let from = if number == 1 { self.path.clone() } else { self.numbered(number - 1) };
            match std::fs::rename(from, self.numbered(number)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        self.file = None;
        self.size = 0;
        self.reopen()
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}
