// SPDX-License-Identifier: Apache-2.0
//! Containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::ApiVersion;
use berth_api::stdcopy::{self, Stream};
use berth_api::types::container::{
    ContainerCreated, ContainerSummary, ContainerTopBody, ContainerUpdateBody, ContainerWaitBody,
    ContainersPruned, WaitError,
};
use berth_api::types::container_create::{ContainerCreateBody, Resources, RestartPolicy};
use berth_domain::{ContainerId, Error, Platform, Result};
use berth_engine::{Condition, ListOptions, LogOptions, RemoveOptions, Snapshot, Tail, Update};
use bytes::Bytes;
use http::{StatusCode, header};
use tokio::sync::mpsc;
use tracing::Instrument as _;

use crate::app::App;
use crate::http::serve::stopped;
use crate::http::{Answer, Body, Call, JSON, Response, empty, hijack, json, no_content, ok, written};
use crate::wire;
use crate::wire::lines::About;

fn given(call: &Call, name: &str) -> Option<String> {
    Some(call.query.get(name)).filter(|v| !v.is_empty()).map(str::to_owned)
}

/// `GET /containers/json`
pub(crate) async fn container_list(app: Arc<App>, call: Call) -> Answer {
    let limit = call.int("limit")?.filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
    let options = ListOptions { all: call.query.bool("all"), limit, filters: call.filters()? };
    let snapshots = app.engine.container_list(&options)?;
    let now = jiff::Timestamp::now();
    let links = app.engine.link_names();
    if !call.query.bool("size") {
        return list_of_lines(&app, &call, &snapshots, now, &links);
    }
    let mut lines = Vec::with_capacity(snapshots.len());
    for snapshot in snapshots {
        let mut line = wire::container::summary(&app, &snapshot, now, &links);
        match app.engine.container_size(snapshot.id.as_str()).await {
            Ok(sizes) => (line.size_rw, line.size_root_fs) = wire::container::listed_sizes(sizes),
            // It was removed since the list was made.
            Err(e) if e.meaning() == berth_domain::Meaning::NotFound => continue,
            Err(e) => return Err(e),
        }
        lines.push(line);
    }
    call.ok(&lines)
}

/// The list from the lines that are kept as text.
fn list_of_lines(
    app: &App,
    call: &Call,
    snapshots: &[Arc<Snapshot>],
    now: jiff::Timestamp,
    links: &BTreeMap<ContainerId, Vec<String>>,
) -> Answer {
    let mut list = Vec::with_capacity(snapshots.len() * 1024 + 3);
    list.push(b'[');
    for snapshot in snapshots {
        if list.len() > 1 {
            list.push(b',');
        }
        let about = About {
            minor: call.version.minor,
            still: wire::container::still_named(app, snapshot),
            links: links.get(&snapshot.id).cloned().unwrap_or_default(),
        };
        let status = wire::container::status(snapshot, now);
        app.lines.push(&mut list, snapshot, about, &status, |status| {
            let line = wire::container::summary(app, snapshot, now, links);
            call.text(&ContainerSummary { status: status.to_owned(), ..line })
        })?;
    }
    app.lines.prune();
    list.extend_from_slice(b"]\n");
    Ok(written(list))
}

/// `POST /containers/create`
pub(crate) async fn container_create(app: Arc<App>, mut call: Call) -> Answer {
    let body: ContainerCreateBody = call
        .json()
        .await?
        .ok_or_else(|| Error::invalid("config cannot be empty in order to create a container"))?;
    let platform = match given(&call, "platform").filter(|_| call.version >= ApiVersion::v1(41)) {
        Some(text) => Some(text.parse::<Platform>()?),
        None => None,
    };
    let name = given(&call, "name").map(|n| n.strip_prefix('/').map_or(n.clone(), str::to_owned));
    let created = app.engine.container_create(name, platform, body).await?;
    json(StatusCode::CREATED, &ContainerCreated { id: created.id.to_string(), warnings: created.warnings })
}

/// `GET /containers/{id}/json`
pub(crate) async fn container_inspect(app: Arc<App>, call: Call) -> Answer {
    let snapshot = app.engine.container_inspect(call.name())?;
    let mut answer = wire::container::inspect(&app, &snapshot);
    if call.query.bool("size") {
        let sizes = app.engine.container_size(snapshot.id.as_str()).await?;
        (answer.size_rw, answer.size_root_fs) = wire::container::sizes(sizes);
    }
    call.ok(&answer)
}

