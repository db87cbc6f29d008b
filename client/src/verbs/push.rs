// SPDX-License-Identifier: Apache-2.0
//! `ImagePush`.

use std::io::Write as _;

use super::load::platform_json;
use crate::api::Ask;
use crate::cli::Context;
use crate::config;
use crate::fail::{Fail, Result};
use crate::pull::Name;
use crate::show::progress::{self, To};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Push a platform-specific manifest as a single-platform image
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let mut name = Name::parse(&args.name)?;
    if name.digest.is_some() {
        return Err(Fail::new("cannot push a digest reference"));
    }
    if args.all_tags && name.tag.is_some() {
        return Err(Fail::new("tag can't be used with --all-tags/-a"));
    }
    if !args.all_tags && name.tag.is_none() {
        name = name.or_latest();
        if !args.quiet {
            writeln!(std::io::stdout(), "Using default tag: latest")?;
        }
    }
    let platform = args.platform.as_deref().map(platform_json).transpose()?;
    let auth = config::registry_auth(name.registry(), context.config_dir.as_deref())?;
    let ask = Ask::post(format!("/images/{}/push", name.repository))
        .maybe("tag", name.tag.as_deref())
        .maybe("platform", platform.as_deref())
        .header("x-registry-auth", &auth)?;
    let api = context.api().await?;
    let response = api.stream(ask).await?;
    let to = if args.quiet { To::Nowhere } else { To::Stdout };
    progress::show(&api, response.into_body(), to).await?;
    if args.quiet {
        writeln!(std::io::stdout(), "{}", name.full())?;
    }
    Ok(0)
}
