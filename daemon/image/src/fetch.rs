// SPDX-License-Identifier: Apache-2.0
//! One layer on its way from a registry to a directory in staging, shared by everybody who wants it.
//!
//! ```text
//! waiting for a place -> downloading (and unpacking) -> unpacking the rest -> done
//! ```
//! A fetch is known by its blob's digest and lives as long as somebody holds it: the last [`Fetch`] dropped gives it up. What
//! it has downloaded stays in `staging/<hex>.partial`, so that the next one asks only for the rest. The file is
//! locked while a fetch writes it. The diff id is found out here and compared by each who waits: two
//! images may name one blob and disagree.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use berth_domain::step::reached;
use berth_domain::{Digest, Error, Meaning, Reference, Result};
use berth_registry::{Auth, Descriptor};
use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::{mpsc, oneshot, watch};

use crate::layer::{self, Extraction, Staged};
use crate::layout::{Layout, io_error};
use crate::places::Places;
use crate::source::Source;
use crate::unpack::{Limits, check_room, check_space};

/// Chunks between the socket and the disk.
const CHUNKS_AHEAD: usize = 32;
/// How often bytes are told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How far a fetch is.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    Waiting,
    Downloading {
        done: u64,
    },
    /// All is here; `done` bytes of it are unpacked.
    Extracting {
        done: u64,
    },
    Done(Result<Arc<Staged>, Arc<Error>>),
}

/// A share in a fetch.
#[derive(Debug)]
pub(crate) struct Fetch {
    stage: watch::Receiver<Stage>,
    given_up: Arc<AtomicBool>,
    // Dropped with the last share; the task sees it close.
    _wanted: watch::Sender<()>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl Fetch {
    pub(crate) fn stages(&self) -> watch::Receiver<Stage> {
        self.stage.clone()
    }
}

/// All fetches under way.
pub(crate) struct Fetches {
    layout: Arc<Layout>,
    limits: Limits,
    places: Arc<Places>,
    running: Mutex<HashMap<Digest, Weak<Fetch>>>,
}

/// What a fetch needs to know.
pub(crate) struct Wanted {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) reference: Reference,
    pub(crate) auth: Auth,
    pub(crate) layer: Descriptor,
}

impl Fetches {
    pub(crate) fn new(layout: Arc<Layout>, limits: Limits, places: Arc<Places>) -> Self {
        Self { layout, limits, places, running: Mutex::new(HashMap::new()) }
    }

    /// Joins the fetch of this blob, or starts it. Must be called in a Tokio runtime.
    /// Whether it was started for this caller.
    pub(crate) fn join(&self, wanted: Wanted) -> (Arc<Fetch>, bool) {
        let digest = wanted.layer.digest.clone();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, fetch| fetch.strong_count() > 0);
        if let Some(fetch) = running.get(&digest).and_then(Weak::upgrade) {
            // One that failed, or that had to trust another size, is no use to a newcomer.
            let failed = matches!(&*fetch.stage.borrow(), Stage::Done(Err(_)));
            if !failed {
                return (fetch, false);
            }
        }
        let (tell, stage) = watch::channel(Stage::Waiting);
        let (alive, wanted_still) = watch::channel(());
        let given_up = Arc::new(AtomicBool::new(false));
        let fetch = Arc::new(Fetch { stage, given_up: Arc::clone(&given_up), _wanted: alive });
        running.insert(digest, Arc::downgrade(&fetch));
        let task =
            Task { wanted, layout: Arc::clone(&self.layout), limits: self.limits.clone(), given_up, tell };
        let places = Arc::clone(&self.places);
        tokio::spawn(async move { task.run(&places, wanted_still).await });
        (fetch, true)
    }
}

struct Task {
    wanted: Wanted,
    layout: Arc<Layout>,
    limits: Limits,
    given_up: Arc<AtomicBool>,
    tell: watch::Sender<Stage>,
}

fn given_up() -> Error {
    Error::cancelled("the download was given up")
}

impl Task {
    async fn run(self, places: &Places, mut wanted: watch::Receiver<()>) {
        let result = tokio::select! {
            biased;
            _ = wanted.changed() => Err(given_up()),
            place = places.take() => match place {
                Ok(_place) => self.layer(wanted).await,
                Err(error) => Err(error),
            },
        };
        self.tell.send_replace(Stage::Done(result.map(Arc::new).map_err(Arc::new)));
    }

