// SPDX-License-Identifier: Apache-2.0
//! `ContainerPrune`.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::Filters;
use berth_domain::container::Request;
use berth_domain::{ContainerId, Error, EventKind, Result, Status};
use jiff::Timestamp;

use crate::Engine;
use crate::container::list::until;
use crate::container::remove::RemoveOptions;
use crate::handle::Verb;

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// What went away.
    pub deleted: Vec<ContainerId>,
    /// Bytes won.
    pub space_reclaimed: u64,
}

impl Engine {
    /// Removes all containers that do not run. Filters: until, label, label!.
    ///
    /// # Errors
    ///
    /// An unknown filter; a prune is under way.
    pub async fn container_prune(self: &Arc<Self>, filters: Filters) -> Result<PruneReport> {
        filters.only(&["until", "label", "label!"]).map_err(|error| Error::invalid(error.0))?;
        let before = until(&filters, Timestamp::now())?;
        let _alone =
            self.pruning.try_lock().map_err(|_| Error::conflict("a prune operation is already running"))?;
        let mut report = PruneReport::default();
        for handle in self.index.all() {
            let now = handle.now();
            let labels = now.config.labels.clone().unwrap_or_default();
            let chosen = matches!(now.state.status, Status::Created | Status::Exited | Status::Dead)
                && before.is_none_or(|before| now.created_at < before)
                && filters.labels("label", &labels)
                && !filters.any_label("label!", &labels);
            if !chosen || handle.admit(Request::Remove { force: false }, &now.name).is_err() {
                continue;
            }
            let size = self.container_size(handle.id.as_str()).await.map_or(0, |sizes| sizes.rw);
            // One that is started or removed meanwhile is none of ours.
            match handle.ask(&now.name, |reply| Verb::Remove(RemoveOptions::default(), reply)).await {
                Ok(()) => {
                    report.deleted.push(handle.id.clone());
                    report.space_reclaimed += size;
                }
                Err(error) => {
                    tracing::debug!(container = %handle.id, error = error.chain(), "not pruned");
                }
            }
        }
        let reclaimed = BTreeMap::from([("reclaimed".to_owned(), report.space_reclaimed.to_string())]);
        self.publish(EventKind::Container, "prune", "", reclaimed);
        Ok(report)
    }
}
