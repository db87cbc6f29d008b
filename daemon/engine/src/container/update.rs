// SPDX-License-Identifier: Apache-2.0
//! `ContainerUpdate`.

use std::sync::Arc;

use berth_api::types::container_create::{HostConfig, Resources, RestartPolicy};
use berth_domain::container::Request;
use berth_domain::{Error, Result};
use berth_runtime::{ShimError, spec};

use crate::Engine;
use crate::asked;
use crate::handle::{Reply, Verb};
use crate::task::{Done, Task, answer};

/// What to change: zero values leave things as they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// Limits.
    pub resources: Resources,
    /// Restart policy; an empty name leaves it.
    pub restart_policy: RestartPolicy,
}

/// An update that the shim has answered.
pub(crate) struct Updated {
    host: HostConfig,
    warnings: Vec<String>,
    result: Result<(), ShimError>,
    reply: Reply<Vec<String>>,
}

impl Engine {
    /// Changes limits and restart policy; returns warnings.
    ///
    /// # Errors
    ///
    /// No such container; a bad value; the kernel refuses.
    pub async fn container_update(&self, name: &str, update: Update) -> Result<Vec<String>> {
        let handle = self.index.resolve(name)?;
        handle.ask(name, |reply| Verb::Update(Box::new(update), reply)).await
    }
}

impl Task {
    pub(crate) fn update(&mut self, asked: &str, update: Update, reply: Reply<Vec<String>>) {
        match self.prepare_update(asked, update) {
            Err(error) => answer(reply, Err(error)),
            Ok((host, warnings, resources)) => {
                let shim = self.up.as_ref().map(|up| Arc::clone(&up.shim));
                self.op = Some(Box::pin(async move {
                    let result = match shim {
                        Some(shim) => shim.update(resources).await,
                        None => Ok(()),
                    };
                    Done::Update(Box::new(Updated { host, warnings, result, reply }))
                }));
            }
        }
    }

    fn prepare_update(
        &self,
        asked: &str,
        mut update: Update,
    ) -> Result<(HostConfig, Vec<String>, serde_json::Value)> {
        self.admit(Request::Change, asked)?;
        let facts = &self.engine.backends.facts;
        let mut host = (*self.now.host_config).clone();
        merge(&mut host.resources, &update.resources);
        // Checked merged: a new memory limit must fit the swap limit that stays.
        std::mem::swap(&mut update.resources, &mut host.resources);
        let warnings = spec::normalise_update(&mut update.resources, facts)?;
        host.resources = update.resources;
        if !update.restart_policy.name.is_empty() {
            if host.auto_remove && update.restart_policy.name != "no" {
                return Err(Error::conflict(format!(
                    "Cannot update container {}: Restart policy cannot be updated because AutoRemove is enabled for the \
                     container",
                    self.now.id
                )));
            }
            host.restart_policy = update.restart_policy;
        }
        asked::derive(&self.engine.config, &self.now.config, &host, &self.now.networking)?;
        let resources = spec::resources(&host.resources, facts)?;
        let resources = serde_json::to_value(&resources)
            .map_err(|error| Error::internal("encoding limits").because(error))?;
        Ok((host, warnings, resources))
    }

    pub(crate) async fn updated(&mut self, updated: Updated) {
        let Updated { host, warnings, result, reply } = updated;
        if let Err(error) = result {
            let error = Error::internal(format!("Cannot update container {}", self.now.id)).because(error);
            return answer(reply, Err(error));
        }
        let before = std::mem::replace(&mut self.now.host_config, Arc::new(host));
        let derived =
            asked::derive(&self.engine.config, &self.now.config, &self.now.host_config, &self.now.networking);
        let recorded = match derived {
            Ok(derived) => {
                self.asked = Arc::new(derived);
                self.record_config().await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = recorded {
            self.now.host_config = before;
            return answer(reply, Err(error));
        }
        self.publish();
        self.event("update", &[]);
        answer(reply, Ok(warnings));
    }
}

/// What is asked replaces what is there; zero values ask for nothing.
fn merge(have: &mut Resources, asked: &Resources) {
    macro_rules! numbers {
        ($($field:ident),*) => {$(if asked.$field != 0 { have.$field = asked.$field; })*};
    }
    macro_rules! options {
        ($($field:ident),*) => {$(if asked.$field.is_some() { have.$field.clone_from(&asked.$field); })*};
    }
    macro_rules! lists {
        ($($field:ident),*) => {$(if !asked.$field.is_empty() { have.$field.clone_from(&asked.$field); })*};
    }
    // CPU limits come as a share of time or as CPUs, not both.
    if asked.nano_cpus != 0 {
        have.cpu_period = 0;
        have.cpu_quota = 0;
    }
    if asked.cpu_period != 0 || asked.cpu_quota != 0 {
        have.nano_cpus = 0;
    }
    numbers!(
        cpu_shares,
        memory,
        nano_cpus,
        blkio_weight,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        memory_reservation,
        memory_swap
    );
    options!(pids_limit, memory_swappiness, oom_kill_disable);
    lists!(
        cpuset_cpus,
        cpuset_mems,
        blkio_weight_device,
        blkio_device_read_bps,
        blkio_device_write_bps,
        blkio_device_read_iops,
        blkio_device_write_iops
    );
}
