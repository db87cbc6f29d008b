// SPDX-License-Identifier: Apache-2.0
//! Images out of root filesystems.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use berth_domain::progress::Progress;
use berth_domain::{Error, EventKind, Reference, Result};
use berth_image::ImportRequest;
use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use crate::app::App;
use crate::http::body::BodyReader;
use crate::http::{Answer, Call, progress};

/// Pieces of a download that wait for the disk.
const AHEAD: usize = 8;

/// `POST /images/create?fromSrc=`: from the request's body (`-`) or from a URL.
pub(super) async fn image_import(app: Arc<App>, call: Call) -> Answer {
    let from = call.query.get("fromSrc").to_owned();
    if from.is_empty() {
        return Err(Error::invalid("neither fromImage nor fromSrc is given: an image, a URL or - expected"));
    }
    let name = named(call.query.get("repo"), call.query.get("tag"))?;
    let message = match call.query.get("message") {
        "" => format!("Imported from {from}"),
        message => message.to_owned(),
    };
    let platform = match call.query.get("platform") {
        "" => None,
        text => Some(text.parse()?),
    };
    let changes = call.query.all("changes").map(str::to_owned).collect();
    let request = ImportRequest { name: name.clone(), message, changes, platform };
    let body = BodyReader::new(call.into_body());
    let work = move |sink: berth_domain::progress::Sink| async move {
        let id = if from == "-" {
            app.images.import(body, request).await?
        } else {
            let url = if from.contains("://") { from } else { format!("http://{from}") };
            let mut download = app.registry.download(&url).await?;
            sink(Progress::status("", format!("Downloading from {url}")));
            let (pieces, arriving) = mpsc::channel(AHEAD);
            let total = download.length();
            let told = Arc::clone(&sink);
            let fetching = tokio::spawn(async move {
                let mut done = 0;
                loop {
                    let piece = download.chunk().await;
                    let last = !matches!(piece, Ok(Some(_)));
                    if let Ok(Some(bytes)) = &piece {
                        done += bytes.len() as u64;
                        let heard = told(Progress::Status {
                            id: String::new(),
                            status: "Importing".into(),
                            bytes: Some((done, total.unwrap_or(0))),
                        });
                        // The other side has as much as it ever will: what may have no end is not fetched for nobody.
                        if !heard {
                            return;
                        }
                    }
                    // Nobody reads any more: the import has ended, and says why.
                    if pieces.send(piece).await.is_err() || last {
                        return;
                    }
                }
            });
            let imported = app.images.import(Fetched { arriving, piece: Bytes::new() }, request).await;
            fetching.abort();
            imported?
        };
        if let Some(name) = name {
            let attributes = [("name".to_owned(), name.familiar())].into();
            app.engine.publish(EventKind::Image, "tag", id.as_str(), attributes);
        }
        let attributes = [("name".to_owned(), id.to_string())].into();
        app.engine.publish(EventKind::Image, "import", id.as_str(), attributes);
        sink(Progress::status("", id.to_string()));
        Ok(())
    };
    progress::stream(work).await
}

/// What `repo` and `tag` name.
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

/// A download as something to read from.
struct Fetched {
    arriving: mpsc::Receiver<Result<Option<Bytes>>>,
    piece: Bytes,
}

impl AsyncRead for Fetched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.piece.is_empty() {
            match std::task::ready!(self.arriving.poll_recv(cx)) {
                Some(Ok(Some(piece))) => self.piece = piece,
                Some(Ok(None)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => {
                    return Poll::Ready(Err(io::Error::other(Error::unavailable("the download broke off"))));
                }
            }
        }
        let n = self.piece.len().min(buffer.remaining());
        buffer.put_slice(&self.piece.split_to(n));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn names() {
        let check = |repo: &str, tag: &str| named(repo, tag).map(|n| n.map(|n| n.familiar())).unwrap();
        assert_eq!(check("", "x"), None);
        assert_eq!(check("a", "").as_deref(), Some("a:latest"));
        assert_eq!(check("a:1", "2").as_deref(), Some("a:2"));
        assert!(named(&format!("a@sha256:{}", "0".repeat(64)), "").is_err());
        assert!(named("A", "").is_err());
    }
}
