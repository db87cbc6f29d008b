// SPDX-License-Identifier: Apache-2.0
//! Tar archives of a container's files, written as they are read: no more in memory than some pieces and the names of
//! files that have several.
//!
//! Everything is reached from held descriptors. A name is first opened without touching what it is; only a regular file is
//! then opened for reading, through that descriptor.

use std::ffi::{CStr, OsStr};
use std::io::{self, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use berth_domain::IdMap;
use berth_image::tar::Kind;
use berth_image::tar::write::{Header, Writer};
use berth_sys::in_root;
use berth_sys::links::Links;
use bytes::Bytes;
use rustix::fs::{FileType, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::container::view::{pin, reopen};
use crate::users::attributes;

/// Where archives go: pieces, at the end perhaps what went wrong.
pub(crate) type Pieces = mpsc::Sender<io::Result<Bytes>>;

const PIECE: usize = 256 << 10;
/// Each level holds a descriptor.
const MAX_DEPTH: usize = 512;
/// The longest value of an extended attribute and the longest list of names, as the kernel has them.
const XATTR_SIZE_MAX: usize = 64 << 10;

/// Filesystems whose content is the kernel's: entered, an archive of `/` would have no end.
const KERNELS: [i64; 12] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6165_676c, // pstore
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
];

/// What an archive is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Files as they are seen.
    Files,
    /// The upper directory of an overlay: whiteouts and opaque directories become what a layer has for them.
    Upper,
}

/// What a layer's archive has for a name that is gone, before the name (image spec, layer.md).
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Collects what is written into pieces of one size.
#[derive(Debug)]
struct Sink {
    pieces: Pieces,
    /// Of full length; so much of it is filled.
    buffer: Vec<u8>,
    filled: usize,
}

impl Sink {
    fn new(pieces: Pieces) -> Self {
        Self { pieces, buffer: vec![0; PIECE], filled: 0 }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let mut full = std::mem::replace(&mut self.buffer, vec![0; PIECE]);
        full.truncate(std::mem::take(&mut self.filled));
        self.pieces
            .blocking_send(Ok(full.into()))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"))
    }

    /// Room for so many bytes, or for fewer.
    fn room(&mut self, wanted: u64) -> io::Result<&mut [u8]> {
        if self.filled == PIECE {
            self.send()?;
        }
        let end = usize::try_from(wanted).unwrap_or(usize::MAX).min(PIECE - self.filled) + self.filled;
        Ok(&mut self.buffer[self.filled..end])
    }

    /// Reads a part of a file.
    fn read(&mut self, file: &OwnedFd, from: u64, to: u64) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let n = rustix::io::pread(file, self.room(to - at)?, at)?;
            if n == 0 {
                return Err(io::Error::other("it became shorter while it was read"));
            }
            self.filled += n;
            at += n as u64;
        }
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            let room = self.room(left)?;
            room.fill(0);
            let n = room.len();
            self.filled += n;
            left -= n as u64;
        }
        Ok(())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room(bytes.len() as u64)?;
        let n = room.len();
        room.copy_from_slice(&bytes[..n]);
        self.filled += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// An archive being written.
struct Tarball {
    out: Writer<Sink>,
    of: Of,
    /// The container's users, if they are not the host's.
    ids: Option<Arc<IdMap>>,
    /// The first names of files that have several.
    linked: Links,
    /// For extended attributes.
    names: Vec<u8>,
    value: Vec<u8>,
}

/// Writes an archive of `file` and what is beneath it, under the name `name` (none: only what is beneath it); a failure is its
/// last piece. Blocks.
pub(crate) fn send(pieces: Pieces, file: &OwnedFd, name: &[u8], of: Of, ids: Option<Arc<IdMap>>) {
    let failures = pieces.clone();
    let mut tarball = Tarball {
        out: Writer::new(Sink::new(pieces)),
        of,
        ids,
        linked: Links::default(),
        names: vec![0; XATTR_SIZE_MAX],
        value: vec![0; XATTR_SIZE_MAX],
    };
    let written = rustix::fs::fstat(file)
        .map_err(io::Error::from)
        .map(|stat| tarball.seen(stat))
        .and_then(|stat| tarball.node(file.as_fd(), name, &stat, stat.st_dev, 0))
        .and_then(|()| tarball.out.finish());
    if let Err(error) = written {
        if error.kind() != io::ErrorKind::BrokenPipe {
            tracing::warn!(%error, "an archive of a container's files is cut short");
        }
        if failures.blocking_send(Err(error)).is_err() {
            tracing::debug!("the client had gone");
        }
    }
}

