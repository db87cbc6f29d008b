// SPDX-License-Identifier: Apache-2.0
//! From the bytes of a layer's blob to a directory, in one pass and on two threads:
//!
//! ```text
//! bytes -> sha256 (blob) -> inflate -> sha256 (diff id) -+- bounded buffers -> tar -> files
//!          `-> the caller's tee (the blob's file)        |
//!          one thread                                    |      another
//! ```
//! Nothing is trusted until both sums are known: what is made lies in staging, and is removed with [`Staged`].

mod buffers;
mod meta;

#[cfg(test)]
mod tests;

pub(crate) use meta::Meta;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use berth_domain::{Digest, Error, Result};
use sha2::{Digest as _, Sha256};

use crate::document::{Packing, finished};
use crate::layout::{Layout, make_new_dir, no_room, remove_dir};
use crate::tar;
use crate::unpack::{self, Limits, Unpacked};

/// The largest window a zstd frame may ask for, as a power of two: 128 MiB, what `zstd` itself accepts unasked.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Bytes after the end of a layer's archive; writers pad to some kilobytes.
const TRAILING_MAX: usize = 16 << 20;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A layer unpacked in staging, not yet a layer of the store. Removed when dropped, unless it was put in place.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) diff_id: Digest,
    pub(crate) blob: Digest,
    pub(crate) blob_size: u64,
    /// Where the blob lies in staging, unless it is in its place already.
    pub(crate) blob_file: Option<PathBuf>,
    dir: PathBuf,
    placed: AtomicBool,
}

impl Staged {
    /// The directory to move to its place; the caller has the writer's lock. `None` when that was done before.
    pub(crate) fn take(&self) -> Option<&Path> {
        (!self.placed.swap(true, Ordering::AcqRel)).then_some(&*self.dir)
    }

    /// Where it lies in staging.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.placed.load(Ordering::Acquire) {
            if let Err(error) = remove_dir(&self.dir) {
                tracing::warn!(path = %self.dir.display(), error = %error.chain(), "left in staging until the next start");
            }
        }
    }
}

/// Whether the layer is in its place, with its record.
pub(crate) fn is_in_place(layout: &Layout, diff_id: &Digest) -> bool {
    layout.layer_fs(diff_id).is_dir() && Meta::read(&layout.layer(diff_id)).is_ok()
}

/// What an extraction is told and tells.
pub(crate) struct Extraction<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) limits: &'a Limits,
    /// What it has to be packed with, where that is known.
    pub(crate) packing: Option<Packing>,
    pub(crate) given_up: &'a AtomicBool,
    /// Bytes of the blob that have been taken in.
    pub(crate) taken: &'a AtomicU64,
}

/// Unpacks the layer that `blob` streams, to its end, into a new directory in staging. Blocks.
pub(crate) fn extract(blob: impl Read, with: &Extraction<'_>) -> Result<Staged> {
    let dir = with.layout.fresh("layer");
    make_new_dir(&dir, 0o710)?;
    // From here on the directory goes when this does.
    let zero = Digest::from_sha256([0; 32]);
    let mut staged = Staged {
        diff_id: zero.clone(),
        blob: zero,
        blob_size: 0,
        blob_file: None,
        dir: dir.clone(),
        placed: AtomicBool::new(false),
    };
    let fs = dir.join("fs");
    // 0700 until it is done: nobody else may look in, let alone write.
    make_new_dir(&fs, 0o700)?;
    let root: OwnedFd = File::open(&fs).map_err(|e| Error::io("opening", &fs, e))?.into();
    let (sums, unpacked) = pump(blob, root, with)?;
    (staged.diff_id, staged.blob, staged.blob_size) = sums;
    std::fs::set_permissions(&fs, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(|e| Error::io("opening up", &fs, e))?;
    Meta::new(&staged.diff_id, &unpacked).write(&dir)?;
    Ok(staged)
}

/// Of the content, of the blob; the blob's length.
pub(crate) type Sums = (Digest, Digest, u64);

fn pump(blob: impl Read, root: OwnedFd, with: &Extraction<'_>) -> Result<(Sums, Unpacked)> {
    let (mut sink, source) = buffers::channel();
    std::thread::scope(|scope| {
        let files = std::thread::Builder::new()
            .name("layer-files".into())
            .spawn_scoped(scope, move || -> io::Result<Unpacked> {
                let mut archive = tar::Reader::new(source);
                let unpacked = unpack::unpack(&mut archive, root, with.limits, with.given_up)?;
                // What follows the archive's end is part of the diff id, too.
                let mut rest = archive.into_inner();
                let mut followed = 0;
                loop {
                    let n = rest.fill_buf()?.len();
                    if n == 0 {
                        return Ok(unpacked);
                    }
                    rest.consume(n);
                    followed += n;
                    if followed > TRAILING_MAX {
                        return Err(tar::bad("the layer goes on after its archive's end"));
                    }
                }
            })
            .map_err(|e| Error::internal("starting a thread").because(e))?;
        let sums = inflate(blob, &mut sink, with);
        match sums {
            Ok(_) => sink.finish(),
            // Dropped unfinished, so that the other side does not take a broken stream for a whole one.
            Err(_) => drop(sink),
        }
        let unpacked = match files.join() {
            Ok(unpacked) => unpacked,
            Err(_) => return Err(Error::internal("unpacking a layer panicked")),
        };
        match (sums, unpacked) {
            (Ok(sums), Ok(unpacked)) => Ok((sums, unpacked)),
            // The reading side's failure came first unless it was only told that nobody reads any more.
            (Err(e), _) if !buffers::is_hung_up(&e) => Err(to_error("reading the layer", e)),
            (_, Err(e)) => Err(to_error("unpacking the layer", e)),
            (Err(e), Ok(_)) => Err(to_error("reading the layer", e)),
        }
    })
}

/// The blob, counted, summed and watched.
struct Tee<'a, R> {
    blob: R,
    sum: Sha256,
    with: &'a Extraction<'a>,
    read: u64,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.with.given_up.load(Ordering::Relaxed) {
            return Err(io::Error::other(Error::cancelled("given up")));
        }
        let n = self.blob.read(buffer)?;
        self.sum.update(&buffer[..n]);
        self.read += n as u64;
        self.with.taken.store(self.read, Ordering::Relaxed);
        Ok(n)
    }
}

