// SPDX-License-Identifier: Apache-2.0
//! `docker rmi`: which of untagging, deleting and refusing it is. The rules and the texts are the reference engine's:
//!
//! - By name: the name goes; the image goes with its last name. Refused if that would leave a container with an image
//!   without a name, unless forced.
//! - By id: all names go if they are of one repository and at most one is a tag; several need force.
//! - A running container's image is never deleted, forced or not. A stopped one's is, if forced: then its files stay
//!   until [`Images::collect`] finds no container on them.

use std::collections::BTreeSet;

use berth_domain::{Error, ImageId, Reference, Result};

use crate::Images;
use crate::catalog::State;
use crate::document::chain_ids;
use crate::pins::Leaving;
use crate::resolve::{is_id_prefix, resolve};
use crate::types::{ImageUse, RemoveOptions, Removed};

/// What stands against deleting an image.
struct Conflict {
    hard: bool,
    /// A container or another image stands on it.
    used: bool,
    why: String,
}

impl Conflict {
    fn into_error(self, id: &ImageId) -> Error {
        let how = if self.hard { "cannot be forced" } else { "must be forced" };
        Error::conflict(format!("conflict: unable to delete {} ({how}) - {}", id.short(), self.why))
    }
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

/// Which conflicts count.
#[derive(Clone, Copy)]
struct Mask {
    soft: bool,
    names: bool,
}

impl Images {
    /// Removes a name or an image. `in_use` tells the containers of an image. Blocks.
    ///
    /// # Errors
    ///
    /// Not found; Conflict in the reference engine's words; Invalid for an ambiguous prefix.
    pub fn remove(
        &self,
        name: &str,
        options: RemoveOptions,
        in_use: impl Fn(&ImageId) -> Vec<ImageUse>,
    ) -> Result<Vec<Removed>> {
        let mut leaving = Vec::new();
        let removed = self.inner.catalog.writer().change(|state| {
            let id = resolve(state, name)?;
            let mut removal = Removal {
                images: self,
                state,
                in_use: &in_use,
                options,
                done: Vec::new(),
                leaving: &mut leaving,
            };
            removal.run(&id, name)?;
            Ok(removal.done)
        })?;
        drop(leaving);
        if removed.iter().any(|r| matches!(r, Removed::Deleted(_))) {
            self.inner.sweep()?;
        }
        Ok(removed)
    }
}

struct Removal<'a, F> {
    images: &'a Images,
    state: &'a mut State,
    in_use: &'a F,
    options: RemoveOptions,
    done: Vec<Removed>,
    /// Images that nobody may lease until their removal is published.
    leaving: &'a mut Vec<Leaving>,
}

impl<F: Fn(&ImageId) -> Vec<ImageUse>> Removal<'_, F> {
    fn run(&mut self, id: &ImageId, name: &str) -> Result<()> {
        let force = self.options.force;
        let mut names = self.state.references(id);
        if is_id_prefix(id, name) {
            if is_single(&names) {
                if let Some(conflict) = self.conflict(id, Mask { soft: !force, names: false }) {
                    return Err(conflict.into_error(id));
                }
                self.untag(&names);
            }
            return self.delete(id, false);
        }
        let reference: Reference = name.parse()?;
        let reference = match reference.digest() {
            Some(digest) => reference.with_digest(digest.clone()),
            None => reference.or_latest(),
        };
        if !force && is_single(&names) {
            if let Some(user) = (self.in_use)(id).first() {
                return Err(Error::conflict(format!(
                    "conflict: unable to remove repository reference {name:?} (must force) - container {} is using its referenced image {}",
                    short(&user.container),
                    id.short()
                )));
            }
        }
        self.untag(std::slice::from_ref(&reference));
        names.retain(|other| *other != reference);
        if reference.digest().is_none() {
            // Digests go with the repository's last tag.
            let same = |other: &Reference| other.familiar_name() == reference.familiar_name();
            if !names.iter().any(|other| other.digest().is_none() && same(other)) {
                let digests: Vec<Reference> = names.iter().filter(|other| same(other)).cloned().collect();
                self.untag(&digests);
                names.retain(|other| !same(other));
            }
        }
        if names.is_empty() { self.delete(id, true) } else { Ok(()) }
    }

    fn untag(&mut self, names: &[Reference]) {
        for name in names {
            if self.state.records.names.remove(&name.to_string()).is_some() {
                self.done.push(Removed::Untagged(name.familiar()));
            }
        }
    }

    /// Deletes the image and, unless told not to, its parents that nothing else needs. `quiet`: something was removed
    /// already, and a container in the way is no error.
    fn delete(&mut self, id: &ImageId, quiet: bool) -> Result<()> {
        let force = self.options.force;
        if let Some(conflict) = self.conflict(id, Mask { soft: !force, names: !force }) {
            if quiet && (conflict.used || !self.state.references(id).is_empty()) {
                return Ok(());
            }
            return Err(conflict.into_error(id));
        }
        let Some(guard) = self.images.inner.pins.leave(id) else {
            let why = "image is being used by a container that is being created".into();
            return if quiet { Ok(()) } else { Err(Conflict { hard: true, used: true, why }.into_error(id)) };
        };
        self.leaving.push(guard);
        let parent = self.state.images.get(id).and_then(|image| image.parent.clone());
        self.untag(&self.state.references(id));
        self.done.push(Removed::Deleted(id.to_string()));
        self.done.extend(self.layers_only_of(id).into_iter().map(Removed::Deleted));
        if (self.in_use)(id).is_empty() {
            self.state.forget(id);
        } else if let Some(record) = self.state.records.images.get_mut(id.as_str()) {
            record.retired = true;
        }
        match parent {
            Some(parent) if !self.options.noprune && self.state.image(&parent).is_some() => {
                if self.state.references(&parent).is_empty() { self.delete(&parent, true) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// Chain ids of the layers that no other image has, topmost first.
    fn layers_only_of(&self, id: &ImageId) -> Vec<String> {
        let Some(image) = self.state.images.get(id) else { return Vec::new() };
        let others: BTreeSet<_> = self
            .state
            .images
            .values()
            .filter(|other| other.id != *id && !self.state.is_retired(&other.id))
            .flat_map(|other| chain_ids(&other.layers))
            .collect();
        let own = chain_ids(&image.layers);
        own.into_iter().rev().filter(|chain| !others.contains(chain)).map(|chain| chain.to_string()).collect()
    }

    fn conflict(&self, id: &ImageId, mask: Mask) -> Option<Conflict> {
        let conflict = |hard, used, why: String| Some(Conflict { hard, used, why });
        if self.state.images.values().any(|i| i.parent.as_ref() == Some(id) && !self.state.is_retired(&i.id))
        {
            return conflict(true, true, "image has dependent child images".into());
        }
        let users = (self.in_use)(id);
        if let Some(user) = users.iter().find(|user| user.running) {
            return conflict(
                true,
                true,
                format!("image is being used by running container {}", short(&user.container)),
            );
        }
        if mask.names && !self.state.references(id).is_empty() {
            return conflict(false, false, "image is referenced in multiple repositories".into());
        }
        if mask.soft {
            if let Some(user) = users.first() {
                return conflict(
                    false,
                    true,
                    format!("image is being used by stopped container {}", short(&user.container)),
                );
            }
        }
        None
    }
}

/// Whether all names are of one repository and at most one of them is a tag.
fn is_single(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.digest().is_none()).count();
    let one_repository = names.windows(2).all(|pair| pair[0].familiar_name() == pair[1].familiar_name());
    names.len() <= 1 || (tags <= 1 && one_repository)
}

#[cfg(test)]
mod tests;
