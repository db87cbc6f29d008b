// SPDX-License-Identifier: Apache-2.0
//! `docker load`: archives of `docker save` (v1.2: `manifest.json` and layer tars, also with the symlinks of old ones)
//! and OCI layouts, packed or not.
//!
//! ```text
//! stream -> decoder -> tar -> staging/load-*/<n>, each file summed as it is written
//!        -> manifest.json, or index.json -> images -> layers unpacked side by side -> published as a pull's are
//! ```
//! An archive of both kinds (Docker 25 and later) is read by its `manifest.json`, and its OCI manifests are kept where they
//! describe the same images. For an image without a manifest one is made: every image here has one.

mod docker;
mod oci;
mod spool;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::BufReader;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use berth_domain::progress::{Progress, Sink};
use berth_domain::step::reached;
use berth_domain::{Digest, Error, Reference, Result};
use berth_registry::Descriptor;
use tokio::io::AsyncRead;

use crate::arriving::{self, Arriving};
use crate::document::{Config, Manifest};
use crate::layer::{self, Extraction, Staged, to_error};
use crate::layout::sync_dir;
use crate::pins::Held;
use crate::publish::{NewImage, NewName};
use crate::{Images, Inner, packed, tar};
use spool::{Spool, Spooled};

/// An image found in an archive.
struct Archived {
    config: Config,
    config_bytes: Vec<u8>,
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    descriptor: Descriptor,
    /// One per layer, bottom first.
    layers: Vec<ArchivedLayer>,
    names: Vec<Reference>,
}

struct ArchivedLayer {
    /// `None` when the archive leaves it out.
    file: Option<Spooled>,
}

impl Images {
    /// Loads the images of an archive and names them as it says; what was loaded: names, or ids of images without
    /// one. Unless `quiet`, layers are told as they are unpacked.
    ///
    /// # Errors
    ///
    /// Invalid for what is no archive of images (`unexpected EOF` when it ends early); Internal when it cannot be stored.
    pub async fn load(
        &self,
        reader: impl AsyncRead + Send + Unpin + 'static,
        quiet: bool,
        sink: Sink,
    ) -> Result<Vec<String>> {
        let inner = Arc::clone(&self.inner);
        arriving::read(reader, move |archive, given_up| {
            Load { inner: &inner, sink: &sink, quiet, given_up }.run(archive)
        })
        .await
    }
}

struct Load<'a> {
    inner: &'a Inner,
    sink: &'a Sink,
    quiet: bool,
    given_up: &'a AtomicBool,
}

