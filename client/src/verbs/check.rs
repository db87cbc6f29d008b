// SPDX-License-Identifier: Apache-2.0
//! `BerthSystemCheck`.

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::Result;
use crate::show::progress::{self, To};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Mend what can be mended: unpack layers again, fetch blobs again
    #[arg(long)]
    repair: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let api = context.api().await?;
    let ask = Ask::post("/berth/system/check").flag("repair", args.repair);
    let response = api.stream(ask).await?;
    progress::show(&api, response.into_body(), To::Stdout).await?;
    Ok(0)
}
