// SPDX-License-Identifier: Apache-2.0
//! The one place that knows older versions of the API. Handlers and types are of the newest version;
//! requests of older clients are raised to it before they are read, answers are lowered from it before they
//! are sent. Each rule names the version that brought the change.

use berth_api::{ApiVersion, Operation};
use berth_domain::{Error, Result};
use serde_json::{Map, Value, json};

/// Whether answers of this operation look different in this version.
pub(crate) fn lowers(operation: Operation, version: ApiVersion) -> bool {
    let newest_rule = match operation {
        Operation::ContainerInspect
        | Operation::ContainerList
        | Operation::ImageInspect
        | Operation::SystemEvents
        | Operation::SystemInfo
        | Operation::SystemDataUsage => 52,
        Operation::ImageList => 51,
        Operation::NetworkList | Operation::NetworkInspect => 48,
        _ => return false,
    };
    version < ApiVersion::v1(newest_rule)
}

/// Lowers an answer.
pub(crate) fn lower(operation: Operation, version: ApiVersion, answer: &mut Value) {
    let each = |value: &mut Value, lower: fn(&mut Map<String, Value>, u16)| match value {
        Value::Array(all) => {
            for one in all.iter_mut().filter_map(Value::as_object_mut) {
                lower(one, version.minor);
            }
        }
        Value::Object(one) => lower(one, version.minor),
        _ => {}
    };
    match operation {
        Operation::ContainerInspect => each(answer, container_inspect),
        Operation::ContainerList => each(answer, container_summary),
        Operation::ImageInspect => each(answer, image_inspect),
        Operation::ImageList => each(answer, image_summary),
        Operation::NetworkList | Operation::NetworkInspect => each(answer, network),
        Operation::SystemEvents => each(answer, event),
        Operation::SystemInfo => each(answer, info),
        Operation::SystemDataUsage => {
            // 1.52 brought the sums.
            if let Value::Object(usage) = &mut *answer {
                for key in ["ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"] {
                    usage.remove(key);
                }
            }
            if let Some(images) = answer.get_mut("Images") {
                each(images, image_summary);
            }
            if let Some(containers) = answer.get_mut("Containers") {
                each(containers, container_summary);
            }
        }
        _ => {}
    }
}

fn default(map: &mut Map<String, Value>, key: &str, value: Value) {
    if !map.contains_key(key) {
        map.insert(key.to_owned(), value);
    }
}

/// 1.52 took the addresses of the default network out of the top level. What they were: those of `bridge`.
fn old_network_settings(settings: &mut Map<String, Value>) {
    let bridge = settings.get("Networks").and_then(|n| n.get("bridge")).cloned().unwrap_or_default();
    let text = |key: &str| bridge.get(key).cloned().unwrap_or_else(|| json!(""));
    let number = |key: &str| bridge.get(key).cloned().unwrap_or_else(|| json!(0));
    for key in ["EndpointID", "Gateway", "GlobalIPv6Address", "IPAddress", "IPv6Gateway", "MacAddress"] {
        default(settings, key, text(key));
    }
    for key in ["GlobalIPv6PrefixLen", "IPPrefixLen"] {
        default(settings, key, number(key));
    }
    default(settings, "Bridge", json!(""));
    default(settings, "HairpinMode", json!(false));
    default(settings, "LinkLocalIPv6Address", json!(""));
    default(settings, "LinkLocalIPv6PrefixLen", json!(0));
    default(settings, "SecondaryIPAddresses", Value::Null);
    default(settings, "SecondaryIPv6Addresses", Value::Null);
}

