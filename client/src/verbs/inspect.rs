// SPDX-License-Identifier: Apache-2.0
//! `ContainerInspect`, `ImageInspect`, and where the engine has them `NetworkInspect` and `VolumeInspect`.

use std::io::Write as _;

use serde_json::Value;

use crate::api::{Api, Ask};
use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::show::json;
use crate::show::template::Template;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    size: bool,
    /// Only inspect objects of the given type
    #[arg(long, value_name = "string")]
    r#type: Option<String>,
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

const KINDS: [(&str, &str); 4] =
    [("container", "containers"), ("image", "images"), ("network", "networks"), ("volume", "volumes")];

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let kinds: Vec<(&str, &str)> =
        KINDS.into_iter().filter(|(kind, _)| args.r#type.as_deref().is_none_or(|t| t == *kind)).collect();
    if kinds.is_empty() {
        return Err(Fail::new(format!("unknown type: {:?}", args.r#type.unwrap_or_default())));
    }
    let template = match args.format.as_deref() {
        None => None,
        Some("json") => Some(Template::parse("{{json .}}")?),
        Some(format) => Some(Template::parse(&format.replace("\\n", "\n").replace("\\t", "\t"))?),
    };
    let api = context.api().await?;
    let mut found = Vec::new();
    let mut failed = Vec::new();
    for name in &args.names {
        match find(&api, name, &kinds, args.size).await {
            Ok(document) => found.push(document),
            Err(fail) => failed.push(fail),
        }
    }
    let mut out = std::io::stdout().lock();
    match &template {
        None => {
            // The daemon's own documents, as they came: no number or key order is lost on the way.
            let documents: Vec<String> =
                found.iter().map(|document| format!("    {}", json::indent(document.trim(), 1))).collect();
            if documents.is_empty() {
                writeln!(out, "[]")?;
            } else {
                writeln!(out, "[\n{}\n]", documents.join(",\n"))?;
            }
        }
        Some(template) => {
            for document in &found {
                let value: Value = serde_json::from_str(document)
                    .map_err(|e| Fail::new(format!("the daemon's answer cannot be read: {e}")))?;
                writeln!(out, "{}", template.render(&value)?)?;
            }
        }
    }
    drop(out);
    for fail in &failed {
        eprintln!("{fail}");
    }
    if failed.is_empty() { Ok(0) } else { Err(Fail::silent(1)) }
}

async fn find(api: &Api, name: &str, kinds: &[(&str, &str)], size: bool) -> Result<String> {
    for (kind, path) in kinds {
        let document = match *kind {
            "network" | "volume" => format!("/{path}/{name}"),
            _ => format!("/{path}/{name}/json"),
        };
        match api.bytes(Ask::get(document).flag("size", size && *kind == "container")).await {
            Ok(bytes) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            // Not of this kind, or not a name that this kind could have: the next one may know it.
            Err(fail)
                if kinds.len() > 1
                    && (matches!(fail.status, Some(404 | 501))
                        || fail.message.contains("invalid reference format")
                        || fail.message.contains("not supported")) => {}
            Err(fail) => return Err(fail),
        }
    }
    Err(Fail::new(format!("Error: No such object: {name}")))
}
