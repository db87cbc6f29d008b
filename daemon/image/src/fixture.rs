// SPDX-License-Identifier: Apache-2.0
//! What tests are made of: archives with anything in them, images, a registry in memory, recorded progress.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use berth_domain::progress::{Progress, Sink};
use berth_domain::{Digest, Error, Reference, Result};
use berth_registry::{Auth, Descriptor, ResolvedManifest, media_type};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::document::sha256;
use crate::source::{Boxed, Chunks, Source};
use crate::{Images, ImagesConfig};

/// An archive under construction. Names go in as they are, valid or not.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// One entry; `change` may spoil the header before its checksum is made.
    pub(crate) fn entry(
        mut self,
        kind: u8,
        path: impl AsRef<[u8]>,
        link: impl AsRef<[u8]>,
        mode: u32,
        data: &[u8],
        change: &dyn Fn(&mut tar::Header),
    ) -> Self {
        let (path, link) = (path.as_ref(), link.as_ref());
        for (flag, name) in [(b'L', path), (b'K', link)] {
            if name.len() > 100 {
                self = self.entry(flag, "././@LongLink", "", 0, &[name, &[0]].concat(), &|_| {});
            }
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(data.len() as u64);
        let bytes = header.as_mut_bytes();
        bytes[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        bytes[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        let padding = (512 - data.len() % 512) % 512;
        self.0.resize(self.0.len() + padding, 0);
        self
    }

    pub(crate) fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(b'5', path, "", mode, &[], &|_| {})
    }

    pub(crate) fn file(self, path: &str, mode: u32, data: &[u8]) -> Self {
        self.entry(b'0', path, "", mode, data, &|_| {})
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path, target, 0o777, &[], &|_| {})
    }

    pub(crate) fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path, target, 0o644, &[], &|_| {})
    }

    pub(crate) fn owned(self, kind: u8, path: &str, mode: u32, uid: u64, gid: u64) -> Self {
        self.entry(kind, path, "", mode, &[], &|h| {
            h.set_uid(uid);
            h.set_gid(gid);
        })
    }

    /// Records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = 3 + key.len() + value.len();
            let mut len = rest + rest.to_string().len();
            len = rest + len.to_string().len();
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(b'x', "pax", "", 0o644, &data, &|_| {})
    }

    pub(crate) fn done(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer: its archive, and its blob with the media type.
#[derive(Clone)]
pub(crate) struct TestLayer {
    pub(crate) tar: Vec<u8>,
    pub(crate) blob: Vec<u8>,
    pub(crate) media_type: &'static str,
}

impl TestLayer {
    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        Self { blob: tar.clone(), tar, media_type: "application/vnd.oci.image.layer.v1.tar" }
    }

    pub(crate) fn gzip(tar: Vec<u8>) -> Self {
        Self { blob: gzip(&tar), tar, media_type: "application/vnd.oci.image.layer.v1.tar+gzip" }
    }

    pub(crate) fn zstd(tar: Vec<u8>) -> Self {
        Self { blob: zstd(&tar), tar, media_type: "application/vnd.oci.image.layer.v1.tar+zstd" }
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": sha256(&self.blob).as_str(), "size": self.blob.len() })
    }
}

#[derive(Clone)]
pub(crate) struct TestImage {
    pub(crate) layers: Vec<TestLayer>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl TestImage {
    pub(crate) fn new(layers: &[TestLayer]) -> Self {
        Self::with(layers, json!({}))
    }

    /// `extra` fields override those of the config.
    #[allow(clippy::needless_pass_by_value)] // Callers write literals.
    pub(crate) fn with(layers: &[TestLayer], extra: Value) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|l| sha256(&l.tar).to_string()).collect();
        let mut config = json!({
            "architecture": berth_domain::Platform::host().architecture,
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": { "Cmd": ["sh"], "Env": null, "Labels": { "a": "b" }, "OnBuild": null },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": layers.iter().map(|_| json!({ "created_by": "layer" })).collect::<Vec<_>>(),
        });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256(&config).as_str(),
                "size": config.len(),
            },
            "layers": layers.iter().map(TestLayer::descriptor).collect::<Vec<_>>(),
        }))
        .unwrap();
        Self { layers: layers.to_vec(), config, manifest }
    }

    pub(crate) fn id(&self) -> Digest {
        sha256(&self.config)
    }

    pub(crate) fn digest(&self) -> Digest {
        sha256(&self.manifest)
    }
}