    async fn layer(&self, mut wanted: watch::Receiver<()>) -> Result<Staged> {
        match self.attempt(&mut wanted).await {
            Err(Failure::Stale) => {
                tracing::warn!(
                    digest = %self.wanted.layer.digest.short(),
                    "what was downloaded before is damaged; downloading it again"
                );
                match self.attempt(&mut wanted).await {
                    Err(Failure::Stale) => Err(Error::internal("the download is damaged again and again")),
                    Err(Failure::Final(error)) => Err(error),
                    Ok(staged) => Ok(staged),
                }
            }
            Err(Failure::Final(error)) => Err(error),
            Ok(staged) => Ok(staged),
        }
    }

    async fn attempt(&self, wanted: &mut watch::Receiver<()>) -> Result<Staged, Failure> {
        let (chunks, arriving) = mpsc::channel(CHUNKS_AHEAD);
        let (tell_offset, offset) = oneshot::channel();
        let taken = Arc::new(AtomicU64::new(0));
        let disk = {
            let (layout, limits) = (Arc::clone(&self.layout), self.limits.clone());
            let (given_up, taken) = (Arc::clone(&self.given_up), Arc::clone(&taken));
            let layer = self.wanted.layer.clone();
            tokio::task::spawn_blocking(move || {
                let job = Disk {
                    layout: &layout,
                    limits: &limits,
                    layer: &layer,
                    given_up: &given_up,
                    taken: &taken,
                };
                job.run(tell_offset, arriving)
            })
        };
        let network = self.download(offset, chunks, wanted).await;
        if network.is_err() {
            self.given_up_if_unwanted(wanted);
        }
        let mut disk = disk;
        // Whatever happens above, the blocking side is waited for: it owns the partial file.
        let unpacked = loop {
            tokio::select! {
                joined = &mut disk => break joined,
                () = tokio::time::sleep(TELL_EVERY) => {
                    if network.is_ok() {
                        self.tell.send_replace(Stage::Extracting { done: taken.load(Ordering::Relaxed) });
                    }
                }
            }
        };
        let unpacked =
            unpacked.unwrap_or_else(|e| Err(Failure::Final(Error::internal("fetching a layer").because(e))));
        match (network, unpacked) {
            (_, Ok(staged)) => Ok(staged),
            // The disk side's own failure comes first: the network side may only have been cut off by it.
            (_, Err(Failure::Stale)) => Err(Failure::Stale),
            (Err(network), Err(Failure::Final(disk))) if disk.meaning() == Meaning::Cancelled => {
                Err(Failure::Final(network))
            }
            (_, Err(failure)) => Err(failure),
        }
    }

    fn given_up_if_unwanted(&self, wanted: &watch::Receiver<()>) {
        if wanted.has_changed().is_err() {
            self.given_up.store(true, Ordering::Relaxed);
        }
    }

    async fn download(
        &self,
        offset: oneshot::Receiver<u64>,
        chunks: mpsc::Sender<Bytes>,
        wanted: &mut watch::Receiver<()>,
    ) -> Result<()> {
        let cut_off = || Error::cancelled("the layer is not written any more");
        // No answer: the disk side ended before it wanted anything, and says why.
        let mut done = offset.await.map_err(|_| cut_off())?;
        let Wanted { source, reference, auth, layer } = &self.wanted;
        let size = layer.size;
        if done == size {
            return Ok(());
        }
        self.tell.send_replace(Stage::Downloading { done });
        let mut told_at = Instant::now();
        let transfer = async {
            let mut stream = source.blob(reference, layer, done, auth).await?;
            while let Some(chunk) = stream.chunk().await? {
                done += chunk.len() as u64;
                if done > size {
                    return Err(Error::invalid(format!(
                        "layer {} is longer than its manifest says",
                        layer.digest.short()
                    )));
                }
                chunks.send(chunk).await.map_err(|_| cut_off())?;
                if told_at.elapsed() >= TELL_EVERY {
                    told_at = Instant::now();
                    self.tell.send_replace(Stage::Downloading { done });
                }
            }
            if done < size {
                return Err(Error::unavailable("the registry ended the layer early"));
            }
            Ok(())
        };
        tokio::select! {
            biased;
            _ = wanted.changed() => return Err(given_up()),
            ended = transfer => ended?,
        }
        drop(chunks);
        self.tell.send_replace(Stage::Extracting { done: 0 });
        Ok(())
    }
}

/// Why the disk side ended.
enum Failure {
    /// What an earlier fetch left behind was damaged, and is gone now.
    Stale,
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// The blocking half: partial file, sums, unpacking.
struct Disk<'a> {
    layout: &'a Layout,
    limits: &'a Limits,
    layer: &'a Descriptor,
    given_up: &'a AtomicBool,
    taken: &'a AtomicU64,
}

