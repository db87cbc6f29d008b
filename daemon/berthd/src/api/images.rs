// SPDX-License-Identifier: Apache-2.0
//! Images.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use berth_api::Filters;
use berth_api::types::image::{ImageDeleted, ImagesPruned, ManifestSummary};
use berth_domain::{Digest, Error, EventKind, ImageId, Meaning, Platform, Reference, Result};
use berth_engine::{ImageRemoveOptions, Removed};
use berth_image::{Image, PullRequest};
use http::StatusCode;

use crate::app::App;
use crate::http::body::BodyReader;
use crate::http::call::invalid;
use crate::http::{Answer, Call, empty, ok, progress};
use crate::wire::{self, labels_pass};

/// Ids of the containers of each image.
pub(super) fn users(app: &App) -> HashMap<ImageId, Vec<String>> {
    let mut users: HashMap<ImageId, Vec<String>> = HashMap::new();
    for snapshot in app.engine.snapshots() {
        users.entry(snapshot.image.clone()).or_default().push(snapshot.id.to_string());
    }
    users
}

/// How much of each image other images have as well.
pub(super) fn shared_sizes(images: &[Arc<Image>]) -> HashMap<ImageId, u64> {
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for layer in images.iter().flat_map(|i| &i.layers) {
        *uses.entry(layer.as_str()).or_default() += 1;
    }
    let shared = |image: &Image| {
        let sizes = image.layers.iter().zip(&image.layer_sizes);
        sizes.filter(|(l, _)| uses.get(l.as_str()).is_some_and(|n| *n > 1)).map(|(_, size)| size).sum()
    };
    images.iter().map(|image| (image.id.clone(), shared(image))).collect()
}

