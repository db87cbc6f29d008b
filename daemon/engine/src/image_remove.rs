// SPDX-License-Identifier: Apache-2.0
//! `ImageDelete`: the engine's part is to know which containers use an image.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_domain::{EventKind, ImageId, Result};
use berth_image::{ImageUse, RemoveOptions, Removed};

use crate::Engine;
use crate::index::Index;
use crate::seam::ImageUsers;

/// The containers of an image.
pub(crate) fn users(index: &Arc<Index>) -> ImageUsers {
    let index = Arc::clone(index);
    Arc::new(move |image: &ImageId| {
        index
            .all()
            .iter()
            .map(|handle| handle.now())
            .filter(|now| !now.state.removed)
            .filter(|now| now.image == *image || now.mounts.iter().any(|point| point.image == image.as_str()))
            .map(|now| ImageUse {
                container: now.id.to_string(),
                running: now.state.status.has_processes()
                    || now.state.status == berth_domain::Status::Restarting,
            })
            .collect()
    })
}

impl Engine {
    /// Removes an image by name or id.
    ///
    /// # Errors
    ///
    /// No such image; a container uses it; it has several names and was given by id.
    pub async fn image_remove(self: &Arc<Self>, name: &str, options: RemoveOptions) -> Result<Vec<Removed>> {
        let (engine, name) = (Arc::clone(self), name.to_owned());
        // Its own thread, and to the end: a client that hangs up does not stop it half-way.
        crate::files::blocking(move || {
            let image = engine.backends.images.resolve(&name)?;
            let removed = engine.backends.images.remove(&name, options, users(&engine.index))?;
            for one in &removed {
                let (action, actor, shown) = match one {
                    // The reference names the image here, and not what it was called.
                    Removed::Untagged(_) => ("untag", image.to_string(), image.to_string()),
                    Removed::Deleted(id) => ("delete", id.clone(), id.clone()),
                };
                let attributes = BTreeMap::from([("name".to_owned(), shown)]);
                engine.bus.publish(EventKind::Image, action, &actor, attributes);
            }
            Ok(removed)
        })
        .await
    }

    /// Lets go of images that were removed while containers stood on them.
    pub(crate) async fn collect_images(self: &Arc<Self>) {
        let engine = Arc::clone(self);
        let collected =
            crate::files::blocking(move || engine.backends.images.collect(users(&engine.index))).await;
        if let Err(error) = collected {
            tracing::error!(error = error.chain(), "collecting images that nobody uses");
        }
    }
}
