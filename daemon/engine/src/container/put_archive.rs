// SPDX-License-Identifier: Apache-2.0
//! `PutContainerArchive`: an archive unpacked in a directory of a container.
//!
//! The archive may be hostile, and so may the container, which may rename and relink while it is written to. So each
//! entry's directory is looked up by the kernel with the container's root as `/`, and the last component is only ever
//! created or removed in it, never followed. What is packed is unpacked here, before the root is looked at, by no program.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use berth_domain::{Error, IdMap, Result};
use berth_image::tar;
use bytes::{Buf as _, Bytes};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::Engine;
use crate::container::archive::{ArchivePieces, Asked};
use crate::container::place::Place;
use crate::container::view::{Purpose, View};
use crate::files::blocking;

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// A directory is not replaced by something else, nor something else by a directory.
    pub keep_kinds: bool,
    /// All belongs to the user that the container runs as, if it names one.
    pub container_user: bool,
}

/// Padding after an archive that is read, so that the connection can be used again.
const TRAILING_MAX: u64 = 1 << 20;
/// Of /etc/passwd and /etc/group.
const USERS_MAX: u64 = 1 << 20;

impl Engine {
    /// Unpacks an archive (as such, or packed with gzip, bzip2, xz or zstd) in a directory of a container.
    ///
    /// # Errors
    ///
    /// No such container; no such directory; it is read-only (forbidden); the archive is damaged. What came before
    /// the error stays.
    pub async fn put_container_archive(
        self: &Arc<Self>,
        name: &str,
        path: &str,
        options: PutOptions,
        archive: ArchivePieces,
    ) -> Result<()> {
        let handle = self.index.resolve(name)?;
        let asked = Asked::new(name, path)?;
        let view = self.view(&handle, Purpose::Write).await?;
        let now = handle.now();
        let user = Some(now.config.user.clone()).filter(|user| options.container_user && !user.is_empty());
        let read_only_root = now.host_config.readonly_rootfs;
        blocking(move || {
            let ids = view.ids();
            let put = Put { view: &view, asked: &asked, read_only_root, ids: ids.as_deref() };
            let run = || put.run(options, user.as_deref(), Arriving::new(archive));
            match &ids {
                None => run(),
                // What is made on the way belongs to the container's root.
                Some(ids) => berth_sys::mapped::as_owner(ids.root(), run)
                    .map_err(|error| Error::internal("unpacking the archive").because(error))?,
            }
        })
        .await?;
        self.container_event(&handle.now(), "extract-to-dir", &[]);
        Ok(())
    }
}

struct Put<'a> {
    view: &'a View,
    asked: &'a Asked,
    read_only_root: bool,
    ids: Option<&'a IdMap>,
}

impl Put<'_> {
    fn run(&self, options: PutOptions, user: Option<&str>, arriving: Arriving) -> Result<()> {
        let root = self.view.root();
        let target = root
            .open(&self.asked.clean, OFlags::PATH, Mode::empty())
            .map_err(|error| self.asked.refused(error))?;
        let stat = rustix::fs::fstat(&target).map_err(|error| self.asked.refused(error.into()))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
            return Err(Error::invalid("extraction point is not a directory"));
        }
        let fs = rustix::fs::fstatvfs(&target).map_err(|error| self.asked.refused(error.into()))?;
        if fs.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(self.read_only());
        }
        let owner = user.map(|user| self.owner(user)).transpose()?;
        let (_, plain) = berth_image::packed::open_buffered(arriving).map_err(|error| self.failed(error))?;
        let mut archive = tar::Reader::new(plain);
        let mut place = Place::new(root, &self.asked.clean, options.keep_kinds, owner, self.ids);
        let mut unpack = || -> io::Result<()> {
            while let Some(entry) = archive.next_entry()? {
                place.entry(&mut archive, &entry).map_err(|error| {
                    let name = String::from_utf8_lossy(&entry.path);
                    match Errno::from_io_error(&error) {
                        Some(Errno::ROFS) => error,
                        _ => io::Error::new(error.kind(), format!("{name}: {error}")),
                    }
                })?;
            }
            place.finish()
        };
        unpack().map_err(|error| self.failed(error))?;
        let mut rest = archive.into_inner().take(TRAILING_MAX);
        // The archive is whole; what cannot be read after it is nobody's loss.
        if let Err(error) = io::copy(&mut rest, &mut io::sink()) {
            tracing::debug!(%error, "reading what follows an archive");
        }
        Ok(())
    }

    fn read_only(&self) -> Error {
        Error::forbidden(if self.read_only_root {
            "container rootfs is marked read-only"
        } else {
            "mounted volume is marked read-only"
        })
    }

    fn failed(&self, error: io::Error) -> Error {
        if Errno::from_io_error(&error) == Some(Errno::ROFS) {
            return self.read_only();
        }
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
                Error::invalid(error.to_string())
            }
            io::ErrorKind::ConnectionAborted => Error::cancelled("reading the archive").because(error),
            _ => Error::internal("unpacking the archive").because(error),
        }
    }

    /// `user[:group]`, by number or as the container's own files name them.
    fn owner(&self, text: &str) -> Result<(u32, u32)> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let unknown = |what: &str, name: &str, file: &str| {
            Error::invalid(format!("unable to find {what} {name}: no matching entries in {file} file"))
        };
        let passwd = self.table("/etc/passwd");
        let by_number = user.parse::<u32>().ok();
        let found = passwd.get(user).copied().or_else(|| {
            by_number.map(|uid| {
                let gid = passwd.values().find(|(u, _)| *u == uid).map_or(0, |(_, gid)| *gid);
                (uid, gid)
            })
        });
        let (uid, gid) = found.ok_or_else(|| unknown("user", user, "passwd"))?;
        let gid = match group {
            None => gid,
            Some(group) => match self.table("/etc/group").get(group) {
                Some((gid, _)) => *gid,
                None => group.parse().map_err(|_| unknown("group", group, "group"))?,
            },
        };
        Ok((uid, gid))
    }

    /// Names of /etc/passwd or /etc/group with the two numbers (or the one) after them.
    fn table(&self, path: &str) -> HashMap<String, (u32, u32)> {
        let mut text = String::new();
        let read = self
            .view
            .root()
            .resolve(path.as_ref())
            .and_then(|file| {
                let stat = rustix::fs::fstat(&file)?;
                match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
                    rustix::fs::FileType::RegularFile => {}
                    _ => return Err(io::ErrorKind::InvalidInput.into()),
                }
                crate::container::view::reopen(std::os::fd::AsFd::as_fd(&file), OFlags::RDONLY)
            })
            .and_then(|file| std::fs::File::from(file).take(USERS_MAX).read_to_string(&mut text));
        if let Err(error) = read {
            tracing::debug!(path, %error, "a container's users cannot be read");
        }
        let line = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let first = fields.nth(1)?.parse().ok()?;
            Some((name, (first, fields.next().and_then(|f| f.parse().ok()).unwrap_or(0))))
        };
        text.lines().filter_map(line).collect()
    }
}

/// Pieces of an archive, arriving.
pub(crate) struct Arriving {
    archive: ArchivePieces,
    piece: Bytes,
}

impl Arriving {
    pub(crate) fn new(archive: ArchivePieces) -> Self {
        Self { archive, piece: Bytes::new() }
    }
}

impl Read for Arriving {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.len().min(out.len());
        self.piece.copy_to_slice(&mut out[..n]);
        Ok(n)
    }
}

impl BufRead for Arriving {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            match self.archive.blocking_recv() {
                None => break,
                Some(piece) => self.piece = piece?,
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, n: usize) {
        self.piece.advance(n);
    }
}
