// SPDX-License-Identifier: Apache-2.0
//! `ContainerRename`.

use berth_domain::container::{self, Request};
use berth_domain::{Error, Result};

use crate::Engine;
use crate::handle::Verb;
use crate::task::Task;

impl Engine {
    /// Gives a container another name.
    ///
    /// # Errors
    ///
    /// No such container; the name is taken, breaks the rules or is its own already.
    pub async fn container_rename(&self, name: &str, new_name: &str) -> Result<()> {
        let new_name = new_name.strip_prefix('/').unwrap_or(new_name);
        if name.is_empty() || new_name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let handle = self.index.resolve(name)?;
        container::check_name(new_name)
            // With the slash, as the reference has it here.
            .map_err(|_| Error::invalid(format!(
                "Error when allocating new name: Invalid container name (/{new_name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )))?;
        handle.ask(name, |reply| Verb::Rename(new_name.to_owned(), reply)).await
    }
}

impl Task {
    pub(crate) async fn rename(&mut self, asked: &str, new_name: &str) -> Result<()> {
        self.admit(Request::Change, asked)?;
        if self.now.name == new_name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        let guard = self
            .engine
            .index
            .reserve(new_name, &self.now.id)
            .map_err(|error| Error::conflict(format!("Error when allocating new name: {error}")))?;
        let old = std::mem::replace(&mut self.now.name, new_name.to_owned());
        if let Err(error) = self.record_config().await {
            self.now.name = old;
            return Err(error);
        }
        guard.keep();
        self.engine.index.release(&old);
        self.engine.backends.networks.rename(&self.now.id, new_name);
        self.publish();
        self.event("rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}
