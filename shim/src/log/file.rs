// SPDX-License-Identifier: Apache-2.0
//! The file under a log: appending, rotation, and going on when the disk does not.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use berth_shim_proto::{LogFile, LogFormat};

use super::local;
use super::squeeze::{Squeeze, numbered};
use crate::say::say;

/// An append-only file with numbered predecessors (`.1` the youngest).
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    format: LogFormat,
    compress: bool,
    squeeze: Option<Squeeze>,
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
    pub(super) fn open(asked: &LogFile) -> io::Result<Self> {
        let mut this = Self {
            path: PathBuf::from(&asked.path),
            format: asked.format,
            compress: asked.compress && asked.max_files > 1,
            squeeze: None,
            file: None,
            size: 0,
            max_size: asked.max_size,
            limit: asked.max_size,
            max_files: asked.max_files.max(1),
            dropped: 0,
        };
        this.reopen()?;
        Ok(this)
    }

    /// Bytes in the present file.
    pub(super) fn size(&self) -> u64 {
        self.size
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
        let kept = match self.format {
            LogFormat::Json => memchr::memrchr(b'\n', &records[..written]).map_or(0, |newline| newline + 1),
            LogFormat::Local => 0,
        };
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
        // What a power cut tore must not spoil the first record of ours.
        match self.format {
            LogFormat::Json if self.size > 0 => {
                let mut last = [0u8];
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
                if last[0] != b'\n' {
                    file.write_all(b"\n")?;
                    self.size += 1;
                }
            }
            LogFormat::Local => {
                let sound = local::sound_length(&file, self.size)?;
                if sound < self.size {
                    file.set_len(sound)?;
                    self.size = sound;
                }
            }
            LogFormat::Json => {}
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
            // A name of the other kind may be left of a time with other options.
            for compressed in [false, true] {
                remove(&numbered(&self.path, number, compressed))?;
                let from = match number {
                    1 if compressed => continue,
                    1 => self.path.clone(),
                    _ => numbered(&self.path, number - 1, compressed),
                };
                match std::fs::rename(from, numbered(&self.path, number, compressed)) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        self.file = None;
        self.size = 0;
        if let Some(mut squeeze) = self.squeeze.take() {
            if squeeze.moved(self.max_files) {
                self.squeeze = Some(squeeze);
            } else {
                squeeze.abandon();
            }
        }
        self.reopen()?;
        self.squeeze_next();
        Ok(())
    }

    /// Begins to compress the oldest file that is not compressed, unless one is under way.
    fn squeeze_next(&mut self) {
        if !self.compress || self.squeeze.is_some() {
            return;
        }
        let plain = |number: &u32| numbered(&self.path, *number, false).exists();
        let Some(number) = (1..self.max_files).rev().find(plain) else { return };
        match Squeeze::start(&self.path, number) {
            Ok(squeeze) => self.squeeze = Some(squeeze),
            Err(error) => {
                self.compress = false;
                say!("log {}: rotated files are not compressed any more: {error}", self.path.display());
            }
        }
    }

    /// A child of the shim has ended; true if it was one that compressed a file.
    pub(super) fn child_ended(&mut self, pid: i32, code: i32) -> bool {
        let Some(squeeze) = self.squeeze.take_if(|squeeze| squeeze.is(pid)) else { return false };
        match squeeze.finish(&self.path, code) {
            Ok(()) if code == 0 => self.squeeze_next(),
            Ok(()) => self.compress = false,
            Err(error) => {
                self.compress = false;
                say!("log {}: compressing: {error}", self.path.display());
            }
        }
        true
    }
}

impl Drop for RotatedFile {
    fn drop(&mut self) {
        if let Some(squeeze) = self.squeeze.take() {
            squeeze.abandon();
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
