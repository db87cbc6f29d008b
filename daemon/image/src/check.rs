// SPDX-License-Identifier: Apache-2.0
//! `berth system check`: whether all that the records name is there and is what it should be, and mending what is not.
//!
//! | damaged | told by | mended from |
//! |---|---|---|
//! | a blob | its digest | the repositories that the image's digests name |
//! | an unpacked layer | comparing it with its blob unpacked anew | that copy |
//! | an image's own directories | comparing them with ones made anew | those |
//!
//! Reading all of a store takes its time; it runs beside everything else. A layer that running containers stand on is not
//! exchanged under them.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use berth_domain::{Digest, Error, ImageId, Reference, Result};
use berth_registry::{Auth, Descriptor};
use sha2::{Digest as _, Sha256};

use crate::compare::Times;
use crate::document::{self, CONFIG_MAX, Config, Document, MANIFEST_MAX, Manifest};
use crate::layout::{remove_dir, sync_dir, write_atomically};
use crate::pins::Held;
use crate::types::Image;
use crate::{Images, Inner, catalog, compare, layer, parents, repair};

/// What to do.
#[derive(Debug, Clone, Default)]
pub struct CheckRequest {
    /// Mend what can be mended.
    pub repair: bool,
    /// Credentials for what has to be fetched again.
    pub auth: Auth,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The image: its first name, or its id.
    pub image: String,
    /// What is wrong, with the digest or path concerned.
    pub what: String,
    /// Whether it has been mended; if not, why not or how to.
    pub repaired: Result<(), String>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Images looked at.
    pub images: usize,
    /// Blobs read.
    pub blobs: usize,
    /// Layers compared.
    pub layers: usize,
    /// What was found damaged, each thing once.
    pub damages: Vec<Damage>,
}

/// Who runs on an image: names or ids of running containers.
pub type RunningOn<'a> = &'a (dyn Fn(&ImageId) -> Vec<String> + Send + Sync);

impl Images {
    /// Reads everything that the records name. `tell` hears each image before it is looked at, and stops the check by
    /// answering false. Blocks, for long; must be called within a runtime.
    ///
    /// # Errors
    ///
    /// Cancelled when `tell` says so; Internal when staging cannot be written. Damage is no error.
    pub fn check(
        &self,
        request: &CheckRequest,
        running: RunningOn<'_>,
        tell: &mut dyn FnMut(&str) -> bool,
    ) -> Result<CheckReport> {
        let state = self.inner.catalog.state();
        let mut check = Check {
            inner: &self.inner,
            request,
            running,
            verdicts: HashMap::new(),
            report: CheckReport::default(),
        };
        for image in state.images.values() {
            let shown = image.repo_tags.first().cloned().unwrap_or_else(|| image.id.to_string());
            if !tell(&shown) {
                return Err(Error::cancelled("the check was given up"));
            }
            check.image(image, &shown)?;
        }
        Ok(check.report)
    }
}

struct Check<'a> {
    inner: &'a Inner,
    request: &'a CheckRequest,
    running: RunningOn<'a>,
    /// What was looked at before, and whether it is right by now.
    verdicts: HashMap<Digest, bool>,
    report: CheckReport,
}

