// SPDX-License-Identifier: Apache-2.0
//! Finding out at start what there is, from whatever survived:
//!
//! | index.json | store | then |
//! |---|---|---|
//! | whole | same generation | that |
//! | whole | older, lost or damaged | `index.json`; the store is written anew |
//! | lost or damaged | whole | the store; `index.json` is written anew |
//! | lost | lost | every manifest among the blobs whose config and layers are there, without a name |
//!
//! An image that cannot be read is left out, loudly; it can be pulled again.

use std::fs;
use std::io::Read;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_domain::{Digest, Error, Result};
use berth_registry::{Descriptor, media_type};
use berth_store::Store;

use super::{Catalog, ImageRecord, Records, State, Writer, read_image};
use crate::document::{self, Document};
use crate::layout::{Layout, sync_dir};

impl Catalog {
    /// Opens the store and reads the images. `repair` is asked to mend an image that does not read, once.
    pub(crate) fn open(
        layout: &Arc<Layout>,
        repair: impl Fn(&Digest, &ImageRecord) -> Result<()>,
    ) -> Result<Self> {
        let store = Store::open(layout.store())?;
        if store.was_rebuilt() {
            tracing::warn!("the image index was damaged; it is rebuilt from files");
        }
        let file = match Records::from_file(layout) {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(error = %error.chain(), "index.json is damaged");
                move_aside(layout)?;
                None
            }
        };
        let stored = Records::from_store(&store)?;
        let in_step = file.is_some() && file == stored;
        let records = match (file, stored) {
            (Some(file), Some(stored)) if stored.generation > file.generation => stored,
            (Some(file), _) => file,
            (None, Some(stored)) => stored,
            (None, None) => scan(layout)?,
        };
        let state = read_all(layout, records, &repair);
        if !in_step {
            state.records.to_file(layout)?;
            state.records.replace_store(&store)?;
        }
        Ok(Self {
            layout: Arc::clone(layout),
            state: RwLock::new(Arc::new(state)),
            writer: Mutex::new(store),
        })
    }
}

impl Writer<'_> {
    /// Reads everything anew from files, also manifests that nothing names, and writes the store. The images found.
    pub(crate) fn rebuild(&self) -> Result<usize> {
        let layout = &self.catalog.layout;
        let mut records = Records::from_file(layout)?.unwrap_or_default();
        for (id, record) in scan(layout)?.images {
            records.images.entry(id).or_insert(record);
        }
        let mut state = read_all(layout, records, &|_, _| Err(Error::internal("not repaired")));
        state.records.generation += 1;
        state.records.to_file(layout)?;
        state.records.replace_store(&self.store)?;
        let found = state.images.len();
        *self.catalog.state.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(state);
        Ok(found)
    }
}

fn move_aside(layout: &Layout) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let to = layout.root().join(format!("index.json.broken-{now}"));
    fs::rename(layout.index(), &to).map_err(|e| Error::io("moving aside", layout.index(), e))?;
    sync_dir(layout.root())
}

fn read_all(
    layout: &Layout,
    records: Records,
    repair: &dyn Fn(&Digest, &ImageRecord) -> Result<()>,
) -> State {
    let mut state = State::default();
    for (id, record) in &records.images {
        let read = id.parse::<Digest>().and_then(|id| {
            let image = read_image(layout, &id, record).or_else(|error| {
                tracing::warn!(image = %id.short(), error = %error.chain(), "the image is damaged; trying to repair it");
                repair(&id, record)?;
                read_image(layout, &id, record)
            })?;
            Ok((id, image))
        });
        match read {
            Ok((id, image)) => {
                state.images.insert(id, Arc::new(image));
            }
            Err(error) => {
                tracing::error!(image = %id, error = %error.chain(), "the image is damaged and left out; pull it again");
            }
        }
    }
    let before = State::default();
    state.records = records;
    let images = &state.images;
    state.records.images.retain(|id, _| id.parse::<Digest>().is_ok_and(|id| images.contains_key(&id)));
    let kept = &state.records.images;
    state.records.names.retain(|_, name| kept.contains_key(&name.image));
    state.refresh_names(&before);
    state
}

/// Every image whose manifest, config and layers are on disk.
fn scan(layout: &Layout) -> Result<Records> {
    let mut records = Records::default();
    let blobs = layout.blobs();
    for entry in fs::read_dir(&blobs).map_err(|e| Error::io("listing", &blobs, e))? {
        let entry = entry.map_err(|e| Error::io("listing", &blobs, e))?;
        let Some(found) =
            entry.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok())
        else {
            continue;
        };
        if let Some((config, record)) = manifest_at(layout, &found) {
            if read_image(layout, &config, &record).is_ok() {
                records.images.insert(config.to_string(), record);
            }
        }
    }
    Ok(records)
}

fn manifest_at(layout: &Layout, digest: &Digest) -> Option<(Digest, ImageRecord)> {
    let mut file = fs::File::open(layout.blob(digest)).ok()?;
    let size = file.metadata().ok()?.len();
    let mut first = [0];
    if size > document::MANIFEST_MAX || file.read(&mut first).ok()? == 0 || first != *b"{" {
        return None;
    }
    let bytes = super::read_blob(layout, digest, document::MANIFEST_MAX).ok()?;
    let Ok(Document::Manifest(manifest)) = document::parse(&bytes, None) else {
        return None;
    };
    let docker = manifest.config.media_type.starts_with("application/vnd.docker.");
    let media_type = if docker { media_type::DOCKER_MANIFEST } else { media_type::OCI_MANIFEST };
    let stated = serde_json::from_slice::<serde_json::Value>(&bytes).ok()?;
    let media_type = stated.get("mediaType").and_then(|t| t.as_str()).unwrap_or(media_type).to_owned();
    let descriptor = Descriptor { media_type, digest: digest.clone(), size };
    let record = ImageRecord {
        manifest: (&descriptor).into(),
        last_tagged_at: String::new(),
        parent: None,
        parents: false,
        retired: false,
    };
    Some((manifest.config.digest, record))
}