/// `GET /containers/{id}/top`
pub(crate) async fn container_top(app: Arc<App>, call: Call) -> Answer {
    let top = app.engine.container_top(call.name(), call.query.get("ps_args")).await?;
    call.ok(&ContainerTopBody { processes: top.processes, titles: top.titles })
}

/// `GET /containers/{id}/logs`
pub(crate) async fn container_logs(app: Arc<App>, call: Call) -> Answer {
    let (stdout, stderr) = (call.query.bool("stdout"), call.query.bool("stderr"));
    if !stdout && !stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    let tail = match call.query.get("tail").parse::<i64>() {
        Ok(n) => u64::try_from(n).map_or(Tail::All, Tail::Last),
        // `all`, nothing, and what is no number.
        Err(_) => Tail::All,
    };
    let multiplexed = !app.engine.container_inspect(call.name())?.config.tty;
    let options = LogOptions {
        follow: call.query.bool("follow"),
        stdout,
        stderr,
        since: call.timestamp("since")?,
        until: call.timestamp("until")?,
        timestamps: call.query.bool("timestamps"),
        details: call.query.bool("details"),
        tail,
        framed: multiplexed,
    };
    let mut pieces = app.engine.container_logs(call.name(), options).await?;

    let (sender, body) = Body::channel();
    let mut shutdown = app.shutdown.clone();
    let follow = async move {
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                () = sender.closed() => return,
                () = stopped(&mut shutdown) => return,
            };
            let piece = match piece {
                None => return,
                Some(Ok(piece)) => piece,
                Some(Err(error)) => {
                    let text = format!("Error grabbing logs: {}\n", error.chain());
                    tracing::warn!(error = %error.chain(), "reading a log failed");
                    let piece =
                        if multiplexed { frame(Stream::System, text.as_bytes()) } else { text.into() };
                    // The last piece, whether it arrives or not.
                    drop(sender.send(piece).await);
                    return;
                }
            };
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(follow.in_current_span());
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, hijack::content_type(multiplexed, call.version));
    Ok(response)
}

fn frame(stream: Stream, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(stdcopy::HEADER + payload.len());
    stdcopy::encode(stream, payload, &mut out);
    out.into()
}