fn container_inspect(container: &mut Map<String, Value>, minor: u16) {
    let short: Option<String> =
        container.get("Id").and_then(Value::as_str).and_then(|id| id.get(..12)).map(Into::into);
    let mut mac = None;
    if let Some(Value::Object(settings)) = container.get_mut("NetworkSettings") {
        if minor < 52 {
            old_network_settings(settings);
        }
        mac = settings
            .get("Networks")
            .and_then(Value::as_object)
            .and_then(|all| all.values().find_map(|e| e.get("MacAddress").filter(|m| *m != "").cloned()));
        if let Some(Value::Object(networks)) = settings.get_mut("Networks") {
            for endpoint in networks.values_mut().filter_map(Value::as_object_mut) {
                old_endpoint(endpoint, short.as_deref(), minor);
            }
        }
    }
    if let Some(Value::Object(config)) = container.get_mut("Config") {
        // 1.44 moved the address from the container to its endpoints.
        if minor < 44 {
            default(config, "MacAddress", mac.unwrap_or_else(|| json!("")));
        }
    }
    if minor < 48 {
        container.remove("ImageManifestDescriptor");
    }
}

/// 1.45 took the short id out of the aliases and gave names a field of their own; 1.48 brought the priority.
fn old_endpoint(endpoint: &mut Map<String, Value>, short: Option<&str>, minor: u16) {
    if minor < 45 {
        let user_defined = endpoint.get("DNSNames").is_some_and(Value::is_array);
        endpoint.remove("DNSNames");
        if let (true, Some(short)) = (user_defined, short) {
            let mut aliases = endpoint.get("Aliases").and_then(Value::as_array).cloned().unwrap_or_default();
            if !aliases.iter().any(|a| a == short) {
                aliases.push(json!(short));
            }
            endpoint.insert("Aliases".to_owned(), Value::Array(aliases));
        }
    }
    if minor < 48 {
        endpoint.remove("GwPriority");
    }
}

fn container_summary(container: &mut Map<String, Value>, minor: u16) {
    if minor < 52 {
        container.remove("Health");
    }
    if minor < 48 {
        container.remove("ImageManifestDescriptor");
    }
    if minor < 46 {
        if let Some(Value::Object(host)) = container.get_mut("HostConfig") {
            host.remove("Annotations");
        }
    }
    if let Some(Value::Object(networks)) =
        container.get_mut("NetworkSettings").and_then(|n| n.get_mut("Networks"))
    {
        for endpoint in networks.values_mut().filter_map(Value::as_object_mut) {
            old_endpoint(endpoint, None, minor);
        }
    }
}

fn image_inspect(image: &mut Map<String, Value>, minor: u16) {
    if minor < 52 {
        for key in ["Parent", "Comment", "DockerVersion", "Author"] {
            default(image, key, json!(""));
        }
        if let Some(Value::Object(config)) = image.get_mut("Config") {
            for key in ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes"] {
                default(config, key, Value::Null);
            }
            default(config, "User", json!(""));
            default(config, "WorkingDir", json!(""));
        }
    }
    if minor < 50 {
        // Fields of containers that an image's config was shown with.
        if let Some(Value::Object(config)) = image.get_mut("Config") {
            for key in ["Hostname", "Domainname", "Image"] {
                default(config, key, json!(""));
            }
            for key in ["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"] {
                default(config, key, json!(false));
            }
        }
    }
    if minor < 48 {
        image.remove("Descriptor");
        image.remove("Manifests");
    }
    if minor < 45 {
        default(image, "Container", json!(""));
        let mut config = image.get("Config").cloned().unwrap_or_default();
        if let Some(config) = config.as_object_mut() {
            for (key, value) in config.iter_mut() {
                *value = match key.as_str() {
                    "User" | "WorkingDir" | "Hostname" | "Domainname" | "Image" => json!(""),
                    _ if value.is_boolean() => json!(false),
                    _ => Value::Null,
                };
            }
        }
        default(image, "ContainerConfig", config);
    }
    if minor < 44 {
        let size = image.get("Size").cloned().unwrap_or_else(|| json!(0));
        default(image, "VirtualSize", size);
    }
}

fn image_summary(image: &mut Map<String, Value>, minor: u16) {
    if minor < 51 {
        image.insert("Containers".to_owned(), json!(-1));
    }
    if minor < 48 {
        image.remove("Descriptor");
    }
    if minor < 47 {
        image.remove("Manifests");
    }
    if minor < 44 {
        let size = image.get("Size").cloned().unwrap_or_else(|| json!(0));
        default(image, "VirtualSize", size);
    }
    if minor < 43 {
        for (key, none) in [("RepoTags", "<none>:<none>"), ("RepoDigests", "<none>@<none>")] {
            if image.get(key).and_then(Value::as_array).is_none_or(Vec::is_empty) {
                image.insert(key.to_owned(), json!([none]));
            }
        }
    }
}