impl Disk<'_> {
    fn run(
        &self,
        tell_offset: oneshot::Sender<u64>,
        arriving: mpsc::Receiver<Bytes>,
    ) -> Result<Staged, Failure> {
        let descriptor = &self.layer;
        let size = descriptor.size;
        let whole = self.layout.blob(&descriptor.digest);
        let (file, path, known) = match File::open(&whole) {
            // A blob whose layer is gone: nothing to download.
            Ok(file) => (file, whole, size),
            Err(_) => {
                let path = self.layout.partial(&descriptor.digest);
                let (file, known) = open_partial(&path, size)?;
                (file, path, known)
            }
        };
        let missing = size - known;
        let room = check_room(&file, self.limits, missing);
        room.map_err(|e| layer::to_error("downloading the layer", e))?;
        if tell_offset.send(known).is_err() {
            return Err(Failure::Final(given_up()));
        }
        let input = Arriving { file: &file, known, missing, arriving, chunk: Bytes::new(), path: &path };
        let extraction = Extraction {
            layout: self.layout,
            limits: self.limits,
            packing: None,
            given_up: self.given_up,
            taken: self.taken,
        };
        let stale = |why: &str| {
            tracing::warn!(path = %path.display(), why, "removed");
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    Failure::Final(Error::io("removing", &path, e))
                }
                _ => Failure::Stale,
            }
        };
        let mut staged = match layer::extract(input, &extraction) {
            Ok(staged) => staged,
            // Perhaps the bytes that were there already are to blame.
            Err(error) if known > 0 && error.meaning() == Meaning::InvalidInput => {
                return Err(stale("damaged"));
            }
            Err(error) if error.meaning() == Meaning::InvalidInput => {
                // Whatever this is, it must not be resumed.
                return Err(match stale("damaged") {
                    Failure::Final(left) => Failure::Final(left),
                    Failure::Stale => Failure::Final(error),
                });
            }
            Err(error) => {
                if check_space(&file, self.limits).is_err() {
                    // A download to be resumed some day must not keep a full disk full.
                    drop(file);
                    self.layout.drop_partials()?;
                }
                return Err(Failure::Final(error));
            }
        };
        if staged.blob != descriptor.digest || staged.blob_size != size {
            if known > 0 {
                return Err(stale("another digest"));
            }
            // Whatever this is, it must not be resumed.
            if let Failure::Final(error) = stale("another digest") {
                return Err(Failure::Final(error));
            }
            return Err(Failure::Final(Error::invalid(format!(
                "layer {}: the registry sent {} bytes with digest {}, not {size} with {}",
                descriptor.digest.short(),
                staged.blob_size,
                staged.blob,
                descriptor.digest
            ))));
        }
        staged.blob_file = (path == self.layout.partial(&descriptor.digest)).then_some(path);
        Ok(staged)
    }
}

/// Opens the partial file, locked, and tells how much of it there is. The end of the writer's bytes is the file's end.
fn open_partial(path: &Path, size: u64) -> Result<(File, u64)> {
    let fail = |doing: &str, e: io::Error| io_error(doing, path, e);
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| fail("opening", e))?;
        // The one before us is ending: it has been given up, or is done.
        flock(&file, FlockOperation::LockExclusive).map_err(|e| fail("locking", e.into()))?;
        let held = file.metadata().map_err(|e| fail("reading", e))?;
        match fs::metadata(path) {
            Ok(now) if now.ino() == held.ino() => {}
            // Moved to its place, or removed, while we waited.
            _ => continue,
        }
        if held.len() > size {
            file.set_len(0).map_err(|e| fail("truncating", e))?;
            return Ok((file, 0));
        }
        return Ok((file, held.len()));
    }
}

/// The bytes of the file, then those that arrive, which are added to the file.
struct Arriving<'a> {
    file: &'a File,
    /// Bytes of the file still to be read.
    known: u64,
    /// Bytes that have not arrived yet.
    missing: u64,
    arriving: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    path: &'a Path,
}

impl Read for Arriving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.known > 0 {
            let most = usize::try_from(self.known).unwrap_or(usize::MAX).min(buffer.len());
            let n = self.file.read(&mut buffer[..most])?;
            if n == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} shrank", self.path.display()),
                ));
            }
            self.known -= n as u64;
            if self.known == 0 {
                self.file.seek(SeekFrom::End(0))?;
            }
            return Ok(n);
        }
        if self.chunk.is_empty() {
            match self.arriving.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None if self.missing == 0 => return Ok(0),
                // The end of the network's patience is not the end of the layer.
                None => return Err(io::Error::other(Error::cancelled("the layer stopped arriving"))),
            }
            self.missing = self.missing.saturating_sub(self.chunk.len() as u64);
            self.file.write_all(&self.chunk)?;
            reached("pull.layer-arriving");
        }
        let n = self.chunk.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
