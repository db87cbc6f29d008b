// SPDX-License-Identifier: Apache-2.0
//! What `stop` and `restart` share: how a container is asked to end.

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

/// Asks for `operation`, the last part of the endpoint's path, of each container.
pub(super) async fn run(context: &Context, args: Args, operation: &str) -> Result<u8> {
    let api = &context.api().await?;
    let timeout = &args.timeout.map(|t| t.to_string());
    let signal = &args.signal;
    each(&args.containers, |name| async move {
        let ask = Ask::post(format!("/containers/{name}/{operation}"));
        api.done(ask.maybe("signal", signal.as_deref()).maybe("t", timeout.as_deref())).await?;
        Ok(Some(name))
    })
    .await?;
    Ok(0)
}
