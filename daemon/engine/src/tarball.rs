// SPDX-License-Identifier: Apache-2.0
//! Tar archives of a container's files, written as they are read: POSIX headers, PAX records where those are too small,
//! no more in memory than one buffer and the names of files that have several.
//!
//! Everything is reached from held descriptors. A name is first opened without touching what it is; only a regular file is
//! then opened for reading, through that descriptor.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use berth_sys::in_root;
use bytes::Bytes;
use rustix::fs::{FileType, OFlags, Stat};
use tokio::sync::mpsc;

use crate::container::view::{pin, reopen};

/// Where archives go: pieces, at the end perhaps what went wrong.
pub(crate) type Pieces = mpsc::Sender<io::Result<Bytes>>;

const BLOCK: usize = 512;
const PIECE: usize = 128 << 10;
/// Each level holds a descriptor.
const MAX_DEPTH: usize = 512;

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

/// Collects what is written into pieces of one size.
struct Sink {
    pieces: Pieces,
    buffer: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE + BLOCK));
        self.pieces
            .blocking_send(Ok(full.into()))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"))
    }
}

/// An archive being written.
pub(crate) struct Tarball {
    sink: Sink,
    /// The first names of files that have several.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

/// Writes an archive of `file` and what is beneath it, under the name `name` (none: only what is beneath it); a failure is its last piece. Blocks.
pub(crate) fn send(pieces: Pieces, file: &OwnedFd, name: &[u8]) {
    let failures = pieces.clone();
    let mut tarball =
        Tarball { sink: Sink { pieces, buffer: Vec::with_capacity(PIECE + BLOCK) }, linked: HashMap::new() };
    let written = rustix::fs::fstat(file)
        .map_err(io::Error::from)
        .and_then(|stat| tarball.node(file.as_fd(), name, &stat, stat.st_dev, 0))
        .and_then(|()| tarball.sink.write_all(&[0; 2 * BLOCK]))
        .and_then(|()| tarball.sink.flush());
    if let Err(error) = written {
        if error.kind() != io::ErrorKind::BrokenPipe {
            tracing::warn!(%error, "an archive of a container's files is cut short");
        }
        if failures.blocking_send(Err(error)).is_err() {
            tracing::debug!("the client had gone");
        }
    }
}

impl Tarball {
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
        if kind == FileType::Directory {
            return self.directory(file, name, stat, parent_device, depth);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                let first = first.clone();
                return self.header(b'1', name, &first, stat, 0, &[]);
            }
            self.linked.insert((stat.st_dev, stat.st_ino), name.to_vec());
        }
        match kind {
            FileType::RegularFile => self.regular(file, name, stat),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(file, c"", Vec::new())?.into_bytes();
                self.header(b'2', name, &target, stat, 0, &[])
            }
            FileType::CharacterDevice => self.header(b'3', name, b"", stat, 0, &[]),
            FileType::BlockDevice => self.header(b'4', name, b"", stat, 0, &[]),
            FileType::Fifo => self.header(b'6', name, b"", stat, 0, &[]),
            // Tar has no sockets.
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
        let mut prefix = name.to_vec();
        if !matches!(prefix.last(), None | Some(b'/')) {
            prefix.push(b'/');
        }
        // Without a name, only what is in it is archived.
        if !prefix.is_empty() {
            self.header(b'5', &prefix, b"", stat, 0, &[])?;
        }
        if depth > MAX_DEPTH {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the tree is too deep"));
        }
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        let kernels = || Ok::<_, io::Error>(KERNELS.contains(&i64::from(rustix::fs::fstatfs(file)?.f_type)));
        if stat.st_dev != parent_device && kernels()? {
            return Ok(());
        }
        let listing = reopen(file, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for (child, _) in in_root::entries(&listing)? {
            let child_name = [&prefix, child.as_bytes()].concat();
            let found = pin(listing.as_fd(), OsStr::from_bytes(child.as_bytes()))
                .and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)));
            match found {
                Ok((child_stat, fd)) => {
                    self.node(fd.as_fd(), &child_name, &child_stat, stat.st_dev, depth + 1)?;
                }
                // It went away since the directory was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn regular(&mut self, file: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> io::Result<()> {
        let opened = std::fs::File::from(reopen(file, OFlags::RDONLY)?);
        let mut value = vec![0; 1024];
        let mut records = Vec::new();
        match rustix::fs::fgetxattr(&opened, "security.capability", &mut value[..]) {
            Ok(n) => records.push((b"SCHILY.xattr.security.capability".to_vec(), value[..n].to_vec())),
            // None, or no filesystem for it.
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.header(b'0', name, b"", stat, size, &records)?;
        // What grows meanwhile is cut at the size that was promised.
        let mut content = opened.take(size);
        let mut chunk = vec![0; PIECE];
        let mut copied = 0;
        loop {
            let n = content.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            copied += n as u64;
            self.sink.write_all(&chunk[..n])?;
        }
        if copied < size {
            let name = String::from_utf8_lossy(name);
            return Err(io::Error::other(format!("{name:?} became shorter while it was read")));
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.sink.write_all(&[0; BLOCK][..rest])
    }

    fn header(
        &mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        stat: &Stat,
        size: u64,
        records: &[(Vec<u8>, Vec<u8>)],
    ) -> io::Result<()> {
        let mut pax = Vec::new();
        for (key, value) in records {
            record(&mut pax, key, value);
        }
        if name.len() > 100 {
            record(&mut pax, b"path", name);
        }
        if link.len() > 100 {
            record(&mut pax, b"linkpath", link);
        }
        let mut number = |key: &str, value: i64, digits: u32| -> u64 {
            match u64::try_from(value) {
                Ok(value) if value < 1 << (3 * digits) => value,
                _ => {
                    record(&mut pax, key.as_bytes(), value.to_string().as_bytes());
                    0
                }
            }
        };
        let numbers = Numbers {
            uid: number("uid", i64::from(stat.st_uid), 7),
            gid: number("gid", i64::from(stat.st_gid), 7),
            size: number("size", i64::try_from(size).unwrap_or(i64::MAX), 11),
            mtime: number("mtime", stat.st_mtime, 11),
            mode: u64::from(stat.st_mode & 0o7777),
            device: match kind {
                b'3' | b'4' => (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
                _ => (0, 0),
            },
        };
        if !pax.is_empty() {
            let size = pax.len() as u64;
            let extended = Numbers { size, mode: 0o644, uid: 0, gid: 0, mtime: 0, device: (0, 0) };
            self.sink.write_all(&block(b'x', b"././@PaxHeader", b"", &extended))?;
            self.sink.write_all(&pax)?;
            self.pad(size)?;
        }
        self.sink.write_all(&block(kind, name, link, &numbers))
    }
}

struct Numbers {
    mode: u64,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    device: (u32, u32),
}

fn block(kind: u8, name: &[u8], link: &[u8], numbers: &Numbers) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name[..name.len().min(100)]);
    put(100, format!("{:07o}", numbers.mode).as_bytes());
    put(108, format!("{:07o}", numbers.uid).as_bytes());
    put(116, format!("{:07o}", numbers.gid).as_bytes());
    put(124, format!("{:011o}", numbers.size).as_bytes());
    put(136, format!("{:011o}", numbers.mtime).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", numbers.device.0).as_bytes());
    put(337, format!("{:07o}", numbers.device.1 & 0o777_7777).as_bytes());
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// `<length> <key>=<value>\n`, the length counting itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use berth_image::tar::{Kind, Reader};

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let long = "n".repeat(120);
        std::fs::write(dir.path().join(&long), vec![7; 300_000]).unwrap();
        std::fs::hard_link(dir.path().join(&long), dir.path().join("zz")).unwrap();
        std::os::unix::fs::symlink("t".repeat(150), dir.path().join("link")).unwrap();
        let file = rustix::fs::open(dir.path(), OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let (pieces, mut arriving) = mpsc::channel(4);
        let writer = std::thread::spawn(move || send(pieces, &file, b"top"));
        let mut bytes = Vec::new();
        while let Some(piece) = arriving.blocking_recv() {
            bytes.extend_from_slice(&piece.unwrap());
        }
        writer.join().unwrap();
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
}
