// SPDX-License-Identifier: Apache-2.0
//! Bodies recorded from Docker 28.5.2 (API 1.51) must survive a trip through our types: every field
//! there with its value, none invented. What a newer version took away is listed beside each.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use berth_api::types::{ErrorResponse, container, event, exec, image, network, stats, system, volume};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Paths (`.` between names, `*` for any list index or map key) that may be in the recording and not in ours.
fn round_trip<T: DeserializeOwned + Serialize>(name: &str, gone: &[&str]) {
    let recorded: Value = serde_json::from_str(&golden(name)).unwrap();
    check::<T>(name, &recorded, gone);
}

fn check<T: DeserializeOwned + Serialize>(name: &str, recorded: &Value, gone: &[&str]) {
    let typed: T = serde_json::from_value(recorded.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let ours = serde_json::to_value(typed).unwrap();
    let mut differences = Vec::new();
    compare("", recorded, &ours, gone, &mut differences);
    assert!(differences.is_empty(), "{name} differs:\n{}", differences.join("\n"));
}

fn compare(at: &str, recorded: &Value, ours: &Value, gone: &[&str], out: &mut Vec<String>) {
    match (recorded, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                match b.get(key) {
                    Some(other) => compare(&path, value, other, gone, out),
                    None if gone.iter().any(|g| same_path(g, &path)) => {}
                    None => out.push(format!("{path}: lost {value}")),
                }
            }
            for key in b.keys().filter(|k| !a.contains_key(*k)) {
                out.push(format!("{at}.{key}: invented {}", b[key]));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                compare(&format!("{at}.{i}"), x, y, gone, out);
            }
        }
        _ if recorded == ours => {}
        _ => out.push(format!("{at}: {recorded} became {ours}")),
    }
}

fn same_path(pattern: &str, path: &str) -> bool {
    let (mut a, mut b) = (pattern.split('.'), path.trim_start_matches('.').split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(x), Some(y)) if x == "*" || x == y => {}
            _ => return false,
        }
    }
}

/// Gone with 1.52: the daemon's door writes them for older clients.
const OLD_NETWORK_SETTINGS: &[&str] = &[
    "NetworkSettings.Bridge",
    "NetworkSettings.HairpinMode",
    "NetworkSettings.LinkLocalIPv6Address",
    "NetworkSettings.LinkLocalIPv6PrefixLen",
    "NetworkSettings.SecondaryIPAddresses",
    "NetworkSettings.SecondaryIPv6Addresses",
    "NetworkSettings.EndpointID",
    "NetworkSettings.Gateway",
    "NetworkSettings.GlobalIPv6Address",
    "NetworkSettings.GlobalIPv6PrefixLen",
    "NetworkSettings.IPAddress",
    "NetworkSettings.IPPrefixLen",
    "NetworkSettings.IPv6Gateway",
    "NetworkSettings.MacAddress",
];

#[test]
fn containers() {
    round_trip::<container::ContainerInspect>("container_inspect.json", OLD_NETWORK_SETTINGS);
    round_trip::<Vec<container::ContainerSummary>>("containers_json.json", &[]);
    round_trip::<container::ContainerTopBody>("top.json", &[]);
    round_trip::<Vec<container::FilesystemChange>>("changes.json", &[]);
    round_trip::<stats::StatsSample>("stats.json", &[]);
    round_trip::<stats::StatsSample>("stats_oneshot.json", &[]);
    round_trip::<exec::ExecInspect>("exec_inspect.json", &[]);
}

#[test]
fn images() {
    // Empty strings are left out since 1.52.
    let gone = &["Parent", "DockerVersion", "Author"];
    round_trip::<image::ImageInspect>("image_inspect.json", gone);
    round_trip::<image::ImageInspect>("image_inspect_index.json", gone);
    round_trip::<Vec<image::ImageSummary>>("images_json.json", &[]);
    round_trip::<Vec<image::HistoryItem>>("image_history.json", &[]);
}

#[test]
fn networks_and_volumes() {
    round_trip::<network::Network>("network_bridge.json", &[]);
    round_trip::<network::Network>("network_inspect.json", &[]);
    round_trip::<Vec<network::Network>>("networks.json", &[]);
    round_trip::<volume::Volume>("volume.json", &[]);
    round_trip::<volume::VolumeList>("volumes.json", &[]);
}

#[test]
fn the_engine() {
    round_trip::<system::Version>("version.json", &[]);
    // KernelMemoryTCP is gone with 1.52; Containerd is for engines that have one.
    round_trip::<system::Info>("info.json", &["KernelMemoryTCP", "Containerd"]);
    round_trip::<system::DiskUsage>("df.json", &[]);
    round_trip::<ErrorResponse>("err404.json", &[]);
}

#[test]
fn events() {
    for line in golden("events.jsonl").lines() {
        let recorded: Value = serde_json::from_str(line).unwrap();
        check::<event::Event>(line, &recorded, &["status", "id", "from"]);
    }
}
