// SPDX-License-Identifier: Apache-2.0
//! Compressing rotated files in a child process, one at a time, so that the loop never waits for it.
//!
//! The child has two descriptors and nothing else of the shim: a pipe that it kept open would hide an end of
//! input from the container. Names are the parent's business: rotation may move the file meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use flate2::Compression;
use flate2::GzBuilder;

use crate::say::say;
use crate::sys;

/// A compression under way.
#[derive(Debug)]
pub(super) struct Squeeze {
    pid: i32,
    /// The number of the file at present.
    number: u32,
    partial: PathBuf,
}

/// The name of a rotated file.
pub(super) fn numbered(path: &Path, number: u32, compressed: bool) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(format!(".{number}"));
    if compressed {
        name.push(".gz");
    }
    name.into()
}

impl Squeeze {
    /// Begins to compress file `number`.
    pub(super) fn start(path: &Path, number: u32) -> io::Result<Self> {
        let mut partial = path.to_owned().into_os_string();
        partial.push(".gz.tmp");
        let partial = PathBuf::from(partial);
        let source = File::open(numbered(path, number, false))?;
        // A child of a shim that was killed may still be writing to the last one.
        match std::fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let target = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&partial)?;
        match sys::fork()? {
            Some(pid) => Ok(Self { pid, number, partial }),
            None => {
                let code = match compress(source.into(), target.into()) {
                    Ok(()) => 0,
                    Err(error) => {
                        say!("compressing a log: {error}");
                        1
                    }
                };
                std::process::exit(code)
            }
        }
    }

    /// The files were renumbered: one more each. False once there is no number for it any more.
    pub(super) fn moved(&mut self, max_files: u32) -> bool {
        self.number += 1;
        self.number < max_files
    }

    pub(super) fn is(&self, pid: i32) -> bool {
        self.pid == pid
    }

    /// The child has ended.
    pub(super) fn finish(self, path: &Path, code: i32) -> io::Result<()> {
        if code != 0 {
            return std::fs::remove_file(&self.partial);
        }
        std::fs::rename(&self.partial, numbered(path, self.number, true))?;
        std::fs::remove_file(numbered(path, self.number, false))
    }

    /// Gives it up: the file stays as it is.
    pub(super) fn abandon(self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        std::fs::remove_file(&self.partial).ok();
    }
}

fn compress(source: OwnedFd, target: OwnedFd) -> io::Result<()> {
    let [source, target] = sys::keep_only([source, target])?;
    // The container's work comes first.
    rustix::process::nice(10).ok();
    let mut source = File::from(source);
    let mut target = BufWriter::new(File::from(target));
    // By these readers know the file that this one stands for.
    let metadata = source.metadata()?;
    let modified_at = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
    let born = metadata.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let born_at = born.map_or(0, |since| since.as_nanos());
    let original = format!("{} {born_at} {modified_at}", metadata.ino());
    let mut encoder = GzBuilder::new().comment(original).write(&mut target, Compression::fast());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?;
    target.flush()?;
    // The plain file goes once this one has its name: its content must be on the disk before that.
    target.get_ref().sync_all()
}
