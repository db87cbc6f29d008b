// SPDX-License-Identifier: Apache-2.0
//! Containers whose users are not the host's (`userns-remap`).
//!
//! ```text
//! image layers, local volumes, /etc files   stored as ever; mounted with ids mapped
//! what the container writes to its image    stored with the host's ids of its users (its upper directory is not mapped)
//! binds, volumes mounted from elsewhere     as they are, as with the reference
//! archives, commits                         as the container sees it
//! ```
//!
//! So images and volumes are shared with containers whose users are the host's. A container keeps the mapping that it was
//! created with, whatever the daemon is told later: its files are stored accordingly.

pub(crate) mod attributes;

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use berth_api::types::container_create::HostConfig;
use berth_domain::{Error, IdMap, Result};

use crate::Engine;

impl Engine {
    /// The users that a new container is to have; `None` for the host's.
    ///
    /// # Errors
    ///
    /// Invalid input, in the reference's words: something that only the host's root may have.
    pub(crate) fn id_map_for(&self, host: &HostConfig) -> Result<Option<Arc<IdMap>>> {
        let Some(map) = self.config.id_map.as_ref().filter(|_| host.userns_mode != "host") else {
            return Ok(None);
        };
        let refusals = [
            (
                host.privileged,
                "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace \
                 when running privileged mode",
            ),
            (
                host.network_mode == "host",
                "cannot share the host's network namespace when user namespaces are enabled",
            ),
            (host.pid_mode == "host", "cannot share the host PID namespace when user namespaces are enabled"),
        ];
        match refusals.iter().find(|(asked, _)| *asked) {
            Some((_, words)) => Err(Error::invalid(*words)),
            None => Ok(Some(Arc::clone(map))),
        }
    }

    /// Whether new containers have users of their own.
    #[must_use]
    pub fn remaps_users(&self) -> bool {
        self.config.id_map.is_some()
    }

    /// Better refused at the daemon's start than at every container's. Blocking.
    pub(crate) fn check_id_mapping(&self) -> Result<()> {
        let Some(map) = &self.config.id_map else { return Ok(()) };
        let userns = self.user_namespace(map).map_err(|error| error.context("userns-remap"))?;
        let layers = [self.init_layer(), self.containers_dir()];
        let Err(error) = berth_sys::mapped::overlay_read_only(&layers, &userns) else { return Ok(()) };
        Err(Error::invalid(format!(
            "userns-remap: images at {} cannot be mounted with mapped ids; that takes Linux 5.19 and a file system that can \
             (ext4, xfs, btrfs; no network file system): move data-root to one, or leave userns-remap out",
            self.config.data_root.display()
        ))
        .because(error))
    }

    /// Containers stay what they were created as; who turns this on should know of those that are not covered.
    pub(crate) fn tell_of_other_users(&self) {
        let Some(map) = &self.config.id_map else { return };
        let all = self.index.all();
        let others = all
            .iter()
            .map(|handle| handle.now())
            .filter(|now| now.id_map.as_ref() != Some(map) && now.host_config.userns_mode != "host");
        let others = others.count();
        if others > 0 {
            tracing::warn!(
                containers = others,
                "containers from before userns-remap keep the users that they were created with"
            );
        }
    }

    /// A user namespace with these mappings and nobody in it: what maps the ids of mounts. Blocking.
    pub(crate) fn user_namespace(&self, map: &IdMap) -> Result<Arc<OwnedFd>> {
        let mut made = self.user_namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, userns)) = made.iter().find(|(other, _)| other == map) {
            return Ok(Arc::clone(userns));
        }
        let userns = Arc::new(self.backends.shims.found(map)?);
        made.push((map.clone(), Arc::clone(&userns)));
        Ok(userns)
    }
}
