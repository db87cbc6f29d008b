// SPDX-License-Identifier: Apache-2.0
//! Further processes in containers.

use std::sync::Arc;

use berth_api::types::exec::{ExecCreateBody, ExecInspect, ExecProcessConfig, ExecStartBody, IdResponse};
use berth_domain::Error;
use berth_engine::{ExecConfig, ExecStart};
use http::StatusCode;
use tracing::Instrument as _;

use super::containers::size;
use crate::app::App;
use crate::http::{Answer, Call, empty, hijack, json};

/// The API's `[height, width]`; nothing asked is `[0, 0]` too.
fn console(size: Option<[u16; 2]>) -> Option<(u16, u16)> {
    size.filter(|s| *s != [0, 0]).map(|[height, width]| (height, width))
}

/// `POST /containers/{id}/exec`
pub(crate) async fn container_exec(app: Arc<App>, mut call: Call) -> Answer {
    let body: ExecCreateBody = call.json().await?.unwrap_or_default();
    if body.cmd.is_empty() {
        return Err(Error::invalid("No exec command specified"));
    }
    let config = ExecConfig {
        cmd: body.cmd,
        env: body.env,
        working_dir: body.working_dir,
        user: body.user,
        privileged: body.privileged,
        tty: body.tty,
        console_size: console(body.console_size),
        attach_stdin: body.attach_stdin,
        attach_stdout: body.attach_stdout,
        attach_stderr: body.attach_stderr,
        detach_keys: (!body.detach_keys.is_empty()).then_some(body.detach_keys),
    };
    let id = app.engine.exec_create(call.name(), config).await?;
    json(StatusCode::CREATED, &IdResponse { id: id.to_string() })
}

/// `POST /exec/{id}/start`
pub(crate) async fn exec_start(app: Arc<App>, mut call: Call) -> Answer {
    let body: ExecStartBody = call.json().await?.unwrap_or_default();
    let options = ExecStart { detach: body.detach, console_size: console(body.console_size), tty: body.tty };
    let ticket = app.engine.exec_start(call.name(), options).await?;
    if body.detach {
        ticket.start_detached().await?;
        return Ok(empty(StatusCode::OK));
    }
    let content_type = hijack::content_type(ticket.multiplexed(), call.version);
    let (response, takeover) = hijack::prepare(call, content_type);
    let join = async move {
        let joined = match takeover.taken().await {
            Ok(taken) => ticket.join(taken.socket, taken.early).await,
            Err(e) => Err(e),
        };
        if let Err(error) = joined {
            // The ticket has written it down the stream: there is no other way left to tell.
            tracing::debug!(error = %error.chain(), "the exec did not start");
        }
    };
    tokio::spawn(join.in_current_span());
    Ok(response)
}

/// `POST /exec/{id}/resize`
pub(crate) async fn exec_resize(app: Arc<App>, call: Call) -> Answer {
    let (height, width) = size(&call)?;
    app.engine.exec_resize(call.name(), height, width).await?;
    Ok(empty(StatusCode::OK))
}

/// `GET /exec/{id}/json`
pub(crate) async fn exec_inspect(app: Arc<App>, call: Call) -> Answer {
    let exec = app.engine.exec_inspect(call.name()).await?;
    let (entrypoint, arguments) = match exec.config.cmd.split_first() {
        Some((first, rest)) => (first.clone(), rest.to_vec()),
        None => (String::new(), Vec::new()),
    };
    call.ok(&ExecInspect {
        id: exec.id.to_string(),
        running: exec.running,
        exit_code: exec.exit_code.map(i64::from),
        process_config: ExecProcessConfig {
            tty: exec.config.tty,
            entrypoint,
            arguments,
            privileged: Some(exec.config.privileged),
            user: exec.config.user.clone(),
        },
        open_stdin: exec.config.attach_stdin,
        open_stderr: exec.config.attach_stderr,
        open_stdout: exec.config.attach_stdout,
        // As the reference shows it, also of those that have ended.
        can_remove: false,
        container_id: exec.container.to_string(),
        detach_keys: exec.config.detach_keys.clone().unwrap_or_default(),
        pid: i64::from(exec.pid),
    })
}