/// Rows and columns of a terminal.
///
/// # Errors
///
/// One of them is no such number.
pub(super) fn size(call: &Call) -> Result<(u16, u16)> {
    let number = |name: &str, what: &str| {
        let text = call.query.get(name);
        text.parse::<u16>().map_err(|e| {
            let why = match e.kind() {
                std::num::IntErrorKind::PosOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Error::invalid(format!("invalid resize {what} {text:?}: {why}"))
        })
    };
    Ok((number("h", "height")?, number("w", "width")?))
}

/// `POST /containers/{id}/resize`
pub(crate) async fn container_resize(app: Arc<App>, call: Call) -> Answer {
    let (height, width) = size(&call)?;
    app.engine.container_resize(call.name(), height, width).await?;
    Ok(empty(StatusCode::OK))
}

/// `POST /containers/{id}/start`
pub(crate) async fn container_start(app: Arc<App>, mut call: Call) -> Answer {
    // Once upon a time the host config came here. An empty object is let pass, as it always was.
    if call.bytes().await?.len() > 7 {
        return Err(Error::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    app.engine.container_start(call.name(), given(&call, "detachKeys").as_deref()).await?;
    no_content()
}

/// Signal and patience of `stop` and `restart`.
fn stopping(call: &Call) -> Result<(Option<String>, Option<i64>)> {
    let signal = given(call, "signal").filter(|_| call.version >= ApiVersion::v1(42));
    Ok((signal, call.int("t")?))
}

/// `POST /containers/{id}/stop`
pub(crate) async fn container_stop(app: Arc<App>, call: Call) -> Answer {
    let (signal, patience) = stopping(&call)?;
    app.engine.container_stop(call.name(), signal.as_deref(), patience).await?;
    no_content()
}

/// `POST /containers/{id}/restart`
pub(crate) async fn container_restart(app: Arc<App>, call: Call) -> Answer {
    let (signal, patience) = stopping(&call)?;
    app.engine.container_restart(call.name(), signal.as_deref(), patience).await?;
    no_content()
}

/// `POST /containers/{id}/kill`
pub(crate) async fn container_kill(app: Arc<App>, call: Call) -> Answer {
    let signal = given(&call, "signal").unwrap_or_else(|| "KILL".to_owned());
    app.engine.container_kill(call.name(), &signal).await?;
    no_content()
}

/// Body of `POST /containers/{id}/update`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct UpdateBody {
    #[serde(flatten)]
    resources: Resources,
    restart_policy: Option<RestartPolicy>,
}

/// `POST /containers/{id}/update`
pub(crate) async fn container_update(app: Arc<App>, mut call: Call) -> Answer {
    let body: UpdateBody = call.json().await?.unwrap_or_default();
    let update =
        Update { resources: body.resources, restart_policy: body.restart_policy.unwrap_or_default() };
    let warnings = app.engine.container_update(call.name(), update).await?;
    ok(&ContainerUpdateBody { warnings: (!warnings.is_empty()).then_some(warnings) })
}

/// `POST /containers/{id}/rename`
pub(crate) async fn container_rename(app: Arc<App>, call: Call) -> Answer {
    let name = call.query.get("name");
    let name = name.strip_prefix('/').unwrap_or(name);
    if name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty"));
    }
    app.engine.container_rename(call.name(), name).await?;
    no_content()
}

/// `POST /containers/{id}/pause`
pub(crate) async fn container_pause(app: Arc<App>, call: Call) -> Answer {
    app.engine.container_pause(call.name()).await?;
    no_content()
}

/// `POST /containers/{id}/unpause`
pub(crate) async fn container_unpause(app: Arc<App>, call: Call) -> Answer {
    app.engine.container_unpause(call.name()).await?;
    no_content()
}

/// `POST /containers/{id}/wait`
pub(crate) async fn container_wait(app: Arc<App>, call: Call) -> Answer {
    let condition: Condition = match call.query.get("condition") {
        // Conditions came with 1.30.
        _ if call.version < ApiVersion::v1(30) => Condition::default(),
        word => word.parse()?,
    };
    let handle = app.engine.container_wait(call.name(), condition)?;
    // The head goes out at once: `docker run` starts the container only when it has seen it.
    let (sender, body) = Body::channel();
    let mut shutdown = app.shutdown.clone();
    let wait = async move {
        let outcome = tokio::select! {
            outcome = handle.outcome() => outcome,
            () = sender.closed() => return,
            () = stopped(&mut shutdown) => return,
        };
        // Without an answer the client asks again, of the next daemon.
        let Some(outcome) = outcome else { return };
        let answer = ContainerWaitBody {
            status_code: i64::from(outcome.code),
            error: outcome.error.map(|message| WaitError { message }),
        };
        send_json(&sender, &answer).await;
    };
    tokio::spawn(wait.in_current_span());
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(response)
}

pub(super) async fn send_json<T: serde::Serialize>(sender: &mpsc::Sender<Bytes>, value: &T) {
    match serde_json::to_vec(value) {
        Ok(mut line) => {
            line.push(b'\n');
            if sender.send(line.into()).await.is_err() {
                tracing::debug!("the client had gone");
            }
        }
        Err(error) => tracing::error!(%error, "an answer cannot be written as JSON"),
    }
}

/// `DELETE /containers/{id}`
pub(crate) async fn container_delete(app: Arc<App>, call: Call) -> Answer {
    let options = RemoveOptions {
        force: call.query.bool("force"),
        volumes: call.query.bool("v"),
        link: call.query.bool("link"),
    };
    app.engine.container_remove(call.name(), options).await?;
    no_content()
}

/// `POST /containers/prune`
pub(crate) async fn container_prune(app: Arc<App>, call: Call) -> Answer {
    let report = app.engine.container_prune(call.filters()?).await?;
    let deleted: Vec<String> = report.deleted.iter().map(ToString::to_string).collect();
    ok(&ContainersPruned {
        containers_deleted: (!deleted.is_empty()).then_some(deleted),
        space_reclaimed: report.space_reclaimed,
    })
}
