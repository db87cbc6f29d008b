// SPDX-License-Identifier: Apache-2.0
//! `docker save`: images as they are here, byte for byte, in an archive that is both an OCI layout and what
//! `docker load` has always read.
//!
//! What goes in is decided, and looked for, before the first byte: an archive that cannot be whole is an error, not
//! half a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use berth_domain::{Digest, Error, ImageId, Platform, Reference, Result};
use berth_registry::{Descriptor, media_type};
use serde_json::{Value, json};

use crate::Images;
use crate::catalog::{self, State};
use crate::document::{self, Document};
use crate::pins::{Held, Pinned};
use crate::tar::write::Writer;
use crate::types::Image;

/// Read from a blob at once.
const CHUNK: usize = 256 << 10;

/// An archive that is ready to be written. What is in it stays until it is dropped.
#[derive(Debug)]
pub struct Archive {
    blobs: BTreeMap<String, (PathBuf, u64)>,
    index: Vec<u8>,
    manifest: Vec<u8>,
    images: Vec<ImageId>,
    _pinned: Vec<Pinned>,
}

/// One image, and the tags that it goes under.
struct Asked {
    id: ImageId,
    tags: Vec<Reference>,
}

impl Images {
    /// Prepares an archive of the images meant by these names (`name:tag`, a name for all its tags, a digest, an id).
    /// Blocks.
    ///
    /// # Errors
    ///
    /// Not found when there is no such image, or not all of it is here; Invalid for what names nothing.
    pub fn save(&self, names: &[String], platform: Option<&Platform>) -> Result<Archive> {
        if names.is_empty() {
            return Err(Error::invalid("no images to save: give their names"));
        }
        let state = self.inner.catalog.state();
        let mut asked: Vec<Asked> = Vec::new();
        for name in names {
            for (id, tag) in meant(self, &state, name)? {
                match asked.iter_mut().find(|known| known.id == id) {
                    Some(known) => known.tags.extend(tag.filter(|tag| !known.tags.contains(tag))),
                    None => asked.push(Asked { id, tags: tag.into_iter().collect() }),
                }
            }
        }
        let mut packing = Packing { images: self, state: &state, blobs: BTreeMap::new(), pinned: Vec::new() };
        let (mut entries, mut items) = (Vec::new(), Vec::new());
        for Asked { id, tags } in &asked {
            let image = self.image(id)?;
            if let Some(wanted) = platform.filter(|wanted| !wanted.accepts(&image.platform)) {
                return Err(Error::not_found(format!(
                    "image {} is for the platform {}, not for {wanted}",
                    id.short(),
                    image.platform
                )));
            }
            packing.image(&image, tags, &mut entries, &mut items)?;
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
        let bytes = |value: &Value| {
            serde_json::to_vec(value).map_err(|e| Error::internal("writing an archive's index").because(e))
        };
        Ok(Archive {
            blobs: packing.blobs,
            index: bytes(&index)?,
            manifest: bytes(&Value::Array(items))?,
            images: asked.into_iter().map(|asked| asked.id).collect(),
            _pinned: packing.pinned,
        })
    }
}

/// The images that a name stands for, each with the tag that it has by it.
fn meant(images: &Images, state: &State, name: &str) -> Result<Vec<(ImageId, Option<Reference>)>> {
    if let Ok(reference) = name.parse::<Reference>() {
        if reference.digest().is_none() {
            let tags: Vec<_> = match reference.tag() {
                Some(_) => {
                    state.named(&reference).map(|id| (id, Some(reference.clone()))).into_iter().collect()
                }
                None => crate::push::tags(state, &reference)
                    .into_iter()
                    .map(|(name, id)| (id, Some(name)))
                    .collect(),
            };
            if !tags.is_empty() {
                return Ok(tags);
            }
        }
    }
    Ok(vec![(images.resolve(name)?, None)])
}

struct Packing<'a> {
    images: &'a Images,
    state: &'a State,
    blobs: BTreeMap<String, (PathBuf, u64)>,
    pinned: Vec<Pinned>,
}

