// SPDX-License-Identifier: Apache-2.0
//! `ImageCreate` from a registry.

use std::io::Write as _;

use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::pull::{self, Name};
use crate::show::progress::To;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let mut name = Name::parse(&args.name)?;
    if args.all_tags && (name.tag.is_some() || name.digest.is_some()) {
        return Err(Fail::new("tag can't be used with --all-tags/-a"));
    }
    if !args.all_tags {
        let defaulted = name.tag.is_none() && name.digest.is_none();
        name = name.or_latest();
        if defaulted && !args.quiet {
            writeln!(std::io::stdout(), "Using default tag: latest")?;
        }
    }
    let api = context.api().await?;
    let to = if args.quiet { To::Nowhere } else { To::Stdout };
    let platform = pull::platform(args.platform.as_ref());
    pull::pull(context, &api, &name, platform.as_deref(), args.all_tags, to).await?;
    writeln!(std::io::stdout(), "{}", name.full())?;
    Ok(0)
}