fn inflate(blob: impl Read, sink: &mut buffers::Sink, with: &Extraction<'_>) -> io::Result<Sums> {
    let tee = Tee { blob, sum: Sha256::new(), with, read: 0 };
    let mut input = BufReader::with_capacity(128 << 10, tee);
    let found = sniff(&mut input)?;
    if with.packing.is_some_and(|declared| declared != found) {
        return Err(tar::bad(format!(
            "{} expected, and it is {}",
            with.packing.map_or("", name),
            name(found)
        )));
    }
    let mut diff = Sha256::new();
    match found {
        Packing::Plain => copy(&mut input, &mut diff, sink)?,
        Packing::Gzip => copy(&mut flate2::bufread::MultiGzDecoder::new(&mut input), &mut diff, sink)?,
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            copy(&mut decoder, &mut diff, sink)?;
        }
    }
    // A decoder may stop before the blob does; the blob's sum may not.
    io::copy(&mut input, &mut io::sink())?;
    let tee = input.into_inner();
    Ok((finished(diff), finished(tee.sum), tee.read))
}

/// The digests of what a blob packs and of itself, and its length, without unpacking it. Blocks.
pub(crate) fn sums(blob: impl Read, packing: Packing) -> io::Result<Sums> {
    struct Summed<R> {
        inner: R,
        sum: Sha256,
        read: u64,
    }
    impl<R: Read> Read for Summed<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.inner.read(buffer)?;
            self.sum.update(&buffer[..n]);
            self.read += n as u64;
            Ok(n)
        }
    }
    let summed = Summed { inner: blob, sum: Sha256::new(), read: 0 };
    let mut input = BufReader::with_capacity(128 << 10, summed);
    let mut diff = Sha256::new();
    let mut sum_all = |from: &mut dyn Read| -> io::Result<()> {
        let mut buffer = vec![0; 128 << 10];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => diff.update(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    };
    match packing {
        Packing::Plain => sum_all(&mut input)?,
        Packing::Gzip => sum_all(&mut flate2::bufread::MultiGzDecoder::new(&mut input))?,
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            sum_all(&mut decoder)?;
        }
    }
    io::copy(&mut input, &mut io::sink())?;
    let summed = input.into_inner();
    Ok((finished(diff), finished(summed.sum), summed.read))
}

fn name(packing: Packing) -> &'static str {
    match packing {
        Packing::Plain => "a plain tar archive",
        Packing::Gzip => "gzip",
        Packing::Zstd => "zstd",
    }
}

/// What the first bytes are; the formats that are not understood are named, everything else is taken for tar.
pub(crate) fn sniff(input: &mut impl BufRead) -> io::Result<Packing> {
    let start = input.fill_buf()?;
    if start.starts_with(GZIP_MAGIC) {
        return Ok(Packing::Gzip);
    }
    // Skippable frames may come first (RFC 8878, 3.1.2).
    let skippable =
        start.len() >= 4 && (0x50..=0x5f).contains(&start[0]) && start[1..4] == [0x2a, 0x4d, 0x18];
    if start.starts_with(ZSTD_MAGIC) || skippable {
        return Ok(Packing::Zstd);
    }
    let foreign = match start {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("bzip2"),
        _ => None,
    };
    match foreign {
        Some(name) => Err(io::Error::other(Error::not_implemented(format!(
            "{name} compression is not supported: gzip, zstd or none expected"
        )))),
        None => Ok(Packing::Plain),
    }
}

fn copy(from: &mut impl Read, sum: &mut Sha256, sink: &mut buffers::Sink) -> io::Result<()> {
    loop {
        let mut buffer = sink.buffer();
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        sum.update(&buffer[..filled]);
        sink.send(buffer, filled)?;
    }
}

/// The error with its meaning: one of ours that passed through a reader, a bad archive, or the host's.
pub(crate) fn to_error(doing: &str, error: io::Error) -> Error {
    if let Some(words) = no_room(&error) {
        return Error::internal(format!("{doing}: {words}"));
    }
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Error::invalid(doing).because(error),
        // The texts of Go's and of flate2's for what ends early.
        io::ErrorKind::UnexpectedEof => Error::invalid(doing).because("unexpected EOF"),
        kind => match error.downcast::<Error>() {
            Ok(ours) => ours,
            // What the host did not say, a decoder did: of a bad stream.
            Err(error) if kind == io::ErrorKind::Other && error.raw_os_error().is_none() => {
                Error::invalid(doing).because(error)
            }
            Err(error) => Error::internal(doing).because(error),
        },
    }
}
