// SPDX-License-Identifier: Apache-2.0
//! A log and its rotated predecessors on disk.
//!
//! A file is known by its inode and the time of its birth (inodes are used again at once), whatever name rotation gives
//! it; a compressed one carries those of the file that it was made of, and when that was written to last, in its
//! header. Compressed files are unpacked into a file without a name when they are
//! come to, so that all ways of reading work for them.

use std::fs::File;
use std::io::{self, BufReader, Seek as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use berth_domain::{Error, Result};
use flate2::bufread::GzDecoder;

/// A file of a log, held open.
#[derive(Debug)]
pub(super) struct Open {
    identity: (u64, u128),
    path: PathBuf,
    content: Content,
    /// When it was written to last, in unix nanoseconds, as far as was known when it was opened.
    pub(super) modified_at: i64,
}

#[derive(Debug)]
enum Content {
    Plain(File),
    Compressed(File),
}

impl Open {
    fn at(path: &Path, compressed: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let path = path.to_owned();
        let (identity, modified_at) = ((metadata.ino(), born_at(&metadata)), modified_at(&metadata));
        if !compressed {
            return Ok(Self { identity, path, content: Content::Plain(file), modified_at });
        }
        let decoder = GzDecoder::new(BufReader::new(&file));
        let comment = decoder.header().and_then(|header| header.comment());
        let original = comment.and_then(|comment| {
            let mut words = std::str::from_utf8(comment).ok()?.split(' ');
            let identity = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some((identity, words.next()?.parse().ok()?))
        });
        // Without that it is not of ours, but a log all the same.
        let (identity, modified_at) = original.unwrap_or((identity, modified_at));
        Ok(Self { identity, path, content: Content::Compressed(file), modified_at })
    }

    /// The file, unpacked.
    pub(super) fn file(&mut self) -> Result<&File> {
        if let Content::Compressed(file) = &self.content {
            let unpacked =
                unpack(file, &self.path).map_err(|error| Error::io("unpacking", &self.path, error))?;
            self.content = Content::Plain(unpacked);
        }
        match &self.content {
            Content::Plain(file) | Content::Compressed(file) => Ok(file),
        }
    }

    /// Its length at present.
    pub(super) fn length(&mut self) -> Result<u64> {
        let metadata = self.file()?.metadata();
        Ok(metadata.map_err(|error| Error::io("looking at", &self.path, error))?.len())
    }

    /// An error of reading it.
    pub(super) fn failed(&self, error: io::Error) -> Error {
        Error::io("reading", &self.path, error)
    }
}

fn unpack(packed: &File, path: &Path) -> io::Result<File> {
    // Beside the log: it may be too large for a memory.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.with_extension(format!("{}-{number}.unpacked", std::process::id()));
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&name)?;
    std::fs::remove_file(&name)?;
    let mut packed = packed;
    packed.rewind()?;
    match io::copy(&mut GzDecoder::new(BufReader::new(packed)), &mut file) {
        // What can be read of a damaged file is shown, and what is newer still is.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
            ) =>
        {
            tracing::warn!(path = %path.display(), %error, "a compressed log is damaged");
        }
        copied => drop(copied?),
    }
    Ok(file)
}

fn modified_at(metadata: &std::fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

/// When a file was made, in unix nanoseconds; 0 where the filesystem does not know.
fn born_at(metadata: &std::fs::Metadata) -> u128 {
    let born = metadata.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    born.map_or(0, |since| since.as_nanos())
}

/// The files of a log that are newer than `known` (all of them for `None`), newest first.
pub(super) fn newer_than(path: &Path, known: Option<&Open>) -> Result<Vec<Open>> {
    /// A rotation between two looks moves every file one further; three in a row are a broken disk.
    const LOOKS: usize = 3;
    let mut found = Vec::new();
    for _ in 0..LOOKS {
        found.clear();
        for (number, compressed) in names(path)? {
            let open = match Open::at(&rotated(path, number, compressed), compressed) {
                Ok(open) => open,
                // Moved on meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("opening", path, error)),
            };
            if known.is_some_and(|known| known.identity == open.identity) {
                return Ok(found);
            }
            // Seen under its earlier name, or in both forms.
            if !found.iter().any(|other: &Open| other.identity == open.identity) {
                found.push(open);
            }
        }
        if known.is_none() {
            break;
        }
    }
    if let Some(Open { content: Content::Plain(file), .. }) = known {
        // It was removed. Rotation removes the oldest, but an operator may have removed any.
        let last = modified_at(&file.metadata().map_err(|error| Error::io("looking at", path, error))?);
        found.retain(|open| open.modified_at >= last);
    }
    Ok(found)
}

/// Numbers of the files there are, smallest (newest) first, and whether they are compressed.
fn names(path: &Path) -> Result<Vec<(u32, bool)>> {
    let failed = |error| Error::io("listing the files of", path, error);
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // Removed with its container.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?.file_name();
        let Some(rest) = entry.to_str().and_then(|entry| entry.strip_prefix(name)) else { continue };
        if rest.is_empty() {
            found.push((0, false));
            continue;
        }
        let Some(rest) = rest.strip_prefix('.') else { continue };
        let (number, compressed) = rest.strip_suffix(".gz").map_or((rest, false), |number| (number, true));
        if let Some(number) = number.parse().ok().filter(|number| *number > 0) {
            found.push((number, compressed));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The current file for 0, its predecessors from 1 on.
fn rotated(path: &Path, number: u32, compressed: bool) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    if compressed {
        name.push(".gz");
    }
    PathBuf::from(name)
}
