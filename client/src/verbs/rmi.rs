// SPDX-License-Identifier: Apache-2.0
//! `ImageDelete`.

use std::io::Write as _;

use http::Method;
use serde::Deserialize;

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Result, each};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Removed {
    untagged: Option<String>,
    deleted: Option<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let api = &context.api().await?;
    let (force, no_prune) = (args.force, args.no_prune);
    each(&args.images, |name| async move {
        let ask = Ask::new(Method::DELETE, format!("/images/{name}"));
        let removed: Vec<Removed> =
            match api.decoded(ask.flag("force", force).flag("noprune", no_prune)).await {
                Err(fail) if force && fail.is_not_found() => {
                    eprintln!("{fail}");
                    return Ok(None);
                }
                other => other?,
            };
        let mut out = std::io::stdout().lock();
        for one in removed {
            match (one.untagged, one.deleted) {
                (Some(name), _) => writeln!(out, "Untagged: {name}")?,
                (None, Some(id)) => writeln!(out, "Deleted: {id}")?,
                (None, None) => {}
            }
        }
        Ok(None)
    })
    .await?;
    Ok(0)
}
