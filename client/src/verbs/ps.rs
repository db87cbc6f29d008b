// SPDX-License-Identifier: Apache-2.0
//! `ContainerList`.

use std::collections::BTreeMap;
use std::io::Write as _;

use berth_api::Filters;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::Result;
use crate::show::list::{Column, List, Row};
use crate::show::{ellipsis, quote, short_id, units};
use crate::verbs::filters;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "int")]
    last: Option<i64>,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Container {
    id: String,
    names: Option<Vec<String>>,
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    command: String,
    created: i64,
    ports: Option<Vec<Port>>,
    labels: Option<BTreeMap<String, String>>,
    state: String,
    status: String,
    size_rw: i64,
    size_root_fs: i64,
    mounts: Option<Vec<Mount>>,
    network_settings: Option<Networks>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Port {
    #[serde(rename = "IP")]
    ip: String,
    private_port: u16,
    public_port: u16,
    r#type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Mount {
    name: String,
    source: String,
    driver: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Networks {
    networks: Option<BTreeMap<String, Value>>,
}

const ALL: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let filters: Filters = filters(&args.filter)?;
    let limit = if args.latest { Some(1) } else { args.last.filter(|n| *n > 0) };
    // Sizes are walked for: only where somebody looks at them.
    let size = args.size || args.format.as_deref().is_some_and(|f| f.contains(".Size") || f == "json");
    let ask = Ask::get("/containers/json")
        .flag("all", args.all || limit.is_some())
        .flag("size", size)
        .maybe("limit", limit.map(|n| n.to_string()).as_deref())
        .maybe("filters", Some(filters.to_query()).as_deref());
    let containers: Vec<Container> = context.api().await?.decoded(ask).await?;
    if args.quiet {
        let mut out = std::io::stdout().lock();
        for container in &containers {
            writeln!(out, "{}", if args.no_trunc { &container.id } else { short_id(&container.id) })?;
        }
        return Ok(0);
    }
    let mut shown = vec!["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"];
    if args.size {
        shown.push("Size");
    }
    let now = jiff::Timestamp::now().as_second();
    let rows = containers.iter().map(|c| row(c, now, !args.no_trunc)).collect();
    List { all: ALL, shown: &shown, rows }.print(args.format.as_deref())?;
    Ok(0)
}

fn row(container: &Container, now: i64, trunc: bool) -> Row {
    let c = container;
    let command = if trunc { ellipsis(&c.command, 20) } else { c.command.clone() };
    let names = c.names.iter().flatten().map(|n| n.trim_start_matches('/'));
    let names: Vec<&str> = names.filter(|n| !trunc || !n.contains('/')).collect();
    let mounts = c.mounts.iter().flatten().map(|m| {
        let name = if m.name.is_empty() { &m.source } else { &m.name };
        if trunc { ellipsis(name, 15) } else { name.clone() }
    });
    let size = if c.size_root_fs > 0 {
        format!("{} (virtual {})", units::size(c.size_rw), units::size(c.size_root_fs))
    } else {
        units::size(c.size_rw)
    };
    let labels = c.labels.clone().unwrap_or_default();
    let networks = c.network_settings.as_ref().and_then(|n| n.networks.as_ref());
    let fields = vec![
        ("ID", if trunc { short_id(&c.id).to_owned() } else { c.id.clone() }),
        ("Image", image(c, trunc)),
        ("Command", quote(&command)),
        ("CreatedAt", units::local_time(c.created)),
        ("RunningFor", units::ago(c.created, now)),
        ("Status", c.status.clone()),
        ("State", c.state.clone()),
        ("Ports", ports(c.ports.as_deref().unwrap_or_default())),
        ("Names", names.join(",")),
        ("Size", size),
        ("Labels", labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")),
        ("Mounts", mounts.collect::<Vec<_>>().join(",")),
        ("LocalVolumes", c.mounts.iter().flatten().filter(|m| m.driver == "local").count().to_string()),
        ("Networks", networks.map(|n| n.keys().cloned().collect::<Vec<_>>().join(",")).unwrap_or_default()),
    ];
    let labels: Map<String, Value> = labels.into_iter().map(|(k, v)| (k, v.into())).collect();
    Row { fields, labels }
}

fn image(container: &Container, trunc: bool) -> String {
    if container.image.is_empty() {
        return "<no image>".to_owned();
    }
    if trunc {
        // An image that has lost its names is shown by its id, a digest is too long for a table.
        if short_id(&container.image_id) == short_id(&container.image) {
            return short_id(&container.image).to_owned();
        }
        if let Some((name, _)) = container.image.split_once('@') {
            return name.to_owned();
        }
    }
    container.image.clone()
}

/// Published ports, neighbours joined to ranges: `0.0.0.0:80-81->80-81/tcp, 90/tcp`.
fn ports(ports: &[Port]) -> String {
    let mut sorted = ports.to_vec();
    sorted.sort_by(|a, b| {
        (a.private_port, &a.ip, a.public_port, &a.r#type).cmp(&(
            b.private_port,
            &b.ip,
            b.public_port,
            &b.r#type,
        ))
    });
    // Where the two numbers differ, each mapping stands for itself, behind all others.
    let (same, different): (Vec<Port>, Vec<Port>) =
        sorted.into_iter().partition(|p| p.ip.is_empty() || p.public_port == p.private_port);
    let mut open: Vec<(String, String, u16, u16)> = Vec::new();
    let mut shown = Vec::new();
    for port in same {
        let group = open.iter_mut().find(|(ip, kind, ..)| *ip == port.ip && *kind == port.r#type);
        match group {
            Some((_, _, _, last)) if last.checked_add(1) == Some(port.private_port) => {
                *last = port.private_port;
            }
            Some((ip, kind, first, last)) => {
                shown.push(range(ip, kind, *first, *last));
                (*first, *last) = (port.private_port, port.private_port);
            }
            None => open.push((port.ip, port.r#type, port.private_port, port.private_port)),
        }
    }
    shown.extend(open.iter().map(|(ip, kind, first, last)| range(ip, kind, *first, *last)));
    shown.extend(
        different
            .iter()
            .map(|p| format!("{}:{}->{}/{}", bracketed(&p.ip), p.public_port, p.private_port, p.r#type)),
    );
    shown.join(", ")
}

fn range(ip: &str, kind: &str, first: u16, last: u16) -> String {
    let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
    if ip.is_empty() {
        format!("{ports}/{kind}")
    } else {
        format!("{}:{ports}->{ports}/{kind}", bracketed(ip))
    }
}

pub(super) fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn port(ip: &str, public: u16, private: u16, kind: &str) -> Port {
        Port { ip: ip.into(), private_port: private, public_port: public, r#type: kind.into() }
    }

    #[test]
    fn ports_are_joined() {
        for (given, expected) in [
            (vec![], ""),
            (vec![port("", 0, 80, "tcp")], "80/tcp"),
            (
                vec![port("0.0.0.0", 6378, 6379, "tcp"), port("::", 6378, 6379, "tcp")],
                "0.0.0.0:6378->6379/tcp, [::]:6378->6379/tcp",
            ),
            (
                vec![port("0.0.0.0", 81, 81, "tcp"), port("0.0.0.0", 80, 80, "tcp"), port("", 0, 90, "udp")],
                "0.0.0.0:80-81->80-81/tcp, 90/udp",
            ),
            (vec![port("", 0, 1, "tcp"), port("", 0, 2, "tcp"), port("", 0, 9, "tcp")], "1-2/tcp, 9/tcp"),
        ] {
            assert_eq!(ports(&given), expected);
        }
    }

    #[test]
    fn a_row_as_docker_shows_it() {
        let container: Container = serde_json::from_str(
            r#"{"Id":"0123456789abcdef","Names":["/web","/other/alias"],"Image":"redis","ImageID":"sha256:ff",
                "Command":"docker-entrypoint.sh redis-server","Created":1000,"Ports":null,"Labels":{"a":"b"},
                "State":"running","Status":"Up 2 minutes","Mounts":[{"Name":"0123456789abcdefgh","Driver":"local"}],
                "NetworkSettings":{"Networks":{"bridge":{}}}}"#,
        )
        .unwrap();
        let row = row(&container, 1130, true);
        let cell = |name: &str| row.fields.iter().find(|(n, _)| *n == name).unwrap().1.clone();
        assert_eq!(cell("ID"), "0123456789ab");
        assert_eq!(cell("Command"), "\"docker-entrypoint.s…\"");
        assert_eq!(cell("Names"), "web");
        assert_eq!(cell("RunningFor"), "2 minutes ago");
        assert_eq!(cell("Mounts"), "0123456789abcd…");
        assert_eq!(cell("LocalVolumes"), "1");
        assert_eq!(cell("Networks"), "bridge");
    }

    #[test]
    fn images_without_names() {
        let of = |image_name: &str, trunc| {
            let c = Container {
                image: image_name.into(),
                image_id: "sha256:0123456789abcdef".into(),
                ..Container::default()
            };
            image(&c, trunc)
        };
        assert_eq!(of("sha256:0123456789abcdef", true), "0123456789ab");
        assert_eq!(of("busybox@sha256:00", true), "busybox");
        assert_eq!(of("busybox@sha256:00", false), "busybox@sha256:00");
        assert_eq!(of("", true), "<no image>");
    }
}
