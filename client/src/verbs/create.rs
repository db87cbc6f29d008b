// SPDX-License-Identifier: Apache-2.0
//! `ContainerCreate`.

use std::io::Write as _;

use berth_api::types::container_create::ContainerCreateBody;
use serde::Deserialize;

use crate::api::{Api, Ask};
use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::flags::build::{self, Surroundings};
use crate::flags::container::ContainerFlags;
use crate::pull::{self, Name};
use crate::show::progress::To;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: ContainerFlags,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let streams = build::attached(&args.flags, false)?;
    let body = body(&args.flags, streams).map_err(|e| e.code(125))?;
    let api = context.api().await?;
    let id = create(context, &api, &args.flags, body).await?;
    writeln!(std::io::stdout(), "{id}")?;
    Ok(0)
}

/// The request's body, with what only this process knows (directory, environment, terminal).
pub(super) fn body(flags: &ContainerFlags, streams: [bool; 3]) -> Result<ContainerCreateBody> {
    let cwd = std::env::current_dir().map_err(|e| Fail::io("finding the working directory", &e))?;
    let around = Surroundings { cwd: &cwd, env: &|name| std::env::var(name).ok() };
    let mut body = build::body(flags, streams, &around)?;
    if let Some((rows, columns)) = crate::term::size(std::io::stdout()) {
        body.host_config.console_size = [rows.into(), columns.into()];
    }
    Ok(body)
}

/// Creates the container, pulling its image first if it has to. Gives the id.
pub(super) async fn create(
    context: &Context,
    api: &Api,
    flags: &ContainerFlags,
    body: ContainerCreateBody,
) -> Result<String> {
    if !matches!(flags.pull.as_str(), "always" | "missing" | "never" | "") {
        return Err(Fail::new(format!(
            "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
            flags.pull
        )));
    }
    let cidfile = match &flags.cidfile {
        None => None,
        // Claimed before there is a container, so that none goes unrecorded.
        Some(path) => Some(std::fs::File::create_new(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Fail::new(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            )),
            _ => Fail::io(format!("failed to create the container ID file {}", path.display()), &e),
        })?),
    };
    let created = ask_for(context, api, flags, body).await;
    if let (Some(mut file), Some(path)) = (cidfile, &flags.cidfile) {
        let written = match &created {
            Ok(created) => file.write_all(created.id.as_bytes()),
            Err(_) => std::fs::remove_file(path),
        };
        written.map_err(|e| Fail::io(format!("writing {}", path.display()), &e))?;
    }
    let created = created?;
    for warning in created.warnings.iter().flatten() {
        eprintln!("WARNING: {warning}");
    }
    Ok(created.id)
}

async fn ask_for(
    context: &Context,
    api: &Api,
    flags: &ContainerFlags,
    body: ContainerCreateBody,
) -> Result<Created> {
    let platform = pull::platform(flags.platform.as_ref());
    let ask = || {
        Ask::post("/containers/create")
            .maybe("name", flags.name.as_deref())
            .maybe("platform", platform.as_deref())
            .json(&body)
    };
    let to = if flags.quiet { To::Nowhere } else { To::Stderr };
    // An id is no name to pull by: the daemon will say that it is not there.
    let name = Name::parse(&body.config.image).map(Name::or_latest);
    if let (Ok(name), "always") = (&name, flags.pull.as_str()) {
        pull::pull(context, api, name, platform.as_deref(), false, to).await?;
    }
    match (api.decoded(ask()?).await, name) {
        (Err(fail), Ok(name)) if fail.is_not_found() && flags.pull == "missing" && names_image(&fail) => {
            if !flags.quiet {
                eprintln!("Unable to find image '{}' locally", name.familiar());
            }
            pull::pull(context, api, &name, platform.as_deref(), false, to).await?;
            api.decoded(ask()?).await
        }
        (outcome, _) => outcome,
    }
}

/// Networks and volumes may be missing as well.
fn names_image(fail: &Fail) -> bool {
    fail.message.contains("o such image") || fail.message.contains("image")
}
