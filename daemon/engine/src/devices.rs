// SPDX-License-Identifier: Apache-2.0
//! Devices by name: what `HostConfig.DeviceRequests` asks for, found in the host's CDI files at each start.

use berth_api::types::container_create::HostConfig;
use berth_domain::{Error, Result};
use berth_runtime::cdi::{Cdi, Owner, requests};
use oci_spec::runtime::Spec;

use crate::config::EngineConfig;

/// What the host's files say now; `None` if they are not to be looked at.
pub(crate) fn found(config: &EngineConfig) -> Option<Cdi> {
    (!config.cdi_spec_dirs.is_empty()).then(|| Cdi::read(&config.cdi_spec_dirs))
}

/// Refuses what no driver serves; the reference does that at start, when there is a container to be removed again. Which
/// devices there are is another matter: files come and go.
pub(crate) fn check(config: &EngineConfig, host: &HostConfig) -> Result<()> {
    let requests = requests(host)?;
    if requests.is_empty() {
        return Ok(());
    }
    let found = found(config);
    requests.iter().try_for_each(|request| request.names(found.as_ref()).map(drop))
}

/// Gives a container the devices that it asks for; answers further groups for its process.
pub(crate) fn inject(
    config: &EngineConfig,
    host: &HostConfig,
    user: &str,
    spec: &mut Spec,
) -> Result<Vec<String>> {
    let requests = requests(host)?;
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let found = found(config);
    // A name is looked up inside the container only: nodes then belong to root, as when nobody says.
    let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
    let owner = Owner { uid: uid.parse().ok(), gid: gid.parse().ok() };
    let mut groups = Vec::new();
    for request in &requests {
        let names = request.names(found.as_ref())?;
        if let Some(cdi) = &found {
            groups.extend(cdi.inject(&names, spec, owner)?);
        }
    }
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > 1024 {
        return Err(Error::invalid("CDI device injection failed: more than 1024 additional groups"));
    }
    Ok(groups.iter().map(u32::to_string).collect())
}
