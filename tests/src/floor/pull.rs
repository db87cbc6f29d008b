// SPDX-License-Identifier: Apache-2.0
//! The floor of a pull: manifest and layers over plain HTTP, both sums of each layer, decoded by the same decoders, files
//! created relative to held directories, all layers at once, and one `syncfs`. No engine, no store, no records, no
//! progress, no resumption, no blobs kept; names are trusted.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const REGISTRY: &str = "127.0.0.1:5000";
const PIECE: usize = 256 << 10;

/// Pulls the image that each line on standard input names, and answers wall and CPU microseconds.
///
/// # Panics
///
/// When any step fails: there is nothing to fall back to.
pub fn serve_pulls(data: &Path) {
    for (number, line) in io::stdin().lock().lines().enumerate() {
        let image = line.expect("standard input");
        let root = data.join(format!("floor-{number}"));
        std::fs::create_dir(&root).expect("a folder");
        let (begun, used) = (Instant::now(), cpu());
        pull(image.trim(), &root);
        let (took, used) = (begun.elapsed().as_micros(), cpu() - used);
        println!("{took} {used}");
        std::fs::remove_dir_all(&root).expect("removing what was pulled");
        rustix::fs::syncfs(std::fs::File::open(data).expect("the disk")).expect("syncing");
    }
}

/// Microseconds of this process.
fn cpu() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the structure that the pointer is to, which is large enough.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0, "getrusage");
        usage.assume_init()
    };
    [usage.ru_utime, usage.ru_stime].iter().map(|t| t.tv_sec * 1_000_000 + t.tv_usec).sum()
}

fn get(path: &str) -> io::Take<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(REGISTRY).expect("the registry");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {REGISTRY}\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("asking");
    let mut reader = BufReader::with_capacity(PIECE, stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a head");
        match line.trim_end().to_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().expect("a length"),
            Some(_) => {}
            None if line.trim_end().is_empty() => return reader.take(length),
            None => assert!(line.contains(" 200 "), "{path}: {line}"),
        }
    }
}

fn pull(image: &str, root: &Path) {
    let manifest: Value =
        serde_json::from_reader(get(&format!("/v2/library/{image}/manifests/latest"))).expect("a manifest");
    let layers = manifest["layers"].as_array().expect("layers");
    std::thread::scope(|scope| {
        for (number, layer) in layers.iter().enumerate() {
            let dir = root.join(number.to_string());
            scope.spawn(move || {
                std::fs::create_dir(&dir).expect("a folder");
                let digest = layer["digest"].as_str().expect("a digest");
                let body = get(&format!("/v2/library/{image}/blobs/{digest}"));
                let zstd = layer["mediaType"].as_str().is_some_and(|kind| kind.ends_with("zstd"));
                unpack(body, zstd, digest, &dir);
            });
        }
    });
    rustix::fs::syncfs(std::fs::File::open(root).expect("the folder")).expect("syncing");
}

struct Summed<R> {
    inner: R,
    sum: Sha256,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.sum.update(&buffer[..n]);
        Ok(n)
    }
}

/// One thread decodes and sums, the other makes files.
fn unpack(body: impl Read + Send, zstd: bool, digest: &str, dir: &Path) {
    let (pieces, arriving) = sync_channel::<Vec<u8>>(16);
    std::thread::scope(|scope| {
        let files = scope.spawn(move || files(Pieces { arriving, piece: Vec::new(), at: 0 }, dir));
        let mut blob = Summed { inner: body, sum: Sha256::new() };
        {
            let buffered = BufReader::with_capacity(PIECE, &mut blob);
            let mut decoder: Box<dyn Read> = if zstd {
                Box::new(zstd::stream::read::Decoder::with_buffer(buffered).expect("zstd"))
            } else {
                Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
            };
            let mut content = Sha256::new();
            loop {
                let mut piece = vec![0; PIECE];
                let mut filled = 0;
                while filled < piece.len() {
                    match decoder.read(&mut piece[filled..]).expect("a layer") {
                        0 => break,
                        n => filled += n,
                    }
                }
                piece.truncate(filled);
                if piece.is_empty() {
                    break;
                }
                content.update(&piece);
                pieces.send(piece).expect("the other thread");
            }
            std::hint::black_box(content.finalize());
        }
        drop(pieces);
        io::copy(&mut blob, &mut io::sink()).expect("the rest");
        let sum: String = blob.sum.finalize().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(format!("sha256:{sum}"), digest);
        files.join().expect("the other thread");
    });
}

struct Pieces {
    arriving: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.arriving.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

fn files(archive: Pieces, root: &Path) {
    let mut held: HashMap<PathBuf, OwnedFd> = HashMap::new();
    let open = |path: &Path| -> OwnedFd {
        std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(path)
            .expect("a folder")
            .into()
    };
    held.insert(PathBuf::new(), open(root));
    let mut archive = tar::Archive::new(archive);
    let mut buffer = vec![0; PIECE];
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").into_owned();
        let path: PathBuf = path.components().collect();
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().expect("a name"));
        if !held.contains_key(parent) {
            held.insert(parent.to_owned(), open(&root.join(parent)));
        }
        let mode = Mode::from_raw_mode(entry.header().mode().expect("a mode"));
        let times = {
            let at = Timespec { tv_sec: entry.header().mtime().expect("a time") as i64, tv_nsec: 0 };
            Timestamps { last_access: at, last_modification: at }
        };
        let dir = &held[parent];
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                rustix::fs::mkdirat(dir, name, mode).expect("mkdir");
                rustix::fs::utimensat(dir, name, &times, AtFlags::empty()).expect("utimes");
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name().expect("a target").expect("a target").into_owned();
                rustix::fs::symlinkat(&target, dir, name).expect("symlink");
            }
            _ => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file: std::fs::File =
                    rustix::fs::openat(dir, name, flags, mode).expect("a file").into();
                loop {
                    let n = entry.read(&mut buffer).expect("an entry");
                    if n == 0 {
                        break;
                    }
                    file.write_all(&buffer[..n]).expect("writing");
                }
                rustix::fs::futimens(&file, &times).expect("utimes");
            }
        }
    }
    io::copy(&mut archive.into_inner(), &mut io::sink()).expect("the rest");
}