impl Check<'_> {
    fn image(&mut self, image: &Image, shown: &str) -> Result<()> {
        let mut held: Vec<Held> = image.layers.iter().cloned().map(Held::Content).collect();
        held.extend(image.layer_blobs.iter().map(|b| Held::Content(b.digest.clone())));
        held.extend([image.id.clone(), image.manifest.digest.clone()].map(Held::Content));
        let _pinned = self.inner.pins.hold(held);
        // It may have been removed since the list was made.
        if !self.inner.catalog.state().images.contains_key(&image.id) {
            return Ok(());
        }
        self.report.images += 1;
        if !self.small(image, shown, &image.manifest.digest, true) {
            return Ok(());
        }
        let bytes = catalog::read_blob(&self.inner.layout, &image.manifest.digest, MANIFEST_MAX)?;
        let Document::Manifest(manifest) = document::parse(&bytes, None)? else {
            return Err(Error::internal("a manifest became an index"));
        };
        if !self.small(image, shown, &image.id, false) {
            return Ok(());
        }
        let config = Config::parse(&catalog::read_blob(&self.inner.layout, &image.id, CONFIG_MAX)?)?;
        let indexes: Vec<Descriptor> = {
            let state = self.inner.catalog.state();
            let targets = state.records.names_of(&image.id).filter_map(|(_, record)| record.target.as_ref());
            targets.map(catalog::DescriptorRecord::read).collect::<Result<_>>()?
        };
        for index in indexes {
            self.small(image, shown, &index.digest, true);
        }
        let mut whole = true;
        for (blob, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
            let here = self.blob(image, shown, blob);
            whole &= self.layer(shown, blob, diff_id, here)?;
        }
        if whole {
            self.own_directories(image, shown, &config)?;
        }
        Ok(())
    }

    fn found(&mut self, shown: &str, what: String, repaired: Result<()>) -> bool {
        let fine = repaired.is_ok();
        let repaired = repaired.map_err(|e| e.chain());
        tracing::warn!(image = shown, what, ?repaired, "damage was found");
        self.report.damages.push(Damage { image: shown.to_owned(), what, repaired });
        fine
    }

    fn if_asked(&self, repair: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.request.repair { repair() } else { Err(Error::unavailable("not asked to repair")) }
    }

    /// A manifest, an index or a config. Whether it is right in the end.
    fn small(&mut self, image: &Image, shown: &str, digest: &Digest, is_manifest: bool) -> bool {
        if let Some(verdict) = self.verdicts.get(digest) {
            return *verdict;
        }
        self.report.blobs += 1;
        let max = if is_manifest { MANIFEST_MAX } else { CONFIG_MAX };
        let verdict = match catalog::read_blob(&self.inner.layout, digest, max) {
            Ok(_) => true,
            Err(error) => {
                let repaired = self.if_asked(|| {
                    let bytes = self.ask_repositories(image, |reference| {
                        let auth = &self.request.auth;
                        let source = &self.inner.source;
                        let runtime = tokio::runtime::Handle::current();
                        if is_manifest {
                            return Ok(runtime
                                .block_on(source.manifest(reference, digest, auth))?
                                .body
                                .to_vec());
                        }
                        let size = self.config_size(image)?;
                        let media_type = "application/vnd.oci.image.config.v1+json".to_owned();
                        let descriptor = Descriptor { media_type, digest: digest.clone(), size };
                        runtime.block_on(async {
                            let mut stream = source.blob(reference, &descriptor, 0, auth).await?;
                            let mut bytes = Vec::new();
                            while let Some(chunk) = stream.chunk().await? {
                                bytes.extend_from_slice(&chunk);
                            }
                            Ok(bytes)
                        })
                    })?;
                    if document::sha256(&bytes) != *digest {
                        return Err(Error::invalid("what was fetched has another digest"));
                    }
                    // Over what is there, if anything is.
                    let new = self.inner.layout.fresh("blob");
                    write_atomically(&new, &bytes)?;
                    let path = self.inner.layout.blob(digest);
                    std::fs::rename(&new, &path).map_err(|e| Error::io("moving into place", &path, e))?;
                    sync_dir(&self.inner.layout.blobs())
                });
                self.found(shown, error.chain(), repaired)
            }
        };
        self.verdicts.insert(digest.clone(), verdict);
        verdict
    }

    /// The config's length, which its manifest knows.
    fn config_size(&self, image: &Image) -> Result<u64> {
        let bytes = catalog::read_blob(&self.inner.layout, &image.manifest.digest, MANIFEST_MAX)?;
        match document::parse(&bytes, None)? {
            Document::Manifest(Manifest { config, .. }) => Ok(config.size),
            Document::Index(_) => Err(Error::internal("a manifest became an index")),
        }
    }

    /// Asks every repository that this image is known to come from or to have gone to.
    fn ask_repositories<T>(&self, image: &Image, get: impl Fn(&Reference) -> Result<T>) -> Result<T> {
        let mut last = Error::not_found("no repository is known that has it: pull or load the image again");
        let state = self.inner.catalog.state();
        let names = state.references(&image.id);
        let (digests, tags): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.digest().is_some());
        for name in digests.iter().chain(&tags) {
            match get(name) {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A layer's blob. Whether it is right in the end.
    fn blob(&mut self, image: &Image, shown: &str, descriptor: &Descriptor) -> bool {
        let digest = &descriptor.digest;
        if let Some(verdict) = self.verdicts.get(digest) {
            return *verdict;
        }
        self.report.blobs += 1;
        let path = self.inner.layout.blob(digest);
        let sum = File::open(&path).and_then(|mut file| {
            let mut sum = Sha256::new();
            std::io::copy(&mut file, &mut sum)?;
            Ok(document::finished(sum))
        });
        let wrong = match sum {
            Ok(sum) if sum == *digest => None,
            Ok(_) => Some(format!("the blob {digest} is damaged")),
            Err(e) => Some(Error::io("reading", &path, e).chain()),
        };
        let verdict = match wrong {
            None => true,
            Some(what) => {
                let repaired = self.if_asked(|| {
                    self.ask_repositories(image, |reference| {
                        repair::refetch(self.inner, reference, descriptor, &self.request.auth)
                    })
                });
                self.found(shown, what, repaired)
            }
        };
        self.verdicts.insert(digest.clone(), verdict);
        verdict
    }

    /// An unpacked layer beside what its blob unpacks to. Whether it is right in the end.
    fn layer(
        &mut self,
        shown: &str,
        blob: &Descriptor,
        diff_id: &Digest,
        blob_is_here: bool,
    ) -> Result<bool> {
        let key = document::sha256(format!("layer {diff_id}").as_bytes());
        if let Some(verdict) = self.verdicts.get(&key) {
            return Ok(*verdict);
        }
        let layout = &self.inner.layout;
        let there = layer::is_in_place(layout, diff_id);
        if !blob_is_here {
            // Nothing to compare with; what is missing altogether is damage of its own.
            if !there {
                let error = Err(Error::unavailable("its blob has to be mended first"));
                self.found(shown, format!("the layer {diff_id} is missing"), error);
            }
            return Ok(there);
        }
        self.report.layers += 1;
        let fresh = repair::unpack(layout, &self.inner.limits, blob, diff_id)?;
        let own = layout.layer_fs(diff_id);
        let wrong = if there {
            let found = compare::difference(&own, &fresh.dir().join("fs"), Times::Count);
            found
                .map_err(|e| Error::io("comparing", &own, e))?
                .map(|d| format!("the layer {diff_id} is damaged: {d}"))
        } else {
            Some(format!("the layer {diff_id} is missing"))
        };
        let verdict = match wrong {
            None => true,
            Some(what) => {
                let repaired = self.if_asked(|| {
                    let state = self.inner.catalog.state();
                    let users = state.images.values().filter(|i| i.layers.contains(diff_id));
                    let busy: Vec<String> = users.flat_map(|i| (self.running)(&i.id)).collect();
                    if there && !busy.is_empty() {
                        return Err(Error::conflict(format!(
                            "running containers stand on it: stop {} and repair again",
                            busy.join(", ")
                        )));
                    }
                    layout.sync_all()?;
                    let _writer = self.inner.catalog.writer();
                    layout.discard(&layout.layer(diff_id))?;
                    crate::publish::place(layout, &[Arc::new(fresh)])
                });
                self.found(shown, what, repaired)
            }
        };
        self.verdicts.insert(key, verdict);
        Ok(verdict)
    }

    /// The directories of an image itself beside what they should be.
    fn own_directories(&mut self, image: &Image, shown: &str, config: &Config) -> Result<()> {
        let layout = &self.inner.layout;
        let made = parents::prepare(layout, &config.id, &config.diff_ids)?;
        let own = layout.parents(&config.id);
        let wrong = match &made {
            None => own.exists().then(|| "it has directories of its own that it does not need".to_owned()),
            Some(_) if !own.join("fs").is_dir() => Some("its own directories are missing".to_owned()),
            Some(made) => compare::difference(&own.join("fs"), &made.join("fs"), Times::DoNot)
                .map_err(|e| Error::io("comparing", &own, e))?
                .map(|d| format!("its own directories are damaged: {d}")),
        };
        if let Some(made) = &made {
            remove_dir(made)?;
        }
        if let Some(what) = wrong {
            let repaired = self.if_asked(|| {
                let busy = (self.running)(&image.id);
                if !busy.is_empty() {
                    return Err(Error::conflict(format!(
                        "running containers stand on it: stop {} and repair again",
                        busy.join(", ")
                    )));
                }
                let writer = self.inner.catalog.writer();
                layout.discard(&own)?;
                crate::publish::own_directories(layout, config)?;
                let own_directories = own.join("fs").is_dir();
                writer.change(|state| {
                    state.set_own_directories(&image.id, own_directories);
                    Ok(())
                })
            });
            self.found(shown, what, repaired);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
