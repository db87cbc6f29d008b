// SPDX-License-Identifier: Apache-2.0
//! `ContainerKill`.

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Result, each};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    signal: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let api = &context.api().await?;
    let signal = &args.signal;
    each(&args.containers, |name| async move {
        api.done(Ask::post(format!("/containers/{name}/kill")).maybe("signal", signal.as_deref())).await?;
        Ok(Some(name))
    })
    .await?;
    Ok(0)
}
