// SPDX-License-Identifier: Apache-2.0
//! Progress streams: JSON lines ended by `\r\n`. What fails before the first line has its real status;
//! after that the failure is the last line.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_api::types::{ProgressDetail, ProgressLine};
use berth_domain::progress::{Progress, Sink};
use berth_domain::{Error, Result};
use bytes::Bytes;
use http::header;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::{Answer, Body, JSON, Response};

/// With so many lines waiting, the ones that only move a bar are left out.
const CROWDED: usize = 256;

/// Runs `work` in a task of its own and answers what it tells. `work` gets the sink to tell it to; clients
/// may hang up, which the sink reports and `work` may heed.
pub(crate) async fn stream<F, W>(work: W) -> Answer
where
    W: FnOnce(Sink) -> F,
    F: Future<Output = Result<()>> + Send + 'static,
{
    run(work, Unheard::GoesOn).await
}

/// The same of work that may be dropped at any moment, and is when its client hangs up: also when it has nothing to tell,
/// as while a registry stalls.
pub(crate) async fn stream_while_heard<F, W>(work: W) -> Answer
where
    W: FnOnce(Sink) -> F,
    F: Future<Output = Result<()>> + Send + 'static,
{
    run(work, Unheard::IsDropped).await
}

/// What becomes of work whose client has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unheard {
    /// It hears of it from its sink.
    GoesOn,
    IsDropped,
}

async fn run<F, W>(work: W, unheard: Unheard) -> Answer
where
    W: FnOnce(Sink) -> F,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (lines, told) = mpsc::unbounded_channel::<Progress>();
    let waiting = Arc::new(AtomicUsize::new(0));
    let sink: Sink = {
        let waiting = Arc::clone(&waiting);
        Arc::new(move |progress| {
            let skippable = matches!(progress, Progress::Status { bytes: Some(_), .. });
            if skippable && waiting.load(Ordering::Relaxed) > CROWDED {
                return !lines.is_closed();
            }
            waiting.fetch_add(1, Ordering::Relaxed);
            lines.send(progress).is_ok()
        })
    };
    let work = tokio::spawn(work(sink).in_current_span());

    let mut told = Told { lines: told, work: Some(work), outcome: Ok(()), unheard };
    // The first line, or the failure that came before it, decides the status.
    let Some(first) = told.next().await else {
        std::mem::replace(&mut told.outcome, Ok(()))?;
        return Ok(respond(Body::Empty));
    };

    let (sender, body) = Body::channel();
    let follow = async move {
        let mut next = Some(first);
        while let Some(progress) = next {
            waiting.fetch_sub(1, Ordering::Relaxed);
            if sender.send(line(progress)).await.is_err() {
                // Nobody listens: closing the channel tells the work, which goes on or gives up as it sees fit.
                return;
            }
            next = tokio::select! {
                next = told.next() => next,
                () = sender.closed() => return,
            };
        }
        if let Err(error) = &told.outcome {
            let message = error.chain();
            tracing::debug!(error = %message, "failed after the stream began");
            let last = Bytes::from(ProgressLine::failed(&message).to_line());
            if sender.send(last).await.is_err() {
                tracing::debug!("the client had gone");
            }
        }
    };
    tokio::spawn(follow.in_current_span());
    Ok(respond(body))
}

/// What the work tells, and in the end how it went. Clones of the sink may outlive the work (downloads that
/// others share), so the channel's end is not the work's.
struct Told {
    lines: mpsc::UnboundedReceiver<Progress>,
    work: Option<JoinHandle<Result<()>>>,
    outcome: Result<()>,
    unheard: Unheard,
}

impl Drop for Told {
    fn drop(&mut self) {
        if let (Unheard::IsDropped, Some(work)) = (self.unheard, &self.work) {
            work.abort();
        }
    }
}

impl Told {
    async fn next(&mut self) -> Option<Progress> {
        let Some(work) = &mut self.work else { return self.lines.try_recv().ok() };
        let done = tokio::select! {
            biased;
            Some(line) = self.lines.recv() => return Some(line),
            done = work => done,
        };
        self.work = None;
        self.outcome = joined(done);
        self.lines.try_recv().ok()
    }
}

