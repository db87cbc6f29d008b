// SPDX-License-Identifier: Apache-2.0
//! `HostConfig.DeviceRequests`: which devices by name they come to.

use berth_api::types::container_create::HostConfig;
use berth_domain::{Error, Result};
use serde::Deserialize;

use super::{Cdi, GPUS};

/// Most names in a request.
const MAX_NAMES: usize = 1024;

/// A request for devices of a driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceRequest {
    /// `cdi`, `nvidia`, or empty for whichever has the capabilities.
    pub driver: Option<String>,
    /// How many; -1 for all.
    pub count: i64,
    /// Which.
    #[serde(rename = "DeviceIDs")]
    pub device_ids: Option<Vec<String>>,
    /// Alternatives, each a list of which all must be there.
    pub capabilities: Option<Vec<Vec<String>>>,
    /// For the driver.
    pub options: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Reads a container's requests.
///
/// # Errors
///
/// Invalid input: one of another shape.
pub fn requests(host: &HostConfig) -> Result<Vec<DeviceRequest>> {
    let all = host.resources.device_requests.as_deref().unwrap_or_default();
    let read = |(number, value): (usize, &serde_json::Value)| {
        let request: DeviceRequest = serde_json::from_value(value.clone())
            .map_err(|e| Error::invalid(format!("invalid HostConfig.DeviceRequests[{number}]: {e}")))?;
        if request.device_ids.as_ref().is_some_and(|ids| ids.len() > MAX_NAMES) {
            return Err(Error::invalid(format!(
                "invalid HostConfig.DeviceRequests[{number}]: more than {MAX_NAMES} DeviceIDs"
            )));
        }
        Ok(request)
    };
    all.iter().enumerate().map(read).collect()
}

impl DeviceRequest {
    /// Whether it names CDI devices. These are looked for at each start, as files come and go.
    #[must_use]
    pub fn is_cdi(&self) -> bool {
        self.driver.as_deref() == Some("cdi")
    }

    /// The qualified names that it comes to.
    ///
    /// # Errors
    ///
    /// Invalid input: no driver serves it, in the reference's words.
    pub fn names(&self, cdi: Option<&Cdi>) -> Result<Vec<String>> {
        let Some(cdi) = cdi else { return Err(self.refusal()) };
        let ids = self.device_ids.as_deref().unwrap_or_default();
        if self.is_cdi() {
            if self.count != 0 {
                return Err(Error::invalid("unexpected count in CDI device request"));
            }
            if self.options.as_ref().is_some_and(|options| !options.is_empty()) {
                return Err(Error::invalid("unexpected options in CDI device request"));
            }
            return Ok(ids.to_vec());
        }
        if !self.wants_gpus() || !cdi.has_gpus() {
            return Err(self.refusal());
        }
        let named = |id: &dyn std::fmt::Display| format!("{GPUS}={id}");
        match (self.count, ids) {
            (0 | -1, []) => Ok(vec![named(&"all")]),
            (0, ids) => Ok(ids.iter().map(|id| named(id)).collect()),
            (_, [_, ..]) => Err(Error::invalid("cannot set both Count and DeviceIDs on device request")),
            (count, []) => {
                let most = i64::try_from(MAX_NAMES).unwrap_or(i64::MAX);
                if !(1..=most).contains(&count) {
                    return Err(Error::invalid(format!("invalid count {count} in a device request")));
                }
                Ok((0..count).map(|number| named(&number)).collect())
            }
        }
    }

    /// As the reference's driver for these devices matches capabilities.
    fn wants_gpus(&self) -> bool {
        const HAS: [&str; 8] =
            ["gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display"];
        let all_of = |set: &Vec<String>| set.iter().all(|one| HAS.contains(&one.as_str()));
        let sets = self.capabilities.as_deref().unwrap_or_default();
        matches!(self.driver.as_deref(), None | Some("" | "nvidia")) && sets.iter().any(all_of)
    }

    fn refusal(&self) -> Error {
        let driver = self.driver.as_deref().unwrap_or_default();
        let sets = self.capabilities.iter().flatten().map(|set| format!("[{}]", set.join(" ")));
        let sets = sets.collect::<Vec<_>>().join(" ");
        Error::invalid(format!("could not select device driver {driver:?} with capabilities: [{sets}]"))
    }
}
