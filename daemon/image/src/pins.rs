// SPDX-License-Identifier: Apache-2.0
//! What must stay although no record names it yet: the content that a pull in flight counts on, and the images that
//! containers are being created from.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_domain::{Digest, ImageId};

/// What can be held.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Held {
    /// A blob or a layer.
    Content(Digest),
    /// An image, against removal.
    Image(ImageId),
}

#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    held: HashMap<Held, usize>,
    /// Images whose removal has been decided and is being written.
    leaving: HashSet<ImageId>,
}

/// An image on its way out, until dropped.
#[derive(Debug)]
pub(crate) struct Leaving {
    pins: Arc<Pins>,
    image: ImageId,
}

/// Holds until dropped.
#[derive(Debug)]
pub(crate) struct Pinned {
    pins: Arc<Pins>,
    held: Vec<Held>,
}

impl Pins {
    pub(crate) fn hold(self: &Arc<Self>, held: Vec<Held>) -> Pinned {
        let mut counts = self.counts();
        for item in &held {
            *counts.held.entry(item.clone()).or_default() += 1;
        }
        drop(counts);
        Pinned { pins: Arc::clone(self), held }
    }

    /// Holds an image unless it is leaving.
    pub(crate) fn lease(self: &Arc<Self>, image: &ImageId) -> Option<Pinned> {
        let held = Held::Image(image.clone());
        let mut counts = self.counts();
        if counts.leaving.contains(image) {
            return None;
        }
        *counts.held.entry(held.clone()).or_default() += 1;
        drop(counts);
        Some(Pinned { pins: Arc::clone(self), held: vec![held] })
    }

    /// Starts an image's removal unless it is held; nobody can take hold of it until the guard is dropped.
    pub(crate) fn leave(self: &Arc<Self>, image: &ImageId) -> Option<Leaving> {
        let mut counts = self.counts();
        if counts.held.contains_key(&Held::Image(image.clone())) {
            return None;
        }
        counts.leaving.insert(image.clone());
        drop(counts);
        Some(Leaving { pins: Arc::clone(self), image: image.clone() })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` (short: a rename) unless the item is held; nobody can take hold of it meanwhile.
    pub(crate) fn unless_held<T>(&self, item: &Held, act: impl FnOnce() -> T) -> Option<T> {
        let counts = self.counts();
        (!counts.held.contains_key(item)).then(act)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut counts = self.pins.counts();
        for item in &self.held {
            if let Some(count) = counts.held.get_mut(item) {
                *count -= 1;
                if *count == 0 {
                    counts.held.remove(item);
                }
            }
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.pins.counts().leaving.remove(&self.image);
    }
}
