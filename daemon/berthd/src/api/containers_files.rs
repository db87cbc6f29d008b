// SPDX-License-Identifier: Apache-2.0
//! Containers seen from outside: files copied out and in, changes, export, and what they use.

use std::sync::Arc;

use base64::Engine as _;
use berth_api::ApiVersion;
use berth_api::types::container::{ContainerPathStat, FilesystemChange};
use berth_domain::{Error, Result};
use berth_engine::{ChangeKind, PathStat, PutOptions, StatsMode};
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tracing::Instrument as _;

use crate::app::App;
use crate::http::serve::stopped;
use crate::http::{Answer, Body, Call, JSON, Response, empty, ok};

const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");
/// How a path is described beside its archive.
const PATH_STAT: &str = "X-Docker-Container-Path-Stat";
/// Pieces of a request's body that wait for the disk; each is at most what is read of a connection at once.
const AHEAD: usize = 16;

fn described(stat: &PathStat) -> Result<HeaderValue> {
    let stat = ContainerPathStat {
        name: stat.name.clone(),
        size: stat.size,
        mode: stat.mode,
        mtime: stat.modified_at.to_string(),
        link_target: stat.link_target.clone(),
    };
    let json = serde_json::to_vec(&stat)
        .map_err(|e| Error::internal("the answer cannot be written as JSON").because(e))?;
    HeaderValue::try_from(base64::engine::general_purpose::STANDARD.encode(json))
        .map_err(|e| Error::internal("the answer cannot be written as a header").because(e))
}

/// `HEAD /containers/{id}/archive`
pub(crate) async fn container_archive_info(app: Arc<App>, call: Call) -> Answer {
    let stat = app.engine.container_archive_info(call.name(), call.query.get("path")).await?;
    let mut response = empty(StatusCode::OK);
    response.headers_mut().insert(PATH_STAT, described(&stat)?);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(response)
}

/// `GET /containers/{id}/archive`
pub(crate) async fn container_archive(app: Arc<App>, call: Call) -> Answer {
    let (stat, pieces) = app.engine.container_archive(call.name(), call.query.get("path")).await?;
    let mut response = Response::new(Body::Fallible(pieces));
    response.headers_mut().insert(PATH_STAT, described(&stat)?);
    response.headers_mut().insert(header::CONTENT_TYPE, TAR);
    Ok(response)
}

/// `PUT /containers/{id}/archive`
pub(crate) async fn put_container_archive(app: Arc<App>, call: Call) -> Answer {
    let options = PutOptions {
        keep_kinds: call.query.bool("noOverwriteDirNonDir"),
        container_user: call.query.bool("copyUIDGID"),
    };
    let (name, path) = (call.name().to_owned(), call.query.get("path").to_owned());
    let mut body = call.request.into_body();
    let (sender, archive) = mpsc::channel(AHEAD);
    // As they come from the connection, so that nothing is copied on its way to the file.
    let feed = async move {
        while let Some(frame) = body.frame().await {
            let piece = match frame.map(http_body::Frame::into_data) {
                Ok(Ok(piece)) => Ok(piece),
                // Trailers are nobody's.
                Ok(Err(_)) => continue,
                Err(e) => Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, e)),
            };
            let last = piece.is_err();
            if sender.send(piece).await.is_err() || last {
                return;
            }
        }
    };
    tokio::spawn(feed.in_current_span());
    app.engine.put_container_archive(&name, &path, options, archive).await?;
    Ok(empty(StatusCode::OK))
}

/// `GET /containers/{id}/changes`
pub(crate) async fn container_changes(app: Arc<App>, call: Call) -> Answer {
    let changes = app.engine.container_changes(call.name()).await?;
    let line = |(path, kind): (std::path::PathBuf, ChangeKind)| FilesystemChange {
        path: path.to_string_lossy().into_owned(),
        kind: match kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        },
    };
    let lines: Vec<FilesystemChange> = changes.into_iter().map(line).collect();
    // Go's nil slice.
    ok(&Some(lines).filter(|lines| !lines.is_empty()))
}

/// `GET /containers/{id}/export`
pub(crate) async fn container_export(app: Arc<App>, call: Call) -> Answer {
    let pieces = app.engine.container_export(call.name()).await?;
    let mut response = Response::new(Body::Fallible(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// `GET /containers/{id}/stats`
pub(crate) async fn container_stats(app: Arc<App>, call: Call) -> Answer {
    let mode = match (call.query.bool_or("stream", true), call.query.bool("one-shot")) {
        (true, true) => return Err(Error::invalid("cannot have stream=true and one-shot=true")),
        (true, false) => StatsMode::Stream,
        (false, true) if call.version >= ApiVersion::v1(41) => StatsMode::Once,
        (false, _) => StatsMode::Pair,
    };
    let mut samples = app.engine.container_stats(call.name(), mode).await?;
    let (sender, body) = Body::channel();
    let mut shutdown = app.shutdown.clone();
    let send = async move {
        loop {
            let sample = tokio::select! {
                sample = samples.recv() => sample,
                () = sender.closed() => return,
                () = stopped(&mut shutdown) => return,
            };
            let Some(sample) = sample else { return };
            super::containers::send_json(&sender, &sample).await;
        }
    };
    tokio::spawn(send.in_current_span());
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(response)
}
