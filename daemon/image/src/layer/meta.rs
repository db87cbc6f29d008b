// SPDX-License-Identifier: Apache-2.0
//! `layers/<hex>/meta.json`: what is known of an unpacked layer.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use berth_domain::{Digest, Error, Result};
use serde::{Deserialize, Serialize};

use crate::layout::io_error;
use crate::unpack::Unpacked;

const SCHEMA: u32 = 1;
const NAME: &str = "meta.json";

/// Schema 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    schema: u32,
    diff_id: String,
    /// Sum of the files' lengths.
    pub(crate) size: u64,
    pub(crate) entries: u64,
    /// Directories that only their contents imply, percent-encoded where they are not printable ASCII.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    implied: Vec<String>,
}

impl Meta {
    pub(super) fn new(diff_id: &Digest, unpacked: &Unpacked) -> Self {
        Self {
            schema: SCHEMA,
            diff_id: diff_id.to_string(),
            size: unpacked.size,
            entries: unpacked.entries,
            implied: unpacked.implied.iter().map(|path| encode(path)).collect(),
        }
    }

    /// Made durable by the sync of the whole filesystem that precedes the layer's renaming.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(NAME);
        let bytes =
            serde_json::to_vec(self).map_err(|e| Error::internal("writing a layer's record").because(e))?;
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(&bytes))
            .map_err(|e| io_error("writing", &path, e))
    }

    /// Of the layer in this directory.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(NAME);
        let bytes = fs::read(&path).map_err(|e| Error::io("reading", &path, e))?;
        let meta: Self = serde_json::from_slice(&bytes)
            .map_err(|e| Error::internal(format!("reading {}", path.display())).because(e))?;
        if meta.schema != SCHEMA {
            return Err(Error::internal(format!(
                "{} has schema {}, {SCHEMA} expected",
                path.display(),
                meta.schema
            )));
        }
        Ok(meta)
    }

    pub(crate) fn implied(&self) -> Vec<Vec<u8>> {
        self.implied.iter().map(|path| decode(path)).collect()
    }
}

fn encode(path: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(path.len());
    for byte in path {
        match byte {
            b'%' | 0..=b' ' | 0x7f..=0xff => {
                // Writing to a String cannot fail.
                let _ok = write!(text, "%{byte:02x}");
            }
            _ => text.push(char::from(*byte)),
        }
    }
    text
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        match escaped {
            Some(byte) => {
                path.push(byte);
                at += 3;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    path
}
