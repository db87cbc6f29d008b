// SPDX-License-Identifier: Apache-2.0
//! Volumes.

use berth_api::types::volume;

/// A volume's answer.
pub(crate) fn volume(v: &berth_volume::Volume) -> volume::Volume {
    volume::Volume {
        created_at: v.created_at.clone(),
        driver: v.driver.clone(),
        labels: v.labels.clone(),
        mountpoint: v.mountpoint.display().to_string(),
        name: v.name.clone(),
        options: v.options.clone(),
        scope: v.scope.clone(),
        status: v.status.clone(),
        usage_data: None,
    }
}