/// Shell patterns as Go's `path.Match` has them: `*` stops at slashes. Going back to the last star is enough:
/// an earlier one could only leave it less of the text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some(b'?'), Some(c)) if *c != b'/' => Some(1),
            (Some(b'\\'), Some(c)) if pattern.get(p + 1) == Some(c) => Some(2),
            (Some(a), Some(c)) if a == c && *a != b'\\' => Some(1),
            _ => None,
        };
        if let Some(width) = step {
            p += width;
            t += 1;
            continue;
        }
        match star {
            Some((after, from)) if text.get(from).is_some_and(|c| *c != b'/') => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// Whether a name fits a `reference` filter, if there is one: with its tag or digest, or without.
fn fits(filters: &Filters, name: &str) -> bool {
    let bare = name
        .split_once('@')
        .map_or_else(|| name.rsplit_once(':').map_or(name, |(bare, _)| bare), |(bare, _)| bare);
    filters.any("reference", |pattern| [name, bare].iter().any(|n| glob(pattern.as_bytes(), n.as_bytes())))
}

fn created(image: &Image) -> jiff::Timestamp {
    image.created.parse().unwrap_or_default()
}

/// `GET /images/json`
pub(crate) async fn image_list(app: Arc<App>, call: Call) -> Answer {
    let filters =
        call.known_filters(&["before", "dangling", "label", "label!", "reference", "since", "until"])?;
    let all = app.images.list();
    let mut images = select(&app, &filters, call.query.bool("all"), &all)?;
    images.sort_by_key(|i| std::cmp::Reverse(created(i)));
    let users = users(&app);
    let shared = call.query.bool("shared-size").then(|| shared_sizes(&all));
    let mut manifests = None;
    if call.query.bool("manifests") {
        manifests = Some(manifests_of(&app, images.iter().map(|i| i.id.clone()).collect()).await?);
    }
    let lines: Vec<_> = images
        .iter()
        .map(|image| {
            let mut line = wire::image::summary(image, users.get(&image.id).map_or(0, Vec::len));
            // Whoever asks for some names is not told the others.
            line.repo_tags.retain(|name| fits(&filters, name));
            line.repo_digests.retain(|name| fits(&filters, name));
            if let Some(shared) = &shared {
                line.shared_size = wire::signed(shared.get(&image.id).copied().unwrap_or(0));
            }
            if let Some(manifests) = manifests.as_mut().and_then(|m| m.remove(&image.id)) {
                line.manifests = Some(manifests);
            }
            line
        })
        .collect();
    call.ok(&lines)
}

/// What is told of the manifests of these images; one that is removed meanwhile is left out.
async fn manifests_of(app: &App, ids: Vec<ImageId>) -> Result<HashMap<ImageId, Vec<ManifestSummary>>> {
    let (images, users) = (app.images.clone(), users(app));
    let of_image = move |id: ImageId| {
        let containers = |image: &Image| users.get(&image.id).cloned().unwrap_or_default();
        match images.manifests(&id) {
            Ok(all) => {
                Some(Ok((id, all.into_iter().map(|m| wire::image::manifest(m, containers)).collect())))
            }
            Err(e) if e.meaning() == Meaning::NotFound => None,
            Err(e) => Some(Err(e)),
        }
    };
    tokio::task::spawn_blocking(move || ids.into_iter().filter_map(of_image).collect())
        .await
        .map_err(|e| Error::internal("listing manifests ended abnormally").because(e))?
}

fn select(app: &App, filters: &Filters, all: bool, images: &[Arc<Image>]) -> Result<Vec<Arc<Image>>> {
    let at = |name: &str| -> Result<Option<jiff::Timestamp>> {
        match filters.values(name).next() {
            Some(image) => Ok(Some(created(&*app.images.image(&app.images.resolve(image)?)?))),
            None => Ok(None),
        }
    };
    let (before, since) = (at("before")?, at("since")?);
    let until = filters.values("until").map(wire::moment).collect::<Result<Vec<_>>>()?;
    let dangling = filters.bool("dangling").map_err(invalid)?;
    let is_parent = |id: &ImageId| images.iter().any(|i| i.parent.as_ref() == Some(id));
    Ok(images
        .iter()
        .filter(|image| {
            let nameless = image.repo_tags.is_empty() && image.repo_digests.is_empty();
            let untagged = image.repo_tags.is_empty();
            let labels: BTreeMap<String, String> = image.labels().into_iter().collect();
            // What others were built on is shown only when all is asked for.
            (all || !nameless || !is_parent(&image.id))
                && dangling.is_none_or(|d| d == untagged)
                && before.is_none_or(|t| created(image) < t)
                && since.is_none_or(|t| created(image) > t)
                && until.iter().all(|t| created(image) < *t)
                && labels_pass(filters, &labels)
                && (filters.values("reference").next().is_none()
                    || image.repo_tags.iter().chain(&image.repo_digests).any(|name| fits(filters, name)))
        })
        .cloned()
        .collect())
}

/// What `fromImage` and `tag` name; the flag asks for all tags.
fn pulled(name: &str, tag: &str) -> Result<(Reference, bool)> {
    let reference: Reference = name.parse()?;
    if tag.is_empty() {
        let all = reference.tag().is_none() && reference.digest().is_none();
        return Ok((reference, all));
    }
    if tag.contains(':') {
        return Ok((
            reference.with_digest(tag.parse().map_err(|_| Error::invalid("invalid reference format"))?),
            false,
        ));
    }
    Ok((reference.with_tag(tag)?, false))
}

/// `POST /images/create`
pub(crate) async fn image_create(app: Arc<App>, call: Call) -> Answer {
    let name = call.query.get("fromImage");
    if name.is_empty() {
        return super::images_import::image_import(app, call).await;
    }
    let (reference, all_tags) = pulled(name, call.query.get("tag"))?;
    let platform = match call.query.get("platform") {
        "" => None,
        text => Some(text.parse::<Platform>()?),
    };
    let auth = wire::auth::from_headers(call.headers());
    let request = PullRequest { reference: reference.clone(), platform, auth, all_tags };
    let shown = if all_tags { reference.familiar_name() } else { reference.familiar() };
    let images = app.images.clone();
    let work = move |sink| async move {
        images.pull(request, sink).await?;
        let attributes = [("name".to_owned(), reference.familiar_name())].into();
        app.engine.publish(EventKind::Image, "pull", &shown, attributes);
        Ok(())
    };
    progress::stream_while_heard(work).await
}

/// `GET /images/{name}/json`
pub(crate) async fn image_inspect(app: Arc<App>, call: Call) -> Answer {
    let image = app.images.image(&app.images.resolve(call.name())?)?;
    let mut answer = wire::image::inspect(&image, &app.images.layers(&image.id)?);
    if call.query.bool("manifests") {
        answer.manifests = manifests_of(&app, vec![image.id.clone()]).await?.remove(&image.id);
    }
    call.ok(&answer)
}

/// `GET /images/{name}/history`
pub(crate) async fn image_history(app: Arc<App>, call: Call) -> Answer {
    let image = app.images.image(&app.images.resolve(call.name())?)?;
    let items: Vec<_> = image.history().iter().map(wire::image::history).collect();
    call.ok(&items)
}

/// `POST /images/{name}/tag`
pub(crate) async fn image_tag(app: Arc<App>, call: Call) -> Answer {
    let reference: Reference = call.query.get("repo").parse()?;
    if reference.digest().is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    let reference = match call.query.get("tag") {
        "" => reference.or_latest(),
        tag => reference.with_tag(tag)?,
    };
    let image = app.images.resolve(call.name())?;
    let (images, id, name) = (app.images.clone(), image.clone(), reference.clone());
    tokio::task::spawn_blocking(move || images.tag(&id, &name))
        .await
        .map_err(|e| Error::internal("naming the image ended abnormally").because(e))??;
    let attributes = [("name".to_owned(), reference.familiar())].into();
    app.engine.publish(EventKind::Image, "tag", &image.to_string(), attributes);
    Ok(empty(StatusCode::CREATED))
}

/// `DELETE /images/{name}`
pub(crate) async fn image_delete(app: Arc<App>, call: Call) -> Answer {
    let options = ImageRemoveOptions { force: call.query.bool("force"), noprune: call.query.bool("noprune") };
    let removed = app.engine.image_remove(call.name(), options).await?;
    let lines: Vec<ImageDeleted> = removed.into_iter().map(line).collect();
    ok(&lines)
}

/// `POST /images/prune`
pub(crate) async fn image_prune(app: Arc<App>, call: Call) -> Answer {
    let filters = call.known_filters(&["dangling", "label", "label!", "until"])?;
    let only_dangling = filters.bool("dangling").map_err(invalid)?.unwrap_or(true);
    let until = filters.values("until").map(wire::moment).collect::<Result<Vec<_>>>()?;
    let before = app.images.list();
    let users = users(&app);
    let mut deleted = Vec::new();
    for image in &before {
        let labels: BTreeMap<String, String> = image.labels().into_iter().collect();
        let keep = (only_dangling && !image.repo_tags.is_empty())
            || users.contains_key(&image.id)
            || before.iter().any(|i| i.parent.as_ref() == Some(&image.id))
            || !until.iter().all(|t| created(image) < *t)
            || !labels_pass(&filters, &labels);
        if keep {
            continue;
        }
        // Name by name: an image that a container took meanwhile keeps its last one.
        let names =
            if image.repo_tags.is_empty() { vec![image.id.to_string()] } else { image.repo_tags.clone() };
        for name in names {
            let options = ImageRemoveOptions { force: false, noprune: false };
            match app.engine.image_remove(&name, options).await {
                Ok(removed) => deleted.extend(removed.into_iter().map(line)),
                Err(e) if matches!(e.meaning(), Meaning::Conflict | Meaning::NotFound) => {
                    tracing::debug!(name, error = %e.chain(), "an image was kept");
                }
                Err(e) => return Err(e),
            }
        }
    }
    let space_reclaimed = layers(&before).saturating_sub(layers(&app.images.list()));
    let reclaimed = [("reclaimed".to_owned(), space_reclaimed.to_string())].into();
    app.engine.publish(EventKind::Image, "prune", "", reclaimed);
    ok(&ImagesPruned { images_deleted: (!deleted.is_empty()).then_some(deleted), space_reclaimed })
}

/// Bytes of all layers, each once.
pub(super) fn layers(images: &[Arc<Image>]) -> u64 {
    let mut layers: HashMap<&str, u64> = HashMap::new();
    for image in images {
        layers.extend(image.layers.iter().map(Digest::as_str).zip(image.layer_sizes.iter().copied()));
    }
    layers.values().sum()
}

fn line(removed: Removed) -> ImageDeleted {
    match removed {
        Removed::Untagged(name) => ImageDeleted { untagged: Some(name), deleted: None },
        Removed::Deleted(id) => ImageDeleted { untagged: None, deleted: Some(id) },
    }
}

/// `POST /images/load`
pub(crate) async fn image_load(app: Arc<App>, call: Call) -> Answer {
    let quiet = call.query.bool_or("quiet", true);
    let archive = BodyReader::new(call.into_body());
    let images = app.images.clone();
    let work = move |sink| async move {
        for name in images.load(archive, quiet, sink).await? {
            // An archive may hold images without a name: their ids come back.
            let id = images.resolve(&name).map_or_else(|_| name.clone(), |id| id.to_string());
            app.engine.publish(EventKind::Image, "load", &id, [("name".to_owned(), name)].into());
        }
        Ok(())
    };
    progress::stream(work).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn patterns_are_gos() {
        for (pattern, text) in [
            ("busybox", "busybox"),
            ("busy*", "busybox"),
            ("*:latest", "busybox:latest"),
            ("b?syb*x", "busybox"),
            ("*/a", "x/a"),
            ("*a*b", "xaab"),
            ("a\\*", "a*"),
            ("*", ""),
        ] {
            assert!(glob(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [("busybox", "busybox2"), ("*", "a/b"), ("?", ""), ("a*b", "a/b")] {
            assert!(!glob(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn names_and_tags_of_pulls() {
        let check = |name: &str, tag: &str| pulled(name, tag).map(|(r, all)| (r.familiar(), all)).unwrap();
        assert_eq!(check("busybox", "1"), ("busybox:1".to_owned(), false));
        assert_eq!(check("localhost:5000/bb", ""), ("localhost:5000/bb".to_owned(), true));
        assert_eq!(check("busybox:2", ""), ("busybox:2".to_owned(), false));
        assert_eq!(check("busybox:2", "3"), ("busybox:3".to_owned(), false));
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(check("busybox", &digest), (format!("busybox@{digest}"), false));
        assert!(pulled("Busy", "").is_err());
    }
}
