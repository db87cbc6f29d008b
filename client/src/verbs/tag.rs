// SPDX-License-Identifier: Apache-2.0
//! `ImageTag`.

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::pull::Name;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let target = Name::parse(&args.target)?;
    if target.digest.is_some() {
        return Err(Fail::new("refusing to create a tag with a digest reference"));
    }
    let target = target.or_latest();
    let ask = Ask::post(format!("/images/{}/tag", args.source)).with("repo", &target.repository);
    context.api().await?.done(ask.maybe("tag", target.tag.as_deref())).await?;
    Ok(0)
}
