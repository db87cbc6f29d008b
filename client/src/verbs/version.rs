// SPDX-License-Identifier: Apache-2.0
//! `SystemVersion`, beside our own.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::show::template::Template;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let template =
        args.format.as_deref().map(|f| Template::parse(if f == "json" { "{{json .}}" } else { f }));
    let template = template.transpose()?;
    let daemon = async {
        let api = context.api().await?;
        let server: Value = api.decoded(Ask::get("/version")).await?;
        Ok::<_, Fail>((api.version().to_string(), server))
    };
    let (version, server, failed) = match daemon.await {
        Ok((version, server)) => (version, server, None),
        Err(fail) => (String::new(), Value::Null, Some(fail)),
    };
    let client = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": version,
        "Os": std::env::consts::OS,
        "Arch": arch(),
    });
    let mut out = std::io::stdout().lock();
    if let Some(template) = template {
        writeln!(out, "{}", template.render(&json!({"Client": client, "Server": server}))?)?;
    } else {
        writeln!(out, "Client: Berth")?;
        line(&mut out, " Version", &client["Version"])?;
        line(&mut out, " API version", &client["ApiVersion"])?;
        writeln!(out, " {:<18} {}/{}", "OS/Arch:", std::env::consts::OS, arch())?;
        if failed.is_none() {
            show(&mut out, &server)?;
        }
    }
    drop(out);
    match failed {
        None => Ok(0),
        Some(fail) => Err(fail),
    }
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn line(out: &mut impl std::io::Write, name: &str, value: &Value) -> Result<()> {
    let text = value.as_str().unwrap_or_default();
    Ok(writeln!(out, "{:<19} {text}", format!("{name}:"))?)
}

/// `Tue Sep 15 11:02:57 2026`; what is no time stays as it is.
fn readable(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%a %b %e %H:%M:%S %Y").to_string(),
        Err(_) => time.to_owned(),
    }
}

/// The engine, then its other parts.
fn show(out: &mut impl std::io::Write, server: &Value) -> Result<()> {
    let platform = server["Platform"]["Name"].as_str().filter(|n| !n.is_empty());
    writeln!(out, "\nServer:{}", platform.map(|p| format!(" {p}")).unwrap_or_default())?;
    for component in server["Components"].as_array().into_iter().flatten() {
        let details = &component["Details"];
        writeln!(out, " {}:", component["Name"].as_str().unwrap_or_default())?;
        line(out, "  Version", &component["Version"])?;
        if component["Name"] == "Engine" {
            let text = |name: &str| details[name].as_str().unwrap_or_default();
            let api = format!("{} (minimum version {})", text("ApiVersion"), text("MinAPIVersion"));
            line(out, "  API version", &api.into())?;
            for (label, name) in
                [("  Go version", "GoVersion"), ("  Git commit", "GitCommit"), ("  Built", "BuildTime")]
            {
                let value = if name == "BuildTime" { readable(text(name)) } else { text(name).to_owned() };
                if !value.is_empty() {
                    line(out, label, &value.into())?;
                }
            }
            line(out, "  OS/Arch", &format!("{}/{}", text("Os"), text("Arch")).into())?;
            line(out, "  Experimental", &details["Experimental"])?;
        } else {
            for (name, value) in details.as_object().into_iter().flatten() {
                line(out, &format!("  {name}"), value)?;
            }
        }
    }
    Ok(())
}
