// SPDX-License-Identifier: Apache-2.0
//! Connections: one task each, HTTP/1.1 with upgrades, bounded heads, ended together at shutdown.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::connection::{Heir, Held, Socket};
use super::hijack::Taken;
use crate::app::App;
use crate::listen::{Connection, Listener};
use crate::router;

/// The longest request head. Docker's clients send long filters in the query.
const MAX_HEAD: usize = 256 << 10;
/// A connection may idle, and a head may take, this long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Accepts until shutdown, then waits for what is under way.
pub(crate) async fn listen(app: Arc<App>, listener: Listener, mut shutdown: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            // What has ended must be taken out, or the set grows for ever.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(Connection::Unix(stream)) => {
                connections.spawn(serve(Arc::clone(&app), stream, shutdown.clone()).in_current_span());
            }
            Ok(Connection::Tcp(stream)) => {
                connections.spawn(serve(Arc::clone(&app), stream, shutdown.clone()).in_current_span());
            }
            Err(error) => {
                // Out of descriptors, most likely: trying again at once would only spin.
                tracing::error!(%listener, %error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    listener.remove();
    while connections.join_next().await.is_some() {}
}

async fn serve<S: Socket>(app: Arc<App>, stream: S, mut shutdown: watch::Receiver<bool>) {
    let heir = Heir::default();
    let held = Held::new(stream, heir.clone());
    let for_requests = heir.clone();
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let app = Arc::clone(&app);
        request.extensions_mut().insert(for_requests.clone());
        async move { Ok::<_, std::convert::Infallible>(router::handle(app, request).await) }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        // Names do not depend on case; scripts that look for them do.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(held), service)
        .with_upgrades();
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopped(&mut shutdown) => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if let Err(error) = ended {
        // Clients hang up as they please.
        tracing::debug!(%error, "connection ended");
        return;
    }
    let Some(heir) = heir.take() else { return };
    let Some(parts) = connection.into_parts() else { return };
    match parts.io.into_inner().socket.into_fd() {
        Ok(socket) => {
            let taken = Taken { socket, early: parts.read_buf.to_vec() };
            if heir.send(taken).is_err() {
                tracing::debug!("nobody came for a connection any more");
            }
        }
        Err(error) => tracing::error!(%error, "taking a socket from the runtime"),
    }
}

/// Until the daemon is to end.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // The sender is gone only when the daemon is, too.
    drop(shutdown.wait_for(|stop| *stop).await);
}