fn joined(result: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    result.map_err(|e| Error::internal("the work ended abnormally").because(e))?
}

fn respond(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn line(progress: Progress) -> Bytes {
    let line = match progress {
        Progress::Stream(text) => ProgressLine { stream: Some(text), ..ProgressLine::default() },
        Progress::Pushed { tag, digest, size } => ProgressLine {
            progress_detail: Some(ProgressDetail::default()),
            aux: Some(serde_json::json!({ "Tag": tag, "Digest": digest, "Size": size })),
            ..ProgressLine::default()
        },
        Progress::PushedInstead { index, manifest } => {
            type Parts = (String, String, u64);
            let descriptor = |(media_type, digest, size): Parts| serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size });
            let aux = serde_json::json!({
                "manifestPushedInsteadOfIndex": true,
                "originalIndex": descriptor(index),
                "selectedManifest": descriptor(manifest),
            });
            ProgressLine { aux: Some(aux), ..ProgressLine::default() }
        }
        Progress::Status { id, status, bytes } => {
            let detail = bytes.map(|(current, total)| ProgressDetail {
                current: Some(i64::try_from(current).unwrap_or(i64::MAX)),
                total: i64::try_from(total).ok().filter(|t| *t > 0),
                ..ProgressDetail::default()
            });
            // Lines about a layer always have the field, or older clients draw no line for it.
            let layer = matches!(
                status.as_str(),
                "Pulling fs layer"
                    | "Waiting"
                    | "Download complete"
                    | "Pull complete"
                    | "Already exists"
                    | "Verifying Checksum"
                    | "Extracting"
                    | "Downloading"
                    | "Layer already exists"
                    | "Pushed"
                    | "Preparing"
                    | "Pushing"
            ) || status.starts_with("Mounted from ");
            ProgressLine {
                progress_detail: detail.or_else(|| layer.then(ProgressDetail::default)),
                status: Some(status),
                id: (!id.is_empty()).then_some(id),
                ..ProgressLine::default()
            }
        }
    };
    Bytes::from(line.to_line())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use http_body_util::BodyExt as _;

    use super::*;

    async fn body(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_failure_before_the_first_line_is_a_status() {
        let error = stream(|_sink| async { Err(Error::not_found("no")) }).await.unwrap_err();
        assert_eq!(error.to_string(), "no");
    }

    #[tokio::test]
    async fn a_failure_after_it_is_the_last_line() {
        let response = stream(|sink| async move {
            assert!(sink(Progress::status("1", "Pulling from bb")));
            Err(Error::internal("broke"))
        });
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            body(response).await,
            "{\"status\":\"Pulling from bb\",\"id\":\"1\"}\r\n{\"errorDetail\":{\"message\":\"broke\"},\"error\":\"broke\"}\r\n"
        );
    }

    #[tokio::test]
    async fn bars_have_their_numbers() {
        let response = stream(|sink| async move {
            sink(Progress::Status { id: "abc".into(), status: "Downloading".into(), bytes: Some((1, 2)) });
            sink(Progress::status("abc", "Pull complete"));
            Ok(())
        });
        assert_eq!(
            body(response.await.unwrap()).await,
            "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":1,\"total\":2},\"id\":\"abc\"}\r\n\
             {\"status\":\"Pull complete\",\"progressDetail\":{},\"id\":\"abc\"}\r\n"
        );
    }

    #[tokio::test]
    async fn the_sink_tells_when_nobody_listens() {
        let (done, was_done) = tokio::sync::oneshot::channel();
        let response = stream(|sink| async move {
            while sink(Progress::Status { id: "a".into(), status: "Downloading".into(), bytes: Some((1, 2)) })
            {
                tokio::task::yield_now().await;
            }
            done.send(()).expect("the test waits");
            Ok(())
        });
        drop(response.await.unwrap());
        was_done.await.expect("the work noticed");
    }
}