fn network(network: &mut Map<String, Value>, minor: u16) {
    if minor < 48 {
        network.remove("EnableIPv4");
    }
}

/// Clients up to 25 panic without these.
fn event(event: &mut Map<String, Value>, minor: u16) {
    if minor >= 52 {
        return;
    }
    let kind = event.get("Type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind != "container" && kind != "image" {
        return;
    }
    let actor = event.get("Actor").cloned().unwrap_or_default();
    let status = event.get("Action").cloned().unwrap_or_default();
    default(event, "status", status);
    default(event, "id", actor.get("ID").cloned().unwrap_or_default());
    if let Some(from) = actor.get("Attributes").and_then(|a| a.get("image")) {
        default(event, "from", from.clone());
    }
}

fn info(info: &mut Map<String, Value>, minor: u16) {
    if minor < 52 {
        default(info, "KernelMemoryTCP", json!(false));
    }
    if minor < 50 {
        default(info, "BridgeNfIptables", json!(false));
        default(info, "BridgeNfIp6tables", json!(false));
        info.remove("DiscoveredDevices");
    }
    if minor < 49 {
        info.remove("FirewallBackend");
    }
    if minor < 44 {
        default(info, "KernelMemory", json!(false));
    }
    if minor < 46 {
        info.remove("CDISpecDirs");
    }
}