impl Load<'_> {
    fn run(&self, archive: Arriving) -> Result<Vec<String>> {
        let mut spool = Spool::new(&self.inner.layout, &self.inner.limits)?;
        let (_, input) = packed::open(archive).map_err(|e| to_error("reading the archive", e))?;
        spool.fill(tar::Reader::new(input), self.given_up)?;
        reached("load.spooled");
        let images = if spool.has("manifest.json") {
            docker::images(&spool)?
        } else if spool.has("index.json") {
            oci::images(&spool)?
        } else {
            return Err(Error::invalid(
                "not an image archive: it has neither a manifest.json (docker save) nor an index.json (OCI layout)",
            ));
        };
        let mut loaded = Vec::new();
        for image in images {
            loaded.extend(self.image(image)?);
        }
        Ok(loaded)
    }

    fn say(&self, text: String) -> Result<()> {
        self.tell(Progress::Stream(text))
    }

    fn tell(&self, progress: Progress) -> Result<()> {
        if (self.sink)(progress) { Ok(()) } else { Err(Error::cancelled("the client has gone")) }
    }

    fn image(&self, image: Archived) -> Result<Vec<String>> {
        let Archived { config, config_bytes, manifest, manifest_bytes, descriptor, layers, names } = image;
        let id = config.id.clone();
        let mut held: Vec<Held> = manifest.layers.iter().map(|l| Held::Content(l.digest.clone())).collect();
        held.extend(config.diff_ids.iter().map(|d| Held::Content(d.clone())));
        held.extend([id.clone(), descriptor.digest.clone()].map(Held::Content));
        let _pinned = self.inner.pins.hold(held);

        let new_names: Vec<NewName> =
            names.iter().map(|name| NewName { name: name.clone(), target: None }).collect();
        let named = if self.inner.catalog.state().image(&id).is_some() {
            self.inner.name(&id, &new_names)?
        } else {
            let staged = self.layers(&config, &layers)?;
            reached("load.unpacked");
            let new = NewImage { config, config_bytes, manifest, manifest_bytes, descriptor, staged };
            self.inner.publish(new, &new_names)?
        };
        reached("load.recorded");
        for (name, old) in named.taken {
            self.say(format!(
                "The image {} already exists, renaming the old one with ID {old} to empty string\n",
                name.familiar()
            ))?;
        }
        if names.is_empty() {
            self.say(format!("Loaded image ID: {id}\n"))?;
            return Ok(vec![id.to_string()]);
        }
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        for name in &names {
            self.say(format!("Loaded image: {name}\n"))?;
        }
        Ok(names)
    }

    /// Unpacks the layers that are not here, several at once.
    fn layers(&self, config: &Config, layers: &[ArchivedLayer]) -> Result<Vec<Arc<Staged>>> {
        let mut seen = HashSet::new();
        let mut todo = Vec::new();
        for (n, (layer, diff_id)) in layers.iter().zip(&config.diff_ids).enumerate() {
            if !seen.insert(diff_id) {
                continue;
            }
            if layer::is_in_place(&self.inner.layout, diff_id) {
                self.keep_blob(n, layer, diff_id)?;
                continue;
            }
            let file = layer.file.as_ref().ok_or_else(|| {
                Error::invalid(format!("the archive lacks layer {n} of the image {}", config.id.short()))
            })?;
            todo.push(Unpacking { n, file, diff_id });
        }
        let runtime = tokio::runtime::Handle::current();
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        let failed = AtomicBool::new(false);
        let work = || {
            while let Some(layer) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.load(Ordering::Relaxed) {
                    return;
                }
                let place = runtime.block_on(self.inner.places.take());
                let result = place.and_then(|_place| self.unpack(layer));
                failed.fetch_or(result.is_err(), Ordering::Relaxed);
                results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..todo.len().min(LOAD_WORKERS) {
                scope.spawn(work);
            }
            work();
        });
        results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
    }

    /// A layer that is here may have come in another packing: the blob that this image's manifest names is kept, too.
    fn keep_blob(&self, n: usize, layer: &ArchivedLayer, diff_id: &Digest) -> Result<()> {
        let Some(file) = &layer.file else { return Ok(()) };
        let to = self.inner.layout.blob(&file.digest);
        if to.is_file() {
            return Ok(());
        }
        let mut input = BufReader::new(file.open()?);
        let found = layer::sniff(&mut input).map_err(|e| to_error("reading a layer", e))?;
        let (content, ..) = layer::sums(input, found).map_err(|e| to_error("reading a layer", e))?;
        if content != *diff_id {
            return Err(wrong_layer(n, diff_id, &content));
        }
        self.inner.layout.sync_all()?;
        std::fs::rename(&file.path, &to).map_err(|e| Error::io("moving into place", &file.path, e))?;
        sync_dir(&self.inner.layout.blobs())
    }

    fn unpack(&self, layer: &Unpacking<'_>) -> Result<Arc<Staged>> {
        let Unpacking { n, file, diff_id } = layer;
        let input = file.open()?;
        let taken = AtomicU64::new(0);
        let progress = |done| {
            if self.quiet {
                return Ok(());
            }
            self.tell(Progress::Status {
                id: diff_id.short().to_owned(),
                status: "Loading layer".into(),
                bytes: Some((done, file.size)),
            })
        };
        progress(0)?;
        let extraction = Extraction {
            layout: &self.inner.layout,
            limits: &self.inner.limits,
            packing: None,
            given_up: self.given_up,
            taken: &taken,
        };
        let mut staged = layer::extract(input, &extraction)?;
        if staged.diff_id != **diff_id {
            return Err(wrong_layer(*n, diff_id, &staged.diff_id));
        }
        staged.blob_file = Some(file.path.clone());
        progress(file.size)?;
        Ok(Arc::new(staged))
    }
}

fn wrong_layer(n: usize, expected: &Digest, got: &Digest) -> Error {
    Error::invalid(format!(
        "invalid diffID for layer {n}: expected {:?}, got {:?}",
        expected.as_str(),
        got.as_str()
    ))
}

/// Threads that unpack one archive's layers; places bound them all together.
const LOAD_WORKERS: usize = 8;

struct Unpacking<'a> {
    n: usize,
    file: &'a Spooled,
    diff_id: &'a Digest,
}
