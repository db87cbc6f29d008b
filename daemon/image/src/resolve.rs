// SPDX-License-Identifier: Apache-2.0
//! From what users write to an image: a name, a whole id, or the start of one. Names come first: an image may be called `cafe`.

use std::collections::BTreeSet;

use berth_domain::{Digest, Error, ImageId, Reference, Result};

use crate::Images;
use crate::catalog::State;

impl Images {
    /// The image meant by `name[:tag]`, `name@digest`, an id, or a prefix of one (with or without `sha256:`).
    ///
    /// # Errors
    ///
    /// Not found (`No such image: x:latest`); Invalid for an ambiguous prefix
    /// (`Multiple IDs found with provided prefix: x`) or what is no reference at all.
    pub fn resolve(&self, text: &str) -> Result<ImageId> {
        resolve(&self.inner.catalog.state(), text)
    }
}

pub(crate) fn resolve(state: &State, text: &str) -> Result<ImageId> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if let Ok(id) = format!("sha256:{hex}").parse::<Digest>() {
        return match state.image(&id) {
            Some(_) => Ok(id),
            None => Err(Error::not_found(format!("No such image: {id}"))),
        };
    }
    let reference = text.parse::<Reference>();
    if let Ok(reference) = &reference {
        // With both, the digest decides.
        let name = match reference.digest() {
            Some(digest) => reference.with_digest(digest.clone()),
            None => reference.clone().or_latest(),
        };
        if let Some(id) = state.named(&name).filter(|id| state.image(id).is_some()) {
            return Ok(id);
        }
    }
    if is_hex(hex) {
        let from = format!("sha256:{hex}");
        let matches: BTreeSet<&ImageId> = state
            .images
            .keys()
            .skip_while(|id| id.as_str() < from.as_str())
            .take_while(|id| id.as_str().starts_with(&from))
            .filter(|id| !state.is_retired(id))
            .collect();
        match matches.len() {
            0 => {}
            1 => return matches.first().map(|id| (*id).clone()).ok_or_else(|| Error::internal("no image")),
            _ => return Err(Error::invalid(format!("Multiple IDs found with provided prefix: {text}"))),
        }
    }
    Err(Error::not_found(format!("No such image: {}", reference?.or_latest().familiar())))
}

/// Whether `text` can be the start of an id.
pub(crate) fn is_hex(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether `text` names this image by its id or a prefix of it.
pub(crate) fn is_id_prefix(id: &ImageId, text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    is_hex(hex) && id.hex().starts_with(hex)
}