impl Packing<'_> {
    fn image(
        &mut self,
        image: &Image,
        tags: &[Reference],
        entries: &mut Vec<Value>,
        items: &mut Vec<Value>,
    ) -> Result<()> {
        let layout = &self.images.inner.layout;
        let bytes = catalog::read_blob(layout, &image.manifest.digest, document::MANIFEST_MAX)?;
        let Document::Manifest(manifest) = document::parse(&bytes, Some(&image.manifest.media_type))? else {
            return Err(Error::internal(format!("the manifest of image {} is an index", image.id.short())));
        };
        let top = self.index_of(image)?.unwrap_or_else(|| image.manifest.clone());
        let layers = manifest.layers.iter();
        let parts: Vec<&Descriptor> =
            [&top, &image.manifest, &manifest.config].into_iter().chain(layers.clone()).collect();
        let held: BTreeSet<&Digest> = parts.iter().map(|part| &part.digest).collect();
        self.pinned
            .push(self.images.inner.pins.hold(held.into_iter().map(|d| Held::Content(d.clone())).collect()));
        for part in parts {
            self.blob(image, part)?;
        }
        let entry = |tag: Option<&Reference>| {
            let mut entry = descriptor(&top);
            if let Some(tag) = tag {
                entry["annotations"] = json!({
                    "io.containerd.image.name": tag.to_string(),
                    "org.opencontainers.image.ref.name": tag.tag().unwrap_or_default(),
                });
            }
            entry
        };
        if tags.is_empty() {
            entries.push(entry(None));
        }
        entries.extend(tags.iter().map(|tag| entry(Some(tag))));
        let names: Vec<String> = tags.iter().map(Reference::familiar).collect();
        items.push(json!({
            "Config": path(&image.id),
            "RepoTags": if names.is_empty() { Value::Null } else { json!(names) },
            "Layers": layers.map(|layer| path(&layer.digest)).collect::<Vec<_>>(),
        }));
        Ok(())
    }

    fn blob(&mut self, image: &Image, part: &Descriptor) -> Result<()> {
        let file = self.images.inner.layout.blob(&part.digest);
        let size = match std::fs::metadata(&file) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::not_found(format!(
                    "the content {} of image {} is not here: pull the image again",
                    part.digest,
                    image.id.short()
                )));
            }
            Err(e) => return Err(Error::io("reading", &file, e)),
        };
        self.blobs.insert(path(&part.digest), (file, size));
        Ok(())
    }

    /// The index that the image came with, if this image is all that is in it.
    fn index_of(&self, image: &Image) -> Result<Option<Descriptor>> {
        for (_, record) in self.state.records.names_of(&image.id) {
            let Some(target) = &record.target else { continue };
            let target = target.read()?;
            if !media_type::is_index(&target.media_type) {
                continue;
            }
            let bytes =
                catalog::read_blob(&self.images.inner.layout, &target.digest, document::MANIFEST_MAX)?;
            if let Document::Index(entries) = document::parse(&bytes, Some(&target.media_type))? {
                if entries.iter().all(|entry| entry.descriptor.digest == image.manifest.digest) {
                    return Ok(Some(target));
                }
            }
        }
        Ok(None)
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn descriptor(d: &Descriptor) -> Value {
    json!({ "mediaType": d.media_type, "digest": d.digest.as_str(), "size": d.size })
}

impl Archive {
    /// The images in it.
    #[must_use]
    pub fn images(&self) -> &[ImageId] {
        &self.images
    }

    /// Writes the archive. Blocks.
    ///
    /// # Errors
    ///
    /// What reading a blob or writing says.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut tar = Writer::new(out);
        tar.directory("blobs/")?;
        tar.directory("blobs/sha256/")?;
        let mut buffer = vec![0; CHUNK];
        for (name, (file, size)) in &self.blobs {
            tar.file(name, *size)?;
            let mut source = File::open(file)?.take(*size);
            let mut copied = 0;
            loop {
                let n = source.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                tar.data(&buffer[..n])?;
                copied += n as u64;
            }
            if copied != *size {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a blob has become shorter"));
            }
        }
        for (name, bytes) in [
            ("index.json", self.index.as_slice()),
            ("manifest.json", &self.manifest),
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ] {
            tar.file(name, bytes.len() as u64)?;
            tar.data(bytes)?;
        }
        tar.finish()
    }
}