/// A small image whose only file has this text.
pub(crate) fn small(text: &str) -> TestImage {
    TestImage::new(&[TestLayer::gzip(
        Tar::new().dir("etc", 0o755).file("etc/motd", 0o644, text.as_bytes()).done(),
    )])
}

/// How a blob is served.
#[derive(Default)]
struct Behaviour {
    /// The connection breaks after so many bytes, once.
    break_after: Option<usize>,
    /// One permit a chunk, when set.
    gate: Option<Arc<Semaphore>>,
}

#[derive(Default)]
struct Shelves {
    manifests: HashMap<String, (String, Vec<u8>)>,
    tags: Vec<String>,
    blobs: HashMap<Digest, Vec<u8>>,
    behaviour: HashMap<Digest, Behaviour>,
    asked: Vec<(Digest, u64)>,
}

/// A registry with one repository.
#[derive(Default, Clone)]
pub(crate) struct FakeRegistry(Arc<Mutex<Shelves>>);

impl FakeRegistry {
    pub(crate) fn push(&self, tag: &str, image: &TestImage) {
        self.push_document(Some(tag), media_type::OCI_MANIFEST, &image.manifest);
        let mut shelves = self.0.lock().unwrap();
        shelves.blobs.insert(image.id(), image.config.clone());
        for layer in &image.layers {
            shelves.blobs.insert(sha256(&layer.blob), layer.blob.clone());
        }
    }

    pub(crate) fn push_document(&self, tag: Option<&str>, media_type: &str, bytes: &[u8]) {
        let mut shelves = self.0.lock().unwrap();
        let document = (media_type.to_owned(), bytes.to_vec());
        shelves.manifests.insert(sha256(bytes).to_string(), document.clone());
        if let Some(tag) = tag {
            shelves.manifests.insert(tag.to_owned(), document);
            shelves.tags.push(tag.to_owned());
        }
    }

    pub(crate) fn put_blob(&self, digest: &Digest, bytes: &[u8]) {
        self.0.lock().unwrap().blobs.insert(digest.clone(), bytes.to_vec());
    }

    pub(crate) fn break_after(&self, digest: &Digest, bytes: usize) {
        self.0.lock().unwrap().behaviour.entry(digest.clone()).or_default().break_after = Some(bytes);
    }

    pub(crate) fn gate(&self, digest: &Digest) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.0.lock().unwrap().behaviour.entry(digest.clone()).or_default().gate = Some(Arc::clone(&gate));
        gate
    }

    /// Blobs that were asked for, with the offset.
    pub(crate) fn asked(&self) -> Vec<(Digest, u64)> {
        self.0.lock().unwrap().asked.clone()
    }

    fn document(&self, key: &str) -> Result<ResolvedManifest> {
        let shelves = self.0.lock().unwrap();
        let (media_type, body) = shelves
            .manifests
            .get(key)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("{key}: not found")))?;
        let descriptor = Descriptor { media_type, digest: sha256(&body), size: body.len() as u64 };
        Ok(ResolvedManifest { descriptor, body: body.into() })
    }
}

impl Source for FakeRegistry {
    fn resolve<'a>(&'a self, reference: &'a Reference, _: &'a Auth) -> Boxed<'a, Result<ResolvedManifest>> {
        let key = reference
            .digest()
            .map_or_else(|| reference.tag().unwrap_or("latest").to_owned(), |digest| digest.to_string());
        Box::pin(async move { self.document(&key) })
    }

    fn manifest<'a>(
        &'a self,
        _: &'a Reference,
        digest: &'a Digest,
        _: &'a Auth,
    ) -> Boxed<'a, Result<ResolvedManifest>> {
        Box::pin(async move { self.document(digest.as_str()) })
    }

    fn blob<'a>(
        &'a self,
        _: &'a Reference,
        descriptor: &'a Descriptor,
        offset: u64,
        _: &'a Auth,
    ) -> Boxed<'a, Result<Box<dyn Chunks>>> {
        Box::pin(async move {
            let mut shelves = self.0.lock().unwrap();
            let digest = &descriptor.digest;
            shelves.asked.push((digest.clone(), offset));
            let blob = shelves.blobs.get(digest).cloned().ok_or_else(|| Error::not_found("blob unknown"))?;
            let behaviour = shelves.behaviour.entry(digest.clone()).or_default();
            let left = Bytes::from(blob).split_off(usize::try_from(offset).unwrap());
            let chunks =
                FakeChunks { left, break_after: behaviour.break_after.take(), gate: behaviour.gate.clone() };
            Ok(Box::new(chunks) as Box<dyn Chunks>)
        })
    }

    fn tags<'a>(&'a self, _: &'a Reference, _: &'a Auth) -> Boxed<'a, Result<Vec<String>>> {
        Box::pin(async move { Ok(self.0.lock().unwrap().tags.clone()) })
    }
}