fn header<'a>(kind: Kind, name: &'a [u8], stat: &Stat) -> Header<'a> {
    Header {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        ..Header::new(kind, name, stat.st_mode & 0o7777)
    }
}

impl Tarball {
    /// With the owners that the container sees.
    fn seen(&self, mut stat: Stat) -> Stat {
        if let Some(ids) = &self.ids {
            (stat.st_uid, stat.st_gid) = (ids.uid_inside(stat.st_uid), ids.gid_inside(stat.st_gid));
        }
        stat
    }

    /// One file, by an `O_PATH` descriptor of it.
    fn node(
        &mut self,
        file: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        parent_device: u64,
        depth: usize,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        // Tar has no sockets, nor names for them that a hard link could lead to.
        if kind == FileType::Socket {
            return Ok(());
        }
        if self.of == Of::Upper {
            if let Some(name) = in_layer(name, kind, stat)? {
                return match name {
                    Mark::Whiteout(name) => self.out.entry(&Header::new(Kind::File, &name, 0)),
                    Mark::Unsayable => Ok(()),
                };
            }
        }
        if kind == FileType::Directory {
            return self.directory(file, name, stat, parent_device, depth);
        }
        if let Some(link) = self.linked.met(stat, name) {
            return self.out.entry(&Header { link: &link, ..header(Kind::HardLink, name, stat) });
        }
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        match kind {
            FileType::RegularFile => self.regular(file, name, stat),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(file, c"", Vec::new())?;
                self.out.entry(&Header { link: target.as_bytes(), ..header(Kind::Symlink, name, stat) })
            }
            FileType::CharacterDevice => self.out.entry(&Header { device, ..header(Kind::Char, name, stat) }),
            FileType::BlockDevice => self.out.entry(&Header { device, ..header(Kind::Block, name, stat) }),
            FileType::Fifo => self.out.entry(&header(Kind::Fifo, name, stat)),
            _ => Ok(()),
        }
    }

    fn directory(
        &mut self,
        file: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        parent_device: u64,
        depth: usize,
    ) -> io::Result<()> {
        let mut path = name.to_vec();
        if !matches!(path.last(), None | Some(b'/')) {
            path.push(b'/');
        }
        if depth > MAX_DEPTH {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the tree is too deep"));
        }
        let listing = reopen(file, OFlags::RDONLY | OFlags::DIRECTORY)?;
        // Without a name, only what is in it is archived.
        if !path.is_empty() {
            let xattrs = self.attributes(&listing)?;
            self.out.entry(&Header { xattrs: &xattrs, ..header(Kind::Directory, &path, stat) })?;
        }
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        let kernels = || Ok::<_, io::Error>(KERNELS.contains(&i64::from(rustix::fs::fstatfs(file)?.f_type)));
        if stat.st_dev != parent_device && kernels()? {
            return Ok(());
        }
        let prefix = path.len();
        if self.of == Of::Upper && prefix > 0 && is_opaque(&listing)? {
            path.extend_from_slice(OPAQUE);
            self.out.entry(&Header::new(Kind::File, &path, 0))?;
        }
        for child in in_root::listing(&listing)? {
            let (child, _) = child?;
            path.truncate(prefix);
            path.extend_from_slice(child.as_bytes());
            let found = pin(listing.as_fd(), OsStr::from_bytes(child.as_bytes()))
                .and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)));
            match found {
                Ok((child_stat, fd)) => {
                    let child_stat = self.seen(child_stat);
                    self.node(fd.as_fd(), &path, &child_stat, stat.st_dev, depth + 1)?;
                }
                // It went away since the directory was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn regular(&mut self, file: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> io::Result<()> {
        let opened = reopen(file, OFlags::RDONLY)?;
        let xattrs = self.attributes(&opened)?;
        // What grows meanwhile is cut at the size that is promised here.
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.out.entry(&Header { size, xattrs: &xattrs, ..header(Kind::File, name, stat) })?;
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let copied =
            if allocated < size { self.sparse(&opened, size) } else { self.extent(&opened, 0, size) };
        copied.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => error,
            kind => io::Error::new(kind, format!("{:?}: {error}", String::from_utf8_lossy(name))),
        })
    }

    fn extent(&mut self, file: &OwnedFd, from: u64, to: u64) -> io::Result<()> {
        self.out.data_by(to - from, |sink| sink.read(file, from, to))
    }

    /// Holes are written without being read.
    fn sparse(&mut self, file: &OwnedFd, size: u64) -> io::Result<()> {
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(start) => start.clamp(at, size),
                Err(Errno::NXIO) => size,
                // A filesystem that does not know holes.
                Err(Errno::INVAL) => return self.extent(file, at, size),
                Err(error) => return Err(error.into()),
            };
            self.out.data_by(start - at, |sink| sink.zeros(start - at))?;
            if start == size {
                break;
            }
            let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
                Ok(end) => end.clamp(start + 1, size),
                Err(Errno::INVAL | Errno::NXIO) => size,
                Err(error) => return Err(error.into()),
            };
            self.extent(file, start, end)?;
            at = end;
        }
        Ok(())
    }

    /// The attributes that belong to the file, and not to the filesystem it is on or to the host's policy.
    fn attributes(&mut self, file: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let listed = match rustix::fs::flistxattr(file, &mut self.names[..]) {
            Ok(listed) => listed,
            Err(Errno::OPNOTSUPP) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for name in self.names[..listed].split(|b| *b == 0).filter(|name| is_the_files(name)) {
            match rustix::fs::fgetxattr(file, name, &mut self.value[..]) {
                Ok(n) => {
                    let value = &self.value[..n];
                    let seen = match &self.ids {
                        None => Some(value.to_vec()),
                        Some(ids) => attributes::inside(name, value, ids),
                    };
                    found.extend(seen.map(|value| (name.to_vec(), value)));
                }
                // Removed since they were listed; or of an access list that the filesystem has no more.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }
}

/// Whether an attribute goes with a file into archives and out of them.
pub(crate) fn is_the_files(name: &[u8]) -> bool {
    const EXACTLY: [&[u8]; 3] =
        [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];
    EXACTLY.contains(&name) || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

enum Mark {
    Whiteout(Vec<u8>),
    /// A layer would take its name for a whiteout.
    Unsayable,
}

/// What a name of an upper directory is in a layer, if it is not itself.
fn in_layer(path: &[u8], kind: FileType, stat: &Stat) -> io::Result<Option<Mark>> {
    let cut = path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    let (directory, name) = path.split_at(cut);
    if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
        return Ok(Some(Mark::Whiteout([directory, WHITEOUT, name].concat())));
    }
    if name.starts_with(WHITEOUT) {
        tracing::warn!(path = %String::from_utf8_lossy(path), "a file that a layer cannot have is left out");
        return Ok(Some(Mark::Unsayable));
    }
    Ok(None)
}

/// Whether an upper directory hides what is below it.
pub(crate) fn is_opaque(directory: &OwnedFd) -> io::Result<bool> {
    const NAME: &CStr = c"trusted.overlay.opaque";
    let mut mark = [0; 1];
    match rustix::fs::fgetxattr(directory, NAME, &mut mark) {
        Ok(n) => Ok(n == 1 && mark == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use berth_image::tar::Reader;

    use super::*;

    fn archive(dir: &std::path::Path, name: &'static [u8], of: Of) -> Vec<u8> {
        let file = rustix::fs::open(dir, OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let (pieces, mut arriving) = mpsc::channel(4);
        let writer = std::thread::spawn(move || send(pieces, &file, name, of, None));
        let mut bytes = Vec::new();
        while let Some(piece) = arriving.blocking_recv() {
            bytes.extend_from_slice(&piece.unwrap());
        }
        writer.join().unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let long = "n".repeat(120);
        std::fs::write(dir.path().join(&long), vec![7; 300_000]).unwrap();
        std::fs::hard_link(dir.path().join(&long), dir.path().join("zz")).unwrap();
        std::os::unix::fs::symlink("t".repeat(150), dir.path().join("link")).unwrap();
        let bytes = archive(dir.path(), b"top", Of::Files);
        let mut archive = Reader::new(&bytes[..]);
        let mut seen = Vec::new();
        while let Some(entry) = archive.next_entry().unwrap() {
            seen.push((entry.kind, String::from_utf8(entry.path).unwrap(), entry.size, entry.link.len()));
        }
        assert_eq!(seen[0], (Kind::Directory, "top/".into(), 0, 0));
        assert!(seen.contains(&(Kind::Symlink, "top/link".into(), 0, 150)), "{seen:?}");
        let files: Vec<_> = seen.iter().filter(|e| e.0 == Kind::File).collect();
        let links: Vec<_> = seen.iter().filter(|e| e.0 == Kind::HardLink).collect();
        assert_eq!((files.len(), links.len(), files[0].2), (1, 1, 300_000));
    }

    #[test]
    fn holes_are_zeros_and_data_between_them_is_itself() {
        use std::os::unix::fs::FileExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(b"here", 5 << 20).unwrap();
        let bytes = archive(dir.path(), b"", Of::Files);
        let mut archive = Reader::new(&bytes[..]);
        assert_eq!(archive.next_entry().unwrap().unwrap().size, 10 << 20);
        let content = &bytes[bytes.len() - 1024 - (10 << 20)..bytes.len() - 1024];
        assert_eq!(&content[5 << 20..(5 << 20) + 4], b"here");
        assert_eq!(content.iter().filter(|b| **b != 0).count(), 4);
    }

    #[test]
    fn what_an_archive_cannot_say_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        std::fs::hard_link(dir.path().join("socket"), dir.path().join("again")).unwrap();
        std::fs::create_dir_all(dir.path().join(".wh.etc/sub")).unwrap();
        std::fs::write(dir.path().join("kept"), "").unwrap();
        let names = |of| {
            let bytes = archive(dir.path(), b"", of);
            let mut archive = Reader::new(&bytes[..]);
            let mut names = Vec::new();
            while let Some(entry) = archive.next_entry().unwrap() {
                names.push(String::from_utf8(entry.path).unwrap());
            }
            names.sort();
            names
        };
        assert_eq!(names(Of::Upper), ["kept"], "a layer would take the directory for the end of /etc");
        assert_eq!(names(Of::Files), [".wh.etc/", ".wh.etc/sub/", "kept"]);
    }

    #[test]
    fn an_upper_directory_becomes_a_layer() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["anew", "kept"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("kept/.wh.x"), "").unwrap();
        let (mode, node) = (rustix::fs::Mode::empty(), FileType::CharacterDevice);
        if rustix::fs::mknodat(rustix::fs::CWD, at("kept/gone"), node, mode, 0).is_err() {
            return;
        }
        let anew = rustix::fs::open(at("anew"), OFlags::RDONLY, mode).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::fsetxattr(&anew, "trusted.overlay.opaque", b"y", flags).is_err() {
            return;
        }
        let bytes = archive(dir.path(), b"", Of::Upper);
        let mut archive = Reader::new(&bytes[..]);
        let mut seen = Vec::new();
        while let Some(entry) = archive.next_entry().unwrap() {
            seen.push(String::from_utf8(entry.path).unwrap());
        }
        seen.sort();
        assert_eq!(seen, ["anew/", "anew/.wh..wh..opq", "kept/", "kept/.wh.gone"]);
    }
}
