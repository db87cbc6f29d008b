// SPDX-License-Identifier: Apache-2.0
//! What is written about images and names: `index.json`, and the same records one by one in the store.
//!
//! `index.json` is at the same time the index of an OCI image layout (image-spec, image-layout.md), so that other tools
//! read the data root as one: `skopeo copy oci:/var/lib/berth:docker.io/library/busybox:latest ...`. Our records are a
//! field of their own in it, which such tools pass over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use berth_domain::{Digest, Error, ImageId, Result};
use berth_registry::{Descriptor, media_type};
use berth_store::{Batch, Store};
use serde::{Deserialize, Serialize};

use crate::layout::{Layout, write_atomically};

const SCHEMA: u32 = 1;

/// A descriptor on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DescriptorRecord {
    media_type: String,
    digest: String,
    size: u64,
}

impl From<&Descriptor> for DescriptorRecord {
    fn from(d: &Descriptor) -> Self {
        Self { media_type: d.media_type.clone(), digest: d.digest.to_string(), size: d.size }
    }
}

impl DescriptorRecord {
    pub(crate) fn read(&self) -> Result<Descriptor> {
        Ok(Descriptor { media_type: self.media_type.clone(), digest: self.digest.parse()?, size: self.size })
    }
}

/// An image on disk: all else is in its manifest, its config and its layers' records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageRecord {
    pub(crate) manifest: DescriptorRecord,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) last_tagged_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    /// It has a directory of its own on top of its layers ([`crate::parents`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) parents: bool,
    /// Removed by name and id, but containers still stand on its layers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) retired: bool,
}

/// A name on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NameRecord {
    pub(crate) image: String,
    /// For a digest: what it is the digest of, where that is kept (an index, or the manifest).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<DescriptorRecord>,
}

/// Everything that is recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Records {
    schema: u32,
    /// Counts changes: tells whether the store and `index.json` say the same.
    pub(crate) generation: u64,
    /// By image id.
    pub(crate) images: BTreeMap<String, ImageRecord>,
    /// By full reference.
    pub(crate) names: BTreeMap<String, NameRecord>,
}

/// `index.json` as it is, and as it was before it was an OCI index, too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Index {
    Layout { berth: Records },
    Bare(Records),
}

/// The store's own word on how whole it is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    schema: u32,
    generation: u64,
    images: usize,
    names: usize,
}

fn unreadable(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::internal(format!("reading {what}")).because(error)
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("writing a record").because(e))
}

impl Records {
    pub(crate) fn image(&self, id: &ImageId) -> Option<&ImageRecord> {
        self.images.get(id.as_str())
    }

    /// `index.json`; `None` when there is none.
    pub(super) fn from_file(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.index();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("reading", &path, e)),
        };
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| unreadable("index.json", e))?;
        let records = match index {
            Index::Layout { berth } => berth,
            Index::Bare(records) => records,
        };
        if records.schema != SCHEMA {
            return Err(Error::internal(format!(
                "index.json has schema {}, {SCHEMA} expected",
                records.schema
            )));
        }
        Ok(Some(records))
    }

    pub(super) fn to_file(&self, layout: &Layout) -> Result<()> {
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_INDEX,
            "manifests": self.manifests(),
            "berth": Self { schema: SCHEMA, ..self.clone() },
        });
        write_atomically(&layout.index(), &to_json(&index)?)
    }

    /// A line for each tag, and one for each image without any, as an OCI layout lists them.
    fn manifests(&self) -> Vec<serde_json::Value> {
        let line = |record: &ImageRecord| serde_json::json!(record.manifest);
        let mut tagged = BTreeSet::new();
        let mut lines = Vec::new();
        for (name, record) in &self.names {
            let Some(image) = self.images.get(&record.image).filter(|_| !name.contains('@')) else {
                continue;
            };
            tagged.insert(&record.image);
            let mut line = line(image);
            line["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
            lines.push(line);
        }
        let others = self.images.iter().filter(|(id, image)| !image.retired && !tagged.contains(id));
        lines.extend(others.map(|(_, image)| line(image)));
        lines
    }

    /// What the store has; `None` when it is empty or not whole.
    pub(super) fn from_store(store: &Store) -> Result<Option<Self>> {
        let Some(head) = store.tree("meta")?.get("head")? else {
            return Ok(None);
        };
        let Ok(head) = serde_json::from_slice::<Head>(&head) else {
            return Ok(None);
        };
        fn all<T: serde::de::DeserializeOwned>(
            store: &Store,
            tree: &str,
        ) -> Result<Option<BTreeMap<String, T>>> {
            let read = |(key, value): (Vec<u8>, Vec<u8>)| {
                Some((String::from_utf8(key).ok()?, serde_json::from_slice(&value).ok()?))
            };
            Ok(store.tree(tree)?.iter()?.into_iter().map(read).collect())
        }
        let (Some(images), Some(names)) = (all(store, "images")?, all(store, "names")?) else {
            return Ok(None);
        };
        let records = Self { schema: SCHEMA, generation: head.generation, images, names };
        Ok((head == records.head()).then_some(records))
    }

    fn head(&self) -> Head {
        Head {
            schema: SCHEMA,
            generation: self.generation,
            images: self.images.len(),
            names: self.names.len(),
        }
    }

    /// Writes what differs from `before`.
    pub(super) fn to_store(&self, store: &Store, before: &Self) -> Result<()> {
        let mut batch = Batch::new();
        batch.put("meta", "head", to_json(&self.head())?);
        diff(&mut batch, "images", &before.images, &self.images)?;
        diff(&mut batch, "names", &before.names, &self.names)?;
        store.commit(batch)
    }

    /// Writes all of it over whatever the store has.
    pub(super) fn replace_store(&self, store: &Store) -> Result<()> {
        let mut batch = Batch::new();
        for tree in ["images", "names"] {
            for (key, _) in store.tree(tree)?.iter()? {
                batch.delete(tree, key);
            }
        }
        store.commit(batch)?;
        self.to_store(store, &Self::default())
    }

    /// Names (full form) of this image.
    pub(crate) fn names_of<'a>(
        &'a self,
        id: &'a ImageId,
    ) -> impl Iterator<Item = (&'a str, &'a NameRecord)> + 'a {
        self.names.iter().filter(move |(_, record)| record.image == id.as_str()).map(|(n, r)| (n.as_str(), r))
    }

    /// Blobs that names keep: indexes that led to an image.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Digest> + '_ {
        self.names.values().filter_map(|name| name.target.as_ref()?.digest.parse().ok())
    }
}

fn diff<T: Serialize + PartialEq>(
    batch: &mut Batch,
    tree: &str,
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
) -> Result<()> {
    for (key, value) in after {
        if before.get(key) != Some(value) {
            batch.put(tree, key.as_str(), to_json(value)?);
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        batch.delete(tree, key.as_str());
    }
    Ok(())
}
