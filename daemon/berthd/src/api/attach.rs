// SPDX-License-Identifier: Apache-2.0
//! Attaching to containers.

use std::sync::Arc;

use berth_api::ApiVersion;
use berth_engine::AttachOptions;
use http::{HeaderValue, header};
use tracing::Instrument as _;

use crate::app::App;
use crate::http::{Answer, Call, error, hijack, websocket};

fn options(call: &Call, raw: bool) -> AttachOptions {
    let keys = call.query.get("detachKeys");
    AttachOptions {
        logs: call.query.bool("logs"),
        stream: call.query.bool("stream"),
        stdin: call.query.bool("stdin"),
        stdout: call.query.bool("stdout"),
        stderr: call.query.bool("stderr"),
        detach_keys: (!keys.is_empty()).then(|| keys.to_owned()),
        raw,
    }
}

/// `POST /containers/{id}/attach`
pub(crate) async fn container_attach(app: Arc<App>, call: Call) -> Answer {
    let ticket = match app.engine.container_attach(call.name(), options(&call, false)).await {
        Ok(ticket) => ticket,
        // Clients read what comes back here as a stream already: plain text, not JSON.
        Err(e) => {
            let message = e.chain();
            let mut refusal = crate::http::text(error::status(e.meaning()), format!("{message}\r\n"));
            refusal.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(hijack::RAW));
            return Ok(refusal);
        }
    };
    let content_type = hijack::content_type(ticket.multiplexed(), call.version);
    let (response, takeover) = hijack::prepare(call, content_type);
    let join = async move {
        let joined = match takeover.taken().await {
            Ok(taken) => ticket.join(taken.socket, taken.early).await,
            Err(e) => Err(e),
        };
        if let Err(error) = joined {
            tracing::debug!(error = %error.chain(), "attaching failed");
        }
    };
    tokio::spawn(join.in_current_span());
    Ok(response)
}

/// `GET /containers/{id}/attach/ws`
pub(crate) async fn container_attach_websocket(app: Arc<App>, mut call: Call) -> Answer {
    let mut options = options(&call, true);
    if call.version < ApiVersion::v1(42) {
        // The parameters came later than the operation.
        (options.stdin, options.stdout, options.stderr) = (true, true, true);
    }
    let accept = websocket::check(call.headers())?;
    let ticket = app.engine.container_attach(call.name(), options).await?;
    let (response, upgrade) = websocket::prepare(&mut call.request, accept);
    let join = async move {
        let joined = match websocket::serve(upgrade).await {
            Ok(socket) => ticket.join(socket, Vec::new()).await,
            Err(e) => Err(e),
        };
        if let Err(error) = joined {
            tracing::debug!(error = %error.chain(), "attaching over a WebSocket failed");
        }
    };
    tokio::spawn(join.in_current_span());
    Ok(response)
}