struct FakeChunks {
    left: Bytes,
    break_after: Option<usize>,
    gate: Option<Arc<Semaphore>>,
}

impl Chunks for FakeChunks {
    fn chunk(&mut self) -> Boxed<'_, Result<Option<Bytes>>> {
        Box::pin(async move {
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            let most = self.break_after.unwrap_or(usize::MAX);
            if most == 0 {
                return Err(Error::unavailable("connection reset"));
            }
            if self.left.is_empty() {
                return Ok(None);
            }
            let chunk = self.left.split_to(self.left.len().min(1000).min(most));
            self.break_after = self.break_after.map(|n| n - chunk.len());
            Ok(Some(chunk))
        })
    }
}

/// Progress as it was told.
#[derive(Clone, Default)]
pub(crate) struct Recorder {
    told: Arc<Mutex<Vec<Progress>>>,
    gone: Arc<AtomicBool>,
}

impl Recorder {
    pub(crate) fn sink(&self) -> Sink {
        let this = self.clone();
        Arc::new(move |progress| {
            this.told.lock().unwrap().push(progress);
            !this.gone.load(Ordering::Relaxed)
        })
    }

    /// The client goes away.
    pub(crate) fn hang_up(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// `id: status` or the status alone, without bars.
    pub(crate) fn lines(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter()
            .filter_map(|progress| match progress {
                Progress::Status { id, status, bytes: None } if id.is_empty() => Some(status.clone()),
                Progress::Status { id, status, bytes: None } => Some(format!("{id}: {status}")),
                Progress::Status { .. } => None,
                Progress::Stream(text) => Some(text.clone()),
                Progress::Pushed { .. } | Progress::PushedInstead { .. } => None,
            })
            .collect()
    }

    pub(crate) fn bars(&self) -> Vec<(String, u64, u64)> {
        let told = self.told.lock().unwrap();
        told.iter()
            .filter_map(|progress| match progress {
                Progress::Status { status, bytes: Some((done, total)), .. } => {
                    Some((status.clone(), *done, *total))
                }
                _ => None,
            })
            .collect()
    }
}

/// An engine's images over a registry in memory.
pub(crate) struct Shop {
    pub(crate) root: tempfile::TempDir,
    pub(crate) registry: FakeRegistry,
    pub(crate) images: Images,
}

impl Shop {
    pub(crate) fn open() -> Self {
        let root = tempfile::TempDir::new().unwrap();
        let registry = FakeRegistry::default();
        let images = open(root.path(), &registry).expect("opens");
        Self { root, registry, images }
    }

    /// As after a restart.
    pub(crate) fn reopen(self) -> Self {
        let Self { root, registry, images } = self;
        drop(images);
        let images = open(root.path(), &registry).expect("opens again");
        Self { root, registry, images }
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<crate::PullOutcome> {
        self.images.pull(request(reference), Recorder::default().sink()).await
    }

    pub(crate) fn staging(&self) -> Vec<String> {
        names(&self.root.path().join("staging"))
    }
}

pub(crate) fn open(root: &std::path::Path, registry: &FakeRegistry) -> Result<Images> {
    Images::open_with(ImagesConfig::new(root), Arc::new(registry.clone()))
}

pub(crate) fn request(reference: &str) -> crate::PullRequest {
    crate::PullRequest {
        reference: reference.parse().expect(reference),
        platform: None,
        auth: Auth::default(),
        all_tags: false,
    }
}

/// Sorted names in a directory.
pub(crate) fn names(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
