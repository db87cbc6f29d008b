// SPDX-License-Identifier: Apache-2.0
//! Images on their way out: pushed to registries, saved to archives.

use std::sync::Arc;

use berth_domain::{Error, EventKind, Platform, Reference, Result};
use berth_image::PushRequest;
use http::{HeaderValue, header};

use crate::app::App;
use crate::http::{Answer, Body, Call, Response, progress};
use crate::wire;

/// What is to be pushed: a tag, or all tags of a repository when none is said.
fn pushed(name: &str, tag: &str) -> Result<Reference> {
    let reference: Reference = name.parse()?;
    if reference.digest().is_some() {
        return Err(Error::invalid("cannot push a digest reference"));
    }
    if tag.is_empty() { Ok(reference) } else { reference.with_tag(tag) }
}

/// `POST /images/{name}/push`
pub(crate) async fn image_push(app: Arc<App>, call: Call) -> Answer {
    let reference = pushed(call.name(), call.query.get("tag"))?;
    let platform = match call.query.get("platform") {
        "" => None,
        text => Some(platform(text)?),
    };
    let auth = wire::auth::from_headers(call.headers());
    let request = PushRequest { reference: reference.clone(), platform, auth };
    let images = app.images.clone();
    let work = move |sink| async move {
        images.push(request, sink).await?;
        let attributes = [("name".to_owned(), reference.familiar_name())].into();
        app.engine.publish(EventKind::Image, "push", &reference.familiar(), attributes);
        Ok(())
    };
    progress::stream(work).await
}

/// `GET /images/{name}/get`
pub(crate) async fn image_get(app: Arc<App>, call: Call) -> Answer {
    save(&app, &call, vec![call.name().to_owned()]).await
}

/// `GET /images/get`
pub(crate) async fn image_get_all(app: Arc<App>, call: Call) -> Answer {
    save(&app, &call, call.query.all("names").map(str::to_owned).collect()).await
}

async fn save(app: &App, call: &Call, names: Vec<String>) -> Answer {
    let wanted = match call.query.get("platform") {
        "" => None,
        text => Some(platform(text)?),
    };
    let images = app.images.clone();
    let archive = tokio::task::spawn_blocking(move || images.save(&names, wanted.as_ref()))
        .await
        .map_err(|e| Error::internal("preparing the archive ended abnormally").because(e))??;
    for id in archive.images() {
        let name = app.images.image(id)?.repo_tags.first().cloned().unwrap_or_else(|| id.to_string());
        app.engine.publish(EventKind::Image, "save", id.as_str(), [("name".to_owned(), name)].into());
    }
    let mut response = Response::new(Body::written(move |out| archive.write(out)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

/// A platform as newer clients write it (JSON), or in a word.
pub(super) fn platform(text: &str) -> Result<Platform> {
    if !text.starts_with('{') {
        return text.parse();
    }
    let spec: berth_api::types::PlatformSpec =
        serde_json::from_str(text).map_err(|e| Error::invalid(format!("invalid platform {text:?}: {e}")))?;
    Ok(Platform { os: spec.os, architecture: spec.architecture, variant: spec.variant })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn names_and_tags_of_pushes() {
        assert_eq!(pushed("localhost:5000/a", "1").unwrap().familiar(), "localhost:5000/a:1");
        assert_eq!(pushed("a:2", "").unwrap().tag(), Some("2"));
        assert_eq!(pushed("a", "").unwrap().tag(), None);
        assert!(pushed(&format!("a@sha256:{}", "a".repeat(64)), "").is_err());
    }

    #[test]
    fn platforms_come_in_two_shapes() {
        let arm = platform(r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#).unwrap();
        assert_eq!(arm.to_string(), "linux/arm64/v8");
        assert_eq!(platform("linux/amd64").unwrap().architecture, "amd64");
        assert!(platform("{").is_err());
    }
}
