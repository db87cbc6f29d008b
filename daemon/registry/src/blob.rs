// SPDX-License-Identifier: Apache-2.0
//! Streaming blobs, with resumption.

use berth_domain::Result;
use bytes::Bytes;

/// The bytes of a blob. Breaks and stalls of the connection are mended by asking for the rest.
#[derive(Debug)]
pub struct BlobStream {
    offset: u64,
    size: u64,
}

impl BlobStream {
    /// The next bytes, never empty; `None` once all have come.
    ///
    /// Cancel-safe: a dropped call loses no bytes.
    ///
    /// # Errors
    ///
    /// As [`crate::Client::resolve`], when mending did not help or the registry sends another length
    /// than the descriptor's.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    /// How far into the blob the next byte is.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The blob's length.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}
