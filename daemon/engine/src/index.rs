// SPDX-License-Identifier: Apache-2.0
//! The containers by id and by name. Locked for look-ups and small changes only.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_domain::{ContainerId, Error, Result};

use crate::handle::Handle;

/// The containers by id and by name.
#[derive(Debug, Default)]
pub(crate) struct Index {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    by_id: BTreeMap<String, Arc<Handle>>,
    names: HashMap<String, ContainerId>,
}

/// A name that is taken; given up on drop unless kept.
#[derive(Debug)]
pub(crate) struct NameGuard {
    index: Arc<Index>,
    name: Option<String>,
}

impl NameGuard {
    /// Keeps the name taken.
    pub(crate) fn keep(mut self) {
        self.name = None;
    }
}

impl Drop for NameGuard {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.index.lock().names.remove(&name);
        }
    }
}

fn no_such(asked: &str) -> Error {
    Error::not_found(format!("No such container: {asked}"))
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name for a container.
    ///
    /// # Errors
    ///
    /// It is taken.
    pub(crate) fn reserve(self: &Arc<Self>, name: &str, id: &ContainerId) -> Result<NameGuard> {
        let mut tables = self.lock();
        if let Some(owner) = tables.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove \
                 (or rename) that container to be able to reuse that name."
            )));
        }
        tables.names.insert(name.to_owned(), id.clone());
        Ok(NameGuard { index: Arc::clone(self), name: Some(name.to_owned()) })
    }

    /// Gives a name up.
    pub(crate) fn release(&self, name: &str) {
        self.lock().names.remove(name);
    }

    pub(crate) fn insert(&self, handle: Arc<Handle>) {
        self.lock().by_id.insert(handle.id.as_str().to_owned(), handle);
    }

    /// Forgets a container and its name.
    pub(crate) fn remove(&self, id: &ContainerId) {
        let mut tables = self.lock();
        tables.by_id.remove(id.as_str());
        tables.names.retain(|_, owner| owner != id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.lock().by_id.values().cloned().collect()
    }

    pub(crate) fn get(&self, id: &ContainerId) -> Option<Arc<Handle>> {
        self.lock().by_id.get(id.as_str()).cloned()
    }

    /// By full id, by name, or by the beginning of an id that no other shares.
    ///
    /// # Errors
    ///
    /// `No such container: x`; several ids begin so.
    pub(crate) fn resolve(&self, asked: &str) -> Result<Arc<Handle>> {
        let tables = self.lock();
        if let Some(handle) = tables.by_id.get(asked) {
            return Ok(Arc::clone(handle));
        }
        let name = asked.strip_prefix('/').unwrap_or(asked);
        if let Some(handle) = tables.names.get(name).and_then(|id| tables.by_id.get(id.as_str())) {
            return Ok(Arc::clone(handle));
        }
        if asked.is_empty() {
            return Err(no_such(asked));
        }
        let mut matches = tables
            .by_id
            .range::<str, _>((Bound::Included(asked), Bound::Unbounded))
            .take_while(|(id, _)| id.starts_with(asked))
            .map(|(_, handle)| handle);
        match (matches.next(), matches.next()) {
            (None, _) => Err(no_such(asked)),
            (Some(handle), None) => Ok(Arc::clone(handle)),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("Multiple IDs found with provided prefix: {asked}")))
            }
        }
    }
}
