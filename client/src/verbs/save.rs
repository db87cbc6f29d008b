// SPDX-License-Identifier: Apache-2.0
//! `ImageGetAll`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::load::platform_json;
use crate::api::{Api, Ask};
use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::term;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    output: Option<PathBuf>,
    /// Save only the given platform
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    if args.output.is_none() && term::is_terminal(std::io::stdout()) {
        return Err(Fail::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let platform = args.platform.as_deref().map(platform_json).transpose()?;
    let mut ask = Ask::get("/images/get").maybe("platform", platform.as_deref());
    for image in &args.images {
        ask = ask.with("names", image);
    }
    let api = context.api().await?;
    let archive = api.stream(ask).await?.into_body();
    match &args.output {
        None => copy(&api, archive, &mut std::io::stdout().lock()).await?,
        Some(path) => into_file(&api, archive, path).await?,
    }
    Ok(0)
}

async fn copy(api: &Api, mut archive: Incoming, out: &mut impl Write) -> Result<()> {
    while let Some(frame) = archive.frame().await {
        if let Ok(data) = frame.map_err(|e| api.broken(&e))?.into_data() {
            out.write_all(&data)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Under another name until it is whole: nobody finds half an archive.
async fn into_file(api: &Api, archive: Incoming, path: &Path) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    if name.is_empty() || path.is_dir() {
        return Err(Fail::new(format!("failed to save image: {} is no file's name", path.display())));
    }
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let fail = |doing: &str, e: &std::io::Error| Fail::io(format!("{doing} {}", path.display()), e);
    let written = async {
        let mut file = File::create_new(&temporary).map_err(|e| fail("create", &e))?;
        copy(api, archive, &mut file).await?;
        std::fs::rename(&temporary, path).map_err(|e| fail("rename", &e))
    };
    let written = written.await;
    if written.is_err() {
        // What is left is of no use, and the first failure is the one to tell.
        drop(std::fs::remove_file(&temporary));
    }
    written
}
