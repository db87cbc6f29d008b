// SPDX-License-Identifier: Apache-2.0
//! `ContainerWait`.

use serde::Deserialize;

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Result, each};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exit {
    status_code: i64,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let api = &context.api().await?;
    each(&args.containers, |name| async move {
        let exit: Exit = api.decoded(Ask::post(format!("/containers/{name}/wait"))).await?;
        Ok(Some(exit.status_code.to_string()))
    })
    .await?;
    Ok(0)
}
