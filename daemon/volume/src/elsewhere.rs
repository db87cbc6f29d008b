// SPDX-License-Identifier: Apache-2.0
//! Volumes as clients ask for them: those made here, and those that only their drivers know.

use std::collections::BTreeMap;

use berth_domain::{Error, Meaning, Result};

use crate::disk::LOCAL;
use crate::plugin::{self, Plugin, PluginVolume};
use crate::store::{Volume, Volumes};

fn told(driver: &str, scope: &str, told: PluginVolume) -> Volume {
    Volume {
        name: told.name,
        driver: driver.to_owned(),
        mountpoint: told.mountpoint.into(),
        created_at: told.created_at,
        scope: scope.to_owned(),
        status: told.status,
        project: None,
        labels: None,
        options: None,
    }
}

/// What was asked at its creation, and what its driver says of it now.
fn both(here: Volume, there: Volume) -> Volume {
    Volume {
        created_at: if there.created_at.is_empty() { here.created_at } else { there.created_at },
        labels: here.labels,
        options: here.options,
        ..there
    }
}

impl Volumes {
    /// All volumes by name, those of other drivers with them, and warnings of drivers that do not answer. Blocks on them.
    #[must_use]
    pub fn list_everywhere(&self) -> (Vec<Volume>, Vec<String>) {
        let mut all: BTreeMap<String, Volume> =
            self.list().into_iter().map(|v| (v.name.clone(), v)).collect();
        let mut warnings = Vec::new();
        let mut drivers = plugin::names();
        drivers.extend(all.values().map(|v| v.driver.clone()).filter(|driver| driver != LOCAL));
        for driver in drivers {
            let listed = plugin::find(&driver).and_then(|plugin| Ok((plugin.scope(), plugin.list()?)));
            let (scope, listed) = match listed {
                Ok(listed) => listed,
                // A plugin for something else than volumes.
                Err(error) if error.meaning() == Meaning::NotFound => continue,
                Err(error) => {
                    warnings.push(format!("list {driver}: {}", error.chain()));
                    continue;
                }
            };
            for volume in listed {
                let there = told(&driver, &scope, volume);
                match all.get(&there.name) {
                    // Two volumes of one name: the one that was made here is meant by it.
                    Some(here) if here.driver != driver => {}
                    Some(here) => {
                        let merged = both(here.clone(), there);
                        all.insert(merged.name.clone(), merged);
                    }
                    None => drop(all.insert(there.name.clone(), there)),
                }
            }
        }
        (all.into_values().collect(), warnings)
    }

    /// One volume, wherever it is. Blocks on its driver.
    ///
    /// # Errors
    ///
    /// `get NAME: no such volume`; its driver does not answer.
    pub fn inspect(&self, name: &str) -> Result<Volume> {
        let here = match self.known(name) {
            Ok(here) if here.driver == LOCAL => return Ok(here),
            Ok(here) => Some(here),
            Err(error) if error.meaning() == Meaning::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(here) = here {
            let plugin = plugin::find(&here.driver)?;
            let there = told(&here.driver, &plugin.scope(), plugin.get(name)?);
            return Ok(both(here, there));
        }
        let (driver, plugin, volume) = self.find_elsewhere(name)?;
        Ok(told(&driver, &plugin.scope(), volume))
    }

    /// The driver that knows a volume which was not made here.
    fn find_elsewhere(&self, name: &str) -> Result<(String, Plugin, PluginVolume)> {
        plugin::names()
            .into_iter()
            .find_map(|driver| {
                let plugin = plugin::find(&driver).ok()?;
                let volume = plugin.get(name).ok()?;
                Some((driver, plugin, volume))
            })
            .ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    /// Removes a volume that only its driver knows.
    ///
    /// # Errors
    ///
    /// No driver knows it; its driver refuses.
    pub fn remove_elsewhere(&self, name: &str) -> Result<Volume> {
        let (driver, plugin, volume) = self.find_elsewhere(name)?;
        plugin.remove(name)?;
        Ok(told(&driver, LOCAL, volume))
    }
}
