// SPDX-License-Identifier: Apache-2.0
//! What a registry says about an image.

use std::sync::Arc;

use berth_api::types::image::DistributionInspect;
use berth_api::types::{Descriptor, PlatformSpec};
use berth_domain::{Digest, Error, Reference, Result};
use berth_registry::media_type;
use serde_json::Value;
use sha2::Digest as _;

use crate::app::App;
use crate::http::{Answer, Call};
use crate::wire::auth;

/// `GET /distribution/{name}/json`
pub(crate) async fn distribution_inspect(app: Arc<App>, call: Call) -> Answer {
    let reference: Reference = call.name().parse::<Reference>()?.or_latest();
    let auth = auth::from_headers(call.headers());
    let manifest = app.registry.resolve(&reference, &auth).await?;
    let document: Value = serde_json::from_slice(&manifest.body)
        .map_err(|e| Error::internal("the registry's manifest cannot be read").because(e))?;
    let platforms = if media_type::is_index(&manifest.descriptor.media_type) {
        let listed = document.get("manifests").and_then(Value::as_array);
        listed.into_iter().flatten().filter_map(|m| platform(m.get("platform")?)).collect()
    } else {
        platform_of_image(&app, &reference, &auth, &document).await?
    };
    call.ok(&DistributionInspect {
        descriptor: Descriptor {
            media_type: manifest.descriptor.media_type,
            digest: manifest.descriptor.digest.to_string(),
            size: i64::try_from(manifest.descriptor.size).unwrap_or(i64::MAX),
            ..Descriptor::default()
        },
        platforms,
    })
}

fn platform(value: &Value) -> Option<PlatformSpec> {
    serde_json::from_value(value.clone()).ok()
}

/// A single image says its platform in its config only.
async fn platform_of_image(
    app: &App,
    reference: &Reference,
    auth: &berth_registry::Auth,
    manifest: &Value,
) -> Result<Vec<PlatformSpec>> {
    /// The longest config that is looked into.
    const MAX_CONFIG: u64 = 4 << 20;
    let config = manifest.get("config").cloned().unwrap_or_default();
    let (Some(digest), Some(size)) =
        (config.get("digest").and_then(Value::as_str), config.get("size").and_then(Value::as_u64))
    else {
        return Ok(Vec::new());
    };
    if size > MAX_CONFIG {
        return Err(Error::invalid(format!("the image's config of {size} bytes is too long")));
    }
    let descriptor = berth_registry::Descriptor {
        media_type: config.get("mediaType").and_then(Value::as_str).unwrap_or_default().to_owned(),
        digest: digest.parse::<Digest>()?,
        size,
    };
    let mut stream = app.registry.blob(reference, &descriptor, 0, auth).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    if Digest::from_sha256(sha2::Sha256::digest(&bytes).into()) != descriptor.digest {
        return Err(Error::invalid(format!(
            "the image's config is not what its digest {} says",
            descriptor.digest
        )));
    }
    let config: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::internal("the image's config cannot be read").because(e))?;
    Ok(platform(&config).into_iter().collect())
}
