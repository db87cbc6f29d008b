// SPDX-License-Identifier: Apache-2.0
//! `ImageLoad`.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context as Task, Poll};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Frame;

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::show::progress::{self, To};
use crate::term;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "string")]
    input: Option<PathBuf>,
    /// Load only the given platform
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

/// A file or pipe as a request's body. It is read on the only thread: while it blocks, there is nothing
/// else to do.
pub(super) struct Archive<R>(pub(super) R);

impl<R: Read + Unpin> hyper::body::Body for Archive<R> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            return Poll::Ready(match self.0.read(&mut buffer) {
                Ok(0) => None,
                Ok(read) => {
                    buffer.truncate(read);
                    Some(Ok(Frame::data(buffer.into())))
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => Some(Err(e)),
            });
        }
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let body = match &args.input {
        Some(path) => {
            let file = File::open(path).map_err(|e| Fail::io(format!("open {}", path.display()), &e))?;
            Archive(file).boxed()
        }
        None if term::is_terminal(std::io::stdin()) => {
            return Err(Fail::new("requested load from stdin, but stdin is empty"));
        }
        None => Archive(std::io::stdin()).boxed(),
    };
    let platform = match args.platform.as_deref().map(platform_json) {
        Some(platform) => Some(platform?),
        None => None,
    };
    let terminal = term::is_terminal(std::io::stdout());
    let quiet = if args.quiet || !terminal { "1" } else { "0" };
    let ask = Ask::post("/images/load").with("quiet", quiet).maybe("platform", platform.as_deref());
    let api = context.api().await?;
    let response = api.stream(ask.body("application/x-tar", body)).await?;
    progress::show(&api, response.into_body(), To::Stdout).await?;
    Ok(0)
}

/// `os/arch[/variant]` as the API wants it here.
pub(super) fn platform_json(text: &str) -> Result<String> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [os, arch] => Ok(serde_json::json!({"os": os, "architecture": arch}).to_string()),
        [os, arch, variant] => {
            Ok(serde_json::json!({"os": os, "architecture": arch, "variant": variant}).to_string())
        }
        _ => Err(Fail::new(format!("invalid platform: {text}"))),
    }
}
