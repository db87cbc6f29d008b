// SPDX-License-Identifier: Apache-2.0
//! `ContainerDelete`.

use http::Method;

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Result, each};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    force: bool,
    /// Remove the specified link
    #[arg(short, long)]
    link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    volumes: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let api = &context.api().await?;
    let (force, link, volumes) = (args.force, args.link, args.volumes);
    each(&args.containers, |name| async move {
        let name = name.trim_matches('/').to_owned();
        let ask = Ask::new(Method::DELETE, format!("/containers/{name}"));
        match api.done(ask.flag("force", force).flag("link", link).flag("v", volumes)).await {
            // With --force it is enough that it is not there.
            Err(fail) if force && fail.is_not_found() => {
                eprintln!("{fail}");
                Ok(None)
            }
            other => other.map(|()| Some(name)),
        }
    })
    .await?;
    Ok(0)
}
