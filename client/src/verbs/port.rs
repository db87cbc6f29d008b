// SPDX-License-Identifier: Apache-2.0
//! The published ports of `ContainerInspect`.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde::Deserialize;

use super::ps::bracketed;
use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Fail, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Inspect {
    network_settings: Settings,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Settings {
    ports: Option<BTreeMap<String, Option<Vec<Binding>>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Binding {
    host_ip: String,
    host_port: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let ask = Ask::get(format!("/containers/{}/json", args.container));
    let inspect: Inspect = context.api().await?.decoded(ask).await?;
    let ports = inspect.network_settings.ports.unwrap_or_default();
    let host = |b: &Binding| format!("{}:{}", bracketed(&b.host_ip), b.host_port);
    let mut out = std::io::stdout().lock();
    match args.port {
        Some(wanted) => {
            let key = if wanted.contains('/') { wanted.clone() } else { format!("{wanted}/tcp") };
            let bindings = ports.get(&key).and_then(Option::as_ref).filter(|b| !b.is_empty());
            let bindings = bindings.ok_or_else(|| {
                Fail::new(format!("no public port '{wanted}' published for {}", args.container))
            })?;
            for binding in bindings {
                writeln!(out, "{}", host(binding))?;
            }
        }
        None => {
            let mut all: Vec<_> = ports.iter().collect();
            all.sort_by_key(|(port, _)| port.split('/').next().and_then(|n| n.parse::<u16>().ok()));
            for (port, bindings) in all {
                for binding in bindings.iter().flatten() {
                    writeln!(out, "{port} -> {}", host(binding))?;
                }
            }
        }
    }
    Ok(0)
}
