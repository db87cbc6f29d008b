// SPDX-License-Identifier: Apache-2.0
//! `SystemInfo`.

use std::io::Write as _;

use serde_json::Value;

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::Result;
use crate::show::template::Template;
use crate::show::units::bytes_size;

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
    let info: Value = context.api().await?.decoded(Ask::get("/info")).await?;
    let mut out = std::io::stdout().lock();
    match template {
        Some(template) => writeln!(out, "{}", template.render(&info)?)?,
        None => out.write_all(text(&info).as_bytes())?,
    }
    drop(out);
    for warning in info["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{warning}");
    }
    Ok(0)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn words(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(plain).collect::<Vec<_>>().join(" ")
}

fn text(info: &Value) -> String {
    let mut lines = vec![
        "Client:".to_owned(),
        format!(" Version:    {}", env!("CARGO_PKG_VERSION")),
        " Debug Mode: false".to_owned(),
        String::new(),
        "Server:".to_owned(),
    ];
    let mut add = |indent: usize, name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{:indent$}{name}: {value}", ""));
        }
    };
    for (name, key) in [
        (" Containers", "Containers"),
        ("  Running", "ContainersRunning"),
        ("  Paused", "ContainersPaused"),
        ("  Stopped", "ContainersStopped"),
        (" Images", "Images"),
        (" Server Version", "ServerVersion"),
        (" Storage Driver", "Driver"),
    ] {
        add(0, name, plain(&info[key]));
    }
    for pair in info["DriverStatus"].as_array().into_iter().flatten() {
        add(2, &plain(&pair[0]), plain(&pair[1]));
    }
    for (name, key) in [
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
    ] {
        add(1, name, plain(&info[key]));
    }
    if let Some(plugins) = info["Plugins"].as_object() {
        lines.push(" Plugins:".to_owned());
        for kind in ["Volume", "Network", "Log"] {
            if let Some(list) = plugins.get(kind).filter(|l| l.as_array().is_some_and(|a| !a.is_empty())) {
                lines.push(format!("  {kind}: {}", words(list)));
            }
        }
    }
    let mut add = |indent: usize, name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{:indent$}{name}: {value}", ""));
        }
    };
    add(1, "Swarm", plain(&info["Swarm"]["LocalNodeState"]));
    let runtimes = info["Runtimes"].as_object().map(|m| m.keys().cloned().collect::<Vec<_>>().join(" "));
    add(1, "Runtimes", runtimes.unwrap_or_default());
    add(1, "Default Runtime", plain(&info["DefaultRuntime"]));
    add(1, "Init Binary", plain(&info["InitBinary"]));
    if let Some(options) = info["SecurityOptions"].as_array().filter(|o| !o.is_empty()) {
        lines.push(" Security Options:".to_owned());
        for option in options {
            for (index, field) in plain(option).split(',').enumerate() {
                match field.split_once('=') {
                    Some(("name", name)) if index == 0 => lines.push(format!("  {name}")),
                    Some((key, value)) => lines.push(format!("   {}: {value}", capitalised(key))),
                    None => lines.push(format!("  {field}")),
                }
            }
        }
    }
    let mut add = |indent: usize, name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{:indent$}{name}: {value}", ""));
        }
    };
    for (name, key) in [
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    ] {
        add(1, name, plain(&info[key]));
    }
    add(1, "Total Memory", info["MemTotal"].as_u64().map(bytes_size).unwrap_or_default());
    for (name, key) in [
        ("Name", "Name"),
        ("ID", "ID"),
        ("Docker Root Dir", "DockerRootDir"),
        ("Debug Mode", "Debug"),
        ("HTTP Proxy", "HttpProxy"),
        ("HTTPS Proxy", "HttpsProxy"),
        ("No Proxy", "NoProxy"),
        ("Experimental", "ExperimentalBuild"),
    ] {
        add(1, name, plain(&info[key]));
    }
    for (name, list) in
        [("Labels", &info["Labels"]), ("Registry Mirrors", &info["RegistryConfig"]["Mirrors"])]
    {
        if let Some(list) = list.as_array().filter(|l| !l.is_empty()) {
            lines.push(format!(" {name}:"));
            lines.extend(list.iter().map(|one| format!("  {}", plain(one))));
        }
    }
    let mut insecure: Vec<String> = Vec::new();
    if let Some(hosts) = info["RegistryConfig"]["IndexConfigs"].as_object() {
        insecure.extend(
            hosts.iter().filter(|(_, c)| c["Secure"] == Value::Bool(false)).map(|(name, _)| name.clone()),
        );
    }
    insecure
        .extend(info["RegistryConfig"]["InsecureRegistryCIDRs"].as_array().into_iter().flatten().map(plain));
    if !insecure.is_empty() {
        lines.push(" Insecure Registries:".to_owned());
        lines.extend(insecure.into_iter().map(|one| format!("  {one}")));
    }
    if let Some(live) = info["LiveRestoreEnabled"].as_bool() {
        lines.push(format!(" Live Restore Enabled: {live}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_reads_as_dockers() {
        let info = serde_json::json!({
            "Containers": 2, "ServerVersion": "0.1.0", "SecurityOptions": ["name=seccomp,profile=builtin"],
            "MemTotal": 1 << 30, "RegistryConfig": {"InsecureRegistryCIDRs": ["127.0.0.0/8"]},
        });
        let text = text(&info);
        for line in [
            " Containers: 2",
            " Server Version: 0.1.0",
            "  seccomp",
            "   Profile: builtin",
            " Total Memory: 1GiB",
            "  127.0.0.0/8",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} is not in {text}");
        }
    }
}
