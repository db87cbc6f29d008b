// SPDX-License-Identifier: Apache-2.0
//! `ContainerStop`.

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Result, each};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short = 't', long = "timeout", alias = "time", value_name = "int")]
    timeout: Option<i64>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let api = &context.api().await?;
    let timeout = &args.timeout.map(|t| t.to_string());
    let signal = &args.signal;
    each(&args.containers, |name| async move {
        let ask = Ask::post(format!("/containers/{name}/stop"));
        api.done(ask.maybe("signal", signal.as_deref()).maybe("t", timeout.as_deref())).await?;
        Ok(Some(name))
    })
    .await?;
    Ok(0)
}