/// Raises the body of a request.
///
/// # Errors
///
/// It asks for what its version could not.
pub(crate) fn raise(operation: Operation, version: ApiVersion, body: &mut Value) -> Result<()> {
    let Some(body) = body.as_object_mut() else { return Ok(()) };
    match operation {
        Operation::ContainerCreate => container_create(body, version.minor),
        Operation::ContainerExec | Operation::ExecStart => {
            if version.minor < 42 {
                body.remove("ConsoleSize");
            }
            Ok(())
        }
        Operation::NetworkCreate => {
            if version.minor < 48 {
                body.remove("EnableIPv4");
            }
            Ok(())
        }
        Operation::ContainerUpdate => {
            if version.minor < 55 {
                for key in [
                    "BlkioWeightDevice",
                    "BlkioDeviceReadBps",
                    "BlkioDeviceWriteBps",
                    "BlkioDeviceReadIOps",
                    "BlkioDeviceWriteIOps",
                ] {
                    body.remove(key);
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn container_create(body: &mut Map<String, Value>, minor: u16) -> Result<()> {
    if minor < 44 {
        let endpoints =
            body.get("NetworkingConfig").and_then(|n| n.get("EndpointsConfig")).and_then(Value::as_object);
        if endpoints.is_some_and(|e| e.len() > 1) {
            return Err(Error::invalid("Container cannot be created with multiple network endpoints"));
        }
        if let Some(Value::Object(check)) = body.get_mut("Healthcheck") {
            check.remove("StartInterval");
        }
    }
    let Some(Value::Object(host)) = body.get_mut("HostConfig") else { return Ok(()) };
    if minor < 43 {
        host.remove("Annotations");
    }
    if minor < 42 {
        host.remove("ConsoleSize");
    }
    if minor < 41 {
        // The host's was the only one.
        host.insert("CgroupnsMode".to_owned(), json!("host"));
    }
    if minor < 40 && host.get("IpcMode").and_then(Value::as_str).unwrap_or_default().is_empty() {
        host.insert("IpcMode".to_owned(), json!("shareable"));
    }
    if minor < 25 {
        // The client removed the container itself.
        host.remove("AutoRemove");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn lowered(operation: Operation, minor: u16, mut value: Value) -> Value {
        assert!(lowers(operation, ApiVersion::v1(minor)), "no rule for {operation} {minor}");
        lower(operation, ApiVersion::v1(minor), &mut value);
        value
    }

    #[test]
    fn the_newest_version_is_left_alone() {
        for operation in Operation::ALL {
            assert!(!lowers(*operation, ApiVersion::NEWEST), "{operation}");
        }
    }

    #[test]
    fn addresses_of_the_bridge_at_the_top() {
        let new = json!({"Id": "abcdefabcdefabcdef", "NetworkSettings": {"SandboxID": "s", "Networks": {"bridge": {
            "IPAddress": "172.17.0.2", "IPPrefixLen": 16, "Gateway": "172.17.0.1", "MacAddress": "02:42:ac:11:00:02",
            "DNSNames": null, "GwPriority": 0}}}, "Config": {}});
        let old = lowered(Operation::ContainerInspect, 51, new.clone());
        assert_eq!(old["NetworkSettings"]["IPAddress"], "172.17.0.2");
        assert_eq!(old["NetworkSettings"]["IPPrefixLen"], 16);
        assert_eq!(old["NetworkSettings"]["SecondaryIPAddresses"], Value::Null);
        assert!(old["Config"].get("MacAddress").is_none());
        let older = lowered(Operation::ContainerInspect, 43, new);
        assert_eq!(older["Config"]["MacAddress"], "02:42:ac:11:00:02");
        assert!(older["NetworkSettings"]["Networks"]["bridge"].get("DNSNames").is_none());
    }

    #[test]
    fn a_user_defined_network_had_the_short_id_among_its_aliases() {
        let new = json!({"Id": "7691873a7561130e284b", "NetworkSettings": {"Networks": {"gn": {
            "IPAddress": "10.0.0.2", "Aliases": ["al"], "DNSNames": ["g1", "al"]}}}});
        let old = lowered(Operation::ContainerInspect, 44, new);
        assert_eq!(old["NetworkSettings"]["Networks"]["gn"]["Aliases"], json!(["al", "7691873a7561"]));
        assert_eq!(old["NetworkSettings"]["IPAddress"], "", "only the default network is shown at the top");
    }

    #[test]
    fn images_had_other_names_for_nothing() {
        let new = json!([{"Containers": 2, "RepoTags": [], "RepoDigests": [], "Size": 7, "Descriptor": {}}]);
        let old = lowered(Operation::ImageList, 42, new.clone());
        assert_eq!(old[0]["RepoTags"], json!(["<none>:<none>"]));
        assert_eq!(old[0]["Containers"], -1);
        assert_eq!(old[0]["VirtualSize"], 7);
        let newer = lowered(Operation::ImageList, 50, new);
        assert_eq!(newer[0]["RepoTags"], json!([]));
        assert!(newer[0].get("VirtualSize").is_none());
        assert!(newer[0].get("Descriptor").is_some());
    }

    #[test]
    fn events_had_their_fields_twice() {
        let new = json!({"Type": "container", "Action": "start", "Actor": {"ID": "x", "Attributes": {"image": "i"}}});
        let old = lowered(Operation::SystemEvents, 51, new);
        assert_eq!((&old["status"], &old["id"], &old["from"]), (&json!("start"), &json!("x"), &json!("i")));
        let network = json!({"Type": "network", "Action": "connect", "Actor": {"ID": "x"}});
        assert!(lowered(Operation::SystemEvents, 51, network).get("status").is_none());
    }

    #[test]
    fn old_requests_are_raised() {
        let mut body = json!({"Image": "x", "HostConfig": {"CgroupnsMode": "private"}});
        raise(Operation::ContainerCreate, ApiVersion::v1(39), &mut body).unwrap();
        assert_eq!(body["HostConfig"], json!({"CgroupnsMode": "host", "IpcMode": "shareable"}));

        let mut two = json!({"NetworkingConfig": {"EndpointsConfig": {"a": null, "b": null}}});
        assert!(raise(Operation::ContainerCreate, ApiVersion::v1(43), &mut two).is_err());
        assert!(raise(Operation::ContainerCreate, ApiVersion::v1(44), &mut two).is_ok());
    }
}
