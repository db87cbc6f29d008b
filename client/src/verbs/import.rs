// SPDX-License-Identifier: Apache-2.0
//! `ImageCreate` from a root filesystem.

use std::fs::File;

use http_body_util::BodyExt as _;

use super::load::Archive;
use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::pull::Name;
use crate::show::progress::{self, To};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long, value_name = "string")]
    message: Option<String>,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// A file, a URL, or - for STDIN
    #[arg(value_name = "file|URL|-")]
    source: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let remote = args.source.starts_with("http://") || args.source.starts_with("https://");
    let mut ask = Ask::post("/images/create")
        .with("fromSrc", if remote { &args.source } else { "-" })
        .maybe("message", args.message.as_deref())
        .maybe("platform", args.platform.as_deref());
    for change in &args.change {
        ask = ask.with("changes", change);
    }
    if let Some(name) = &args.name {
        let name = Name::parse(name)?;
        ask = ask.with("repo", &name.repository).maybe("tag", name.tag.as_deref().or(name.digest.as_deref()));
    }
    if !remote {
        let body = match args.source.as_str() {
            "-" => Archive(std::io::stdin()).boxed(),
            path => Archive(File::open(path).map_err(|e| Fail::io(format!("open {path}"), &e))?).boxed(),
        };
        ask = ask.body("application/x-tar", body);
    }
    let api = context.api().await?;
    let response = api.stream(ask).await?;
    progress::show(&api, response.into_body(), To::Stdout).await?;
    Ok(0)
}
