// SPDX-License-Identifier: Apache-2.0
//! Images made of containers.

use std::sync::Arc;

use berth_api::types::container_create::ContainerConfig;
use berth_api::types::exec::IdResponse;
use berth_domain::{Error, Reference, Result};
use berth_engine::CommitOptions;
use http::StatusCode;

use crate::app::App;
use crate::http::{Answer, Call, json};

/// The name that `repo` and `tag` come to.
fn named(repo: &str, tag: &str) -> Result<Option<Reference>> {
    if repo.is_empty() {
        return Ok(None);
    }
    let name: Reference = repo.parse()?;
    if name.digest().is_some() {
        return Err(Error::invalid("cannot import digest reference"));
    }
    Ok(Some(if tag.is_empty() { name.or_latest() } else { name.with_tag(tag)? }))
}

/// `POST /commit`
pub(crate) async fn image_commit(app: Arc<App>, mut call: Call) -> Answer {
    let config: Option<ContainerConfig> = call.json().await?;
    let options = CommitOptions {
        // Clients that mean none send one without fields.
        config: config.filter(|config| *config != ContainerConfig::default()),
        changes: call.query.all("changes").map(str::to_owned).collect(),
        author: call.query.get("author").to_owned(),
        comment: call.query.get("comment").to_owned(),
        pause: call.query.bool_or("pause", true),
        name: named(call.query.get("repo"), call.query.get("tag"))?,
    };
    let id = app.engine.image_commit(call.query.get("container"), options).await?;
    json(StatusCode::CREATED, &IdResponse { id: id.to_string() })
}
