// SPDX-License-Identifier: Apache-2.0
//! How much room everything takes. Sizes are kept, not walked, wherever something keeps them.

use std::sync::Arc;

use berth_api::ApiVersion;
use berth_api::types::container::ContainerSummary;
use berth_api::types::image::ImageSummary;
use berth_api::types::system::{DiskUsage, DiskUsageLists, KindUsage};
use berth_api::types::volume::{Volume, VolumeUsage};
use berth_domain::{Error, Result};

use crate::app::App;
use crate::http::{Answer, Call};
use crate::wire;

/// `GET /system/df`
pub(crate) async fn system_data_usage(app: Arc<App>, call: Call) -> Answer {
    let kinds: Vec<&str> = call.query.all("type").collect();
    if let Some(kind) = kinds.iter().find(|k| !["container", "image", "volume", "build-cache"].contains(k)) {
        return Err(Error::invalid(format!("unknown object type: {kind}")));
    }
    let wanted = |kind: &str| kinds.is_empty() || kinds.contains(&kind);
    let verbose = call.version >= ApiVersion::v1(52) && call.query.bool("verbose");
    let (mut usage, mut lists) = (DiskUsage::default(), DiskUsageLists::default());
    if wanted("image") {
        let (sums, lines) = images(&app);
        lists.layers_size = sums.total_size;
        usage.image_usage = Some(with_items(sums, &lines, verbose)?);
        lists.images = Some(lines);
    }
    if wanted("container") {
        let (sums, lines) = containers(&app).await;
        usage.container_usage = Some(with_items(sums, &lines, verbose)?);
        lists.containers = Some(lines);
    }
    if wanted("volume") {
        let (sums, lines) = volumes(&app).await?;
        usage.volume_usage = Some(with_items(sums, &lines, verbose)?);
        lists.volumes = Some(lines);
    }
    if wanted("build-cache") {
        let none: Vec<serde_json::Value> = Vec::new();
        usage.build_cache_usage = Some(with_items(KindUsage::default(), &none, verbose)?);
        lists.build_cache = Some(none);
    }
    usage.lists = (!verbose).then_some(lists);
    call.ok(&usage)
}

fn with_items<T: serde::Serialize>(mut sums: KindUsage, lines: &[T], verbose: bool) -> Result<KindUsage> {
    sums.items = verbose
        .then(|| serde_json::to_value(lines))
        .transpose()
        .map_err(|e| Error::internal("writing an answer").because(e))?
        // Nothing is nothing, as for the sums.
        .filter(|_| !lines.is_empty());
    Ok(sums)
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn images(app: &App) -> (KindUsage, Vec<ImageSummary>) {
    let images = app.images.list();
    let users = super::images::users(app);
    let shared = super::images::shared_sizes(&images);
    let total = super::images::layers(&images);
    let used: Vec<_> = images.iter().filter(|image| users.contains_key(&image.id)).cloned().collect();
    let sums = KindUsage {
        active_count: count(used.len()),
        total_count: count(images.len()),
        total_size: wire::signed(total),
        reclaimable: wire::signed(total.saturating_sub(super::images::layers(&used))),
        items: None,
    };
    let line = |image: &Arc<berth_image::Image>| {
        let mut line = wire::image::summary(image, users.get(&image.id).map_or(0, Vec::len));
        line.shared_size = wire::signed(shared.get(&image.id).copied().unwrap_or(0));
        line
    };
    (sums, images.iter().map(line).collect())
}

async fn containers(app: &Arc<App>) -> (KindUsage, Vec<ContainerSummary>) {
    let links = app.engine.link_names();
    let now = jiff::Timestamp::now();
    let (mut sums, mut lines) = (KindUsage::default(), Vec::new());
    for snapshot in app.engine.snapshots() {
        // What was removed meanwhile takes no room.
        let Ok(sizes) = app.engine.container_size(snapshot.id.as_str()).await else { continue };
        let mut line = wire::container::summary(app, &snapshot, now, &links);
        (line.size_rw, line.size_root_fs) = wire::container::listed_sizes(sizes);
        let size = line.size_rw.unwrap_or(0);
        sums.total_count += 1;
        sums.total_size = sums.total_size.saturating_add(size);
        if matches!(line.state.as_str(), "running" | "paused" | "restarting") {
            sums.active_count += 1;
        } else {
            sums.reclaimable = sums.reclaimable.saturating_add(size);
        }
        lines.push(line);
    }
    (sums, lines)
}

async fn volumes(app: &App) -> Result<(KindUsage, Vec<Volume>)> {
    let volumes = app.volumes.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let measure = |v: &berth_volume::Volume| {
            let mut answer = wire::volume::volume(v);
            answer.usage_data = Some(VolumeUsage {
                ref_count: count(volumes.users(&v.name).len()),
                // What is on another disk, or cannot be read, has no known size.
                size: volumes.size(&v.name).ok().flatten().map_or(-1, wire::signed),
            });
            answer
        };
        volumes.list().iter().map(measure).collect::<Vec<Volume>>()
    });
    let lines =
        measured.await.map_err(|e| Error::internal("measuring volumes ended abnormally").because(e))?;
    let mut sums = KindUsage { total_count: count(lines.len()), ..KindUsage::default() };
    for usage in lines.iter().filter_map(|v| v.usage_data.as_ref()) {
        let size = usage.size.max(0);
        sums.total_size = sums.total_size.saturating_add(size);
        if usage.ref_count > 0 {
            sums.active_count += 1;
        } else {
            sums.reclaimable = sums.reclaimable.saturating_add(size);
        }
    }
    Ok((sums, lines))
}
