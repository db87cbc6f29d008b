// SPDX-License-Identifier: Apache-2.0
//! Volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::ApiVersion;
use berth_api::types::volume::{VolumeCreateBody, VolumeList, VolumesPruned};
use berth_domain::{Error, EventKind, Meaning, Result};
use http::StatusCode;

use crate::app::App;
use crate::http::call::invalid;
use crate::http::{Answer, Call, json, no_content, ok};
use crate::wire::{self, labels_pass};

/// Volumes block on the disk: their calls run beside the tasks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("the work on volumes ended abnormally").because(e))?
}

/// `GET /volumes`
pub(crate) async fn volume_list(app: Arc<App>, call: Call) -> Answer {
    let filters = call.known_filters(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.bool("dangling").map_err(invalid)?;
    let none = BTreeMap::new();
    let volumes = app.volumes.clone();
    let (all, warnings) = blocking(move || Ok(volumes.list_everywhere())).await?;
    let volumes = all
        .iter()
        .filter(|v| dangling.is_none_or(|wanted| app.volumes.users(&v.name).is_empty() == wanted))
        .filter(|v| filters.is("driver", &v.driver) && filters.any("name", |part| v.name.contains(part)))
        .filter(|v| labels_pass(&filters, v.labels.as_ref().unwrap_or(&none)))
        .map(wire::volume::volume)
        .collect();
    call.ok(&VolumeList { volumes, warnings: (!warnings.is_empty()).then_some(warnings) })
}

/// `POST /volumes/create`
pub(crate) async fn volume_create(app: Arc<App>, mut call: Call) -> Answer {
    let body: VolumeCreateBody = call.json().await?.unwrap_or_default();
    if body.cluster_volume_spec.is_some() {
        return super::swarm::not_a_manager(app, call).await;
    }
    let some = |map: BTreeMap<String, String>| (!map.is_empty()).then_some(map);
    let volumes = app.volumes.clone();
    let (before, volume) = blocking(move || {
        // Waits while somebody else makes it.
        let before = volumes.known(&body.name).is_ok();
        let name = Some(body.name.as_str()).filter(|n| !n.is_empty());
        let volume = volumes.create(name, &body.driver, some(body.driver_opts), some(body.labels))?;
        Ok((before, volume))
    })
    .await?;
    if !before {
        let attributes = [("driver".to_owned(), volume.driver.clone())].into();
        app.engine.publish(EventKind::Volume, "create", &volume.name, attributes);
    }
    json(StatusCode::CREATED, &wire::volume::volume(&volume))
}

/// `GET /volumes/{name}`
pub(crate) async fn volume_inspect(app: Arc<App>, call: Call) -> Answer {
    let (volumes, name) = (app.volumes.clone(), call.name().to_owned());
    let volume = blocking(move || volumes.inspect(&name)).await?;
    call.ok(&wire::volume::volume(&volume))
}

/// `DELETE /volumes/{name}`
pub(crate) async fn volume_delete(app: Arc<App>, call: Call) -> Answer {
    let (name, force) = (call.name().to_owned(), call.query.bool("force"));
    let volumes = app.volumes.clone();
    let removed = name.clone();
    let known = blocking(move || match volumes.known(&removed) {
        Ok(volume) => volumes.remove(&removed, force).map(|()| Some(volume)),
        // One that only its driver knows, or none at all.
        Err(_) => match volumes.remove_elsewhere(&removed) {
            Ok(volume) => Ok(Some(volume)),
            Err(error) if force && error.meaning() == Meaning::NotFound => Ok(None),
            Err(error) => Err(error),
        },
    })
    .await?;
    if let Some(volume) = known {
        app.engine.publish(
            EventKind::Volume,
            "destroy",
            &name,
            [("driver".to_owned(), volume.driver)].into(),
        );
    }
    no_content()
}

/// `POST /volumes/prune`
pub(crate) async fn volume_prune(app: Arc<App>, call: Call) -> Answer {
    let filters = call.known_filters(&["all", "label", "label!"])?;
    // Before 1.42 named volumes went too.
    let all = match filters.bool("all").map_err(invalid)? {
        Some(all) => all,
        None => call.version < ApiVersion::v1(42),
    };
    let volumes = app.volumes.clone();
    let pruned = blocking(move || {
        let none = BTreeMap::new();
        volumes.prune(all, |v| labels_pass(&filters, v.labels.as_ref().unwrap_or(&none)))
    })
    .await?;
    for name in &pruned.removed {
        app.engine.publish(
            EventKind::Volume,
            "destroy",
            name,
            [("driver".to_owned(), "local".to_owned())].into(),
        );
    }
    let reclaimed = [("reclaimed".to_owned(), pruned.reclaimed.to_string())].into();
    app.engine.publish(EventKind::Volume, "prune", "", reclaimed);
    ok(&VolumesPruned {
        volumes_deleted: (!pruned.removed.is_empty()).then_some(pruned.removed),
        space_reclaimed: pruned.reclaimed,
    })
}
