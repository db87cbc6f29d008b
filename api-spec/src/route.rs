// SPDX-License-Identifier: Apache-2.0
//! The route table as data, and the matcher.
//!
//! `{name}` stands for one or more path segments, for names hold slashes, colons and `@`
//! (`/images/localhost:5000/a/b/json`): what follows it in the template is matched from the end of the
//! path. Templates without a name win over those with one. Paths are matched after percent-decoding and
//! without the version prefix.

use crate::{ApiVersion, Operation};

/// The methods that the API uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
}

impl Method {
    /// From the request line; `None` for methods that no route has.
    #[must_use]
    pub fn parse(s: &str) -> Option<Self> {
        Some(match s {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            _ => return None,
        })
    }

    /// As it stands in a request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path's template.
    pub template: &'static str,
    /// The version it came with; older requests do not find it.
    pub since: ApiVersion,
    /// What it does.
    pub operation: Operation,
}

const fn get(template: &'static str, operation: Operation) -> Route {
    Route { method: Method::Get, template, since: ApiVersion::OLDEST, operation }
}
const fn head(template: &'static str, operation: Operation) -> Route {
    Route { method: Method::Head, template, since: ApiVersion::OLDEST, operation }
}
const fn post(template: &'static str, operation: Operation) -> Route {
    Route { method: Method::Post, template, since: ApiVersion::OLDEST, operation }
}
const fn put(template: &'static str, operation: Operation) -> Route {
    Route { method: Method::Put, template, since: ApiVersion::OLDEST, operation }
}
const fn delete(template: &'static str, operation: Operation) -> Route {
    Route { method: Method::Delete, template, since: ApiVersion::OLDEST, operation }
}
impl Route {
    const fn since(mut self, minor: u16) -> Self {
        self.since = ApiVersion::v1(minor);
        self
    }
}

/// Every endpoint of the API, done or not.
pub const ROUTES: &[Route] = &[
    // System
    post("/auth", Operation::SystemAuth),
    get("/info", Operation::SystemInfo),
    get("/version", Operation::SystemVersion),
    get("/_ping", Operation::SystemPing),
    head("/_ping", Operation::SystemPingHead),
    get("/events", Operation::SystemEvents),
    get("/system/df", Operation::SystemDataUsage).since(25),
    // Berth's own, under a prefix that the reference does not have.
    post("/berth/system/check", Operation::BerthSystemCheck),
    // Containers
    get("/containers/json", Operation::ContainerList),
    post("/containers/create", Operation::ContainerCreate),
    post("/containers/prune", Operation::ContainerPrune).since(25),
    get("/containers/{id}/json", Operation::ContainerInspect),
    get("/containers/{id}/top", Operation::ContainerTop),
    get("/containers/{id}/logs", Operation::ContainerLogs),
    get("/containers/{id}/changes", Operation::ContainerChanges),
    get("/containers/{id}/export", Operation::ContainerExport),
    get("/containers/{id}/stats", Operation::ContainerStats),
    post("/containers/{id}/resize", Operation::ContainerResize),
    post("/containers/{id}/start", Operation::ContainerStart),
    post("/containers/{id}/stop", Operation::ContainerStop),
    post("/containers/{id}/restart", Operation::ContainerRestart),
    post("/containers/{id}/kill", Operation::ContainerKill),
    post("/containers/{id}/update", Operation::ContainerUpdate),
    post("/containers/{id}/rename", Operation::ContainerRename),
    post("/containers/{id}/pause", Operation::ContainerPause),
    post("/containers/{id}/unpause", Operation::ContainerUnpause),
    post("/containers/{id}/attach", Operation::ContainerAttach),
    get("/containers/{id}/attach/ws", Operation::ContainerAttachWebsocket),
    post("/containers/{id}/wait", Operation::ContainerWait),
    head("/containers/{id}/archive", Operation::ContainerArchiveInfo),
    get("/containers/{id}/archive", Operation::ContainerArchive),
    put("/containers/{id}/archive", Operation::PutContainerArchive),
    get("/containers/{id}/checkpoints", Operation::CheckpointList).since(25),
    post("/containers/{id}/checkpoints", Operation::CheckpointCreate).since(25),
    delete("/containers/{id}/checkpoints/{checkpoint}", Operation::CheckpointDelete).since(25),
    delete("/containers/{id}", Operation::ContainerDelete),
    // Exec
    post("/containers/{id}/exec", Operation::ContainerExec),
    post("/exec/{id}/start", Operation::ExecStart),
    post("/exec/{id}/resize", Operation::ExecResize),
    get("/exec/{id}/json", Operation::ExecInspect),
    // Images
    get("/images/json", Operation::ImageList),
    get("/images/search", Operation::ImageSearch),
    get("/images/get", Operation::ImageGetAll),
    post("/images/create", Operation::ImageCreate),
    post("/images/load", Operation::ImageLoad),
    post("/images/prune", Operation::ImagePrune).since(25),
    get("/images/{name}/json", Operation::ImageInspect),
    get("/images/{name}/history", Operation::ImageHistory),
    get("/images/{name}/get", Operation::ImageGet),
    get("/images/{name}/attestations", Operation::ImageAttestations).since(55),
    post("/images/{name}/push", Operation::ImagePush),
    post("/images/{name}/tag", Operation::ImageTag),
    delete("/images/{name}", Operation::ImageDelete),
    post("/commit", Operation::ImageCommit),
    // Build
    post("/build", Operation::ImageBuild),
    post("/build/prune", Operation::BuildPrune).since(31),
    post("/build/cancel", Operation::BuildCancel),
    post("/session", Operation::Session),
    post("/grpc", Operation::Grpc),
    // Networks
    get("/networks", Operation::NetworkList),
    get("/networks/", Operation::NetworkList),
    post("/networks/create", Operation::NetworkCreate),
    post("/networks/prune", Operation::NetworkPrune).since(25),
    get("/networks/{id}", Operation::NetworkInspect),
    delete("/networks/{id}", Operation::NetworkDelete),
    post("/networks/{id}/connect", Operation::NetworkConnect),
    post("/networks/{id}/disconnect", Operation::NetworkDisconnect),
    // Volumes
    get("/volumes", Operation::VolumeList),
    post("/volumes/create", Operation::VolumeCreate),
    post("/volumes/prune", Operation::VolumePrune).since(25),
    get("/volumes/{name}", Operation::VolumeInspect),
    put("/volumes/{name}", Operation::VolumeUpdate).since(42),
    delete("/volumes/{name}", Operation::VolumeDelete),
    // Registries
    get("/distribution/{name}/json", Operation::DistributionInspect).since(30),
    // Plugins
    get("/plugins", Operation::PluginList),
    get("/plugins/privileges", Operation::GetPluginPrivileges),
    post("/plugins/pull", Operation::PluginPull),
    post("/plugins/create", Operation::PluginCreate),
    get("/plugins/{name}/json", Operation::PluginInspect),
    delete("/plugins/{name}", Operation::PluginDelete),
    post("/plugins/{name}/enable", Operation::PluginEnable),
    post("/plugins/{name}/disable", Operation::PluginDisable),
    post("/plugins/{name}/upgrade", Operation::PluginUpgrade),
    post("/plugins/{name}/push", Operation::PluginPush),
    post("/plugins/{name}/set", Operation::PluginSet),
    // Swarm
    get("/swarm", Operation::SwarmInspect),
    get("/swarm/unlockkey", Operation::SwarmUnlockkey),
    post("/swarm/init", Operation::SwarmInit),
    post("/swarm/join", Operation::SwarmJoin),
    post("/swarm/leave", Operation::SwarmLeave),
    post("/swarm/update", Operation::SwarmUpdate),
    post("/swarm/unlock", Operation::SwarmUnlock),
    get("/nodes", Operation::NodeList),
    get("/nodes/{id}", Operation::NodeInspect),
    delete("/nodes/{id}", Operation::NodeDelete),
    post("/nodes/{id}/update", Operation::NodeUpdate),
    get("/services", Operation::ServiceList),
    post("/services/create", Operation::ServiceCreate),
    get("/services/{id}", Operation::ServiceInspect),
    delete("/services/{id}", Operation::ServiceDelete),
    post("/services/{id}/update", Operation::ServiceUpdate),
    get("/services/{id}/logs", Operation::ServiceLogs).since(29),
    get("/tasks", Operation::TaskList),
    get("/tasks/{id}", Operation::TaskInspect),
    get("/tasks/{id}/logs", Operation::TaskLogs).since(29),
    get("/secrets", Operation::SecretList).since(25),
    post("/secrets/create", Operation::SecretCreate).since(25),
    get("/secrets/{id}", Operation::SecretInspect).since(25),
    delete("/secrets/{id}", Operation::SecretDelete).since(25),
    post("/secrets/{id}/update", Operation::SecretUpdate).since(25),
    get("/configs", Operation::ConfigList).since(30),
    post("/configs/create", Operation::ConfigCreate).since(30),
    get("/configs/{id}", Operation::ConfigInspect).since(30),
    delete("/configs/{id}", Operation::ConfigDelete).since(30),
    post("/configs/{id}/update", Operation::ConfigUpdate).since(30),
    // For whoever debugs the daemon
    get("/debug/vars", Operation::DebugVars),
    get("/debug/pprof/{profile}", Operation::DebugPprof),
    get("/debug/pprof/", Operation::DebugPprof),
];

/// A request's way through the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// What is asked.
    pub operation: Operation,
    /// What `{...}` stood for, in the template's order.
    pub names: Vec<String>,
}

impl Match {
    /// The first name; empty where the template has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// Finds the operation of a request; `None` is "page not found", also for a known path with another method.
/// `path` is percent-decoded and has no version prefix.
#[must_use]
pub fn find(method: Method, path: &str, version: ApiVersion) -> Option<Match> {
    let candidates = || ROUTES.iter().filter(|r| r.method == method && r.since <= version);
    if let Some(route) = candidates().find(|r| r.template == path) {
        return Some(Match { operation: route.operation, names: Vec::new() });
    }
    // A name would swallow the verb of a longer template: the one with more words of its own wins.
    candidates()
        .filter_map(|route| Some((route, capture(route.template, path)?)))
        .max_by_key(|(route, _)| route.template.len())
        .map(|(route, names)| Match { operation: route.operation, names })
}

/// What the names of `template` stand for in `path`: the first takes as many segments as the rest leaves.
fn capture(template: &str, path: &str) -> Option<Vec<String>> {
    let (prefix, rest) = template.split_once('{')?;
    let (_, suffix) = rest.split_once('}')?;
    let middle = path.strip_prefix(prefix)?;
    let (name, tail) = match suffix.split_once('{') {
        None => (middle.strip_suffix(suffix)?, None),
        // A second name is one segment at the end.
        Some((between, _)) => {
            let (head, last) = middle.rsplit_once('/')?;
            let name = head.strip_suffix(between.strip_suffix('/')?)?;
            (name, Some(last))
        }
    };
    let whole = |s: &str| !s.is_empty() && !s.starts_with('/') && !s.ends_with('/');
    if !whole(name) || !tail.is_none_or(whole) {
        return None;
    }
    Some(std::iter::once(name).chain(tail).map(str::to_owned).collect())
}

/// Splits `/v1.41/containers/json` into the version's text and the path; the version is `None` where the
/// path has none. A first segment that merely starts with `v` is no version.
#[must_use]
pub fn split_version(path: &str) -> (Option<&str>, &str) {
    let Some(rest) = path.strip_prefix("/v") else { return (None, path) };
    let end = rest.find('/').unwrap_or(rest.len());
    let (version, rest) = rest.split_at(end);
    if !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        (Some(version), rest)
    } else {
        (None, path)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(method: Method, path: &str, operation: Operation, names: &[&str]) {
        let found = find(method, path, ApiVersion::NEWEST).unwrap_or_else(|| panic!("{path} was not found"));
        assert_eq!(found.operation, operation, "{path}");
        assert_eq!(found.names, names, "{path}");
    }

    #[test]
    fn every_operation_has_a_route_and_every_route_finds_itself() {
        for operation in Operation::ALL {
            assert!(ROUTES.iter().any(|r| r.operation == *operation), "{operation} has no route");
        }
        for route in ROUTES {
            let path = route.template.replace("{checkpoint}", "cp1").replace("{profile}", "heap");
            let path = path.replace("{id}", "abc").replace("{name}", "abc");
            let found = find(route.method, &path, ApiVersion::NEWEST).expect(route.template);
            assert_eq!(found.operation, route.operation, "{}", route.template);
        }
    }

    #[test]
    fn no_two_lines_are_the_same() {
        for (i, a) in ROUTES.iter().enumerate() {
            for b in &ROUTES[i + 1..] {
                assert!(a.method != b.method || a.template != b.template, "{} is there twice", a.template);
            }
        }
    }

    #[test]
    fn names_hold_slashes_and_colons() {
        check(
            Method::Get,
            "/images/localhost:5000/a/b:t/json",
            Operation::ImageInspect,
            &["localhost:5000/a/b:t"],
        );
        check(Method::Post, "/images/localhost:5000/bb/push", Operation::ImagePush, &["localhost:5000/bb"]);
        check(Method::Get, "/images/get", Operation::ImageGetAll, &[]);
        check(Method::Get, "/images/get/get", Operation::ImageGet, &["get"]);
        check(Method::Get, "/images/json/json", Operation::ImageInspect, &["json"]);
        check(Method::Delete, "/images/a/json", Operation::ImageDelete, &["a/json"]);
        check(Method::Get, "/images/x@sha256:ab/history", Operation::ImageHistory, &["x@sha256:ab"]);
        check(Method::Get, "/distribution/reg:1/a/b/json", Operation::DistributionInspect, &["reg:1/a/b"]);
        check(Method::Get, "/plugins/a/b:latest/json", Operation::PluginInspect, &["a/b:latest"]);
        check(Method::Get, "/containers/x/attach/ws", Operation::ContainerAttachWebsocket, &["x"]);
        check(Method::Delete, "/containers/x/checkpoints/cp", Operation::CheckpointDelete, &["x", "cp"]);
        check(Method::Get, "/networks/", Operation::NetworkList, &[]);
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for (method, path) in [
            (Method::Get, "/nope"),
            (Method::Get, "/"),
            (Method::Get, ""),
            (Method::Get, "/containers//json"),
            (Method::Get, "/containers/create"),
            (Method::Post, "/containers/json"),
            (Method::Delete, "/containers/"),
            (Method::Put, "/containers/json"),
            (Method::Head, "/containers/json"),
            (Method::Get, "/containers/x/json/"),
        ] {
            assert_eq!(find(method, path, ApiVersion::NEWEST), None, "{path}");
        }
    }

    #[test]
    fn a_route_is_not_there_before_its_version() {
        assert!(find(Method::Put, "/volumes/v", ApiVersion::v1(41)).is_none());
        assert!(find(Method::Put, "/volumes/v", ApiVersion::v1(42)).is_some());
        assert!(find(Method::Post, "/containers/prune", ApiVersion::v1(24)).is_none());
    }

    #[test]
    fn the_version_is_split_off() {
        assert_eq!(split_version("/v1.41/info"), (Some("1.41"), "/info"));
        assert_eq!(split_version("/v1/info"), (Some("1"), "/info"));
        assert_eq!(split_version("/v1.41"), (Some("1.41"), ""));
        assert_eq!(split_version("/volumes/x"), (None, "/volumes/x"));
        assert_eq!(split_version("/version"), (None, "/version"));
        assert_eq!(split_version("/v/x"), (None, "/v/x"));
        assert_eq!(split_version("/_ping"), (None, "/_ping"));
    }

    proptest! {
        #[test]
        fn any_name_comes_back_whole(name in "[a-z0-9.:@_-]{1,20}(/[a-z0-9.:@_-]{1,20}){0,3}") {
            let found = find(Method::Post, &format!("/images/{name}/tag"), ApiVersion::NEWEST).unwrap();
            prop_assert_eq!(found.operation, Operation::ImageTag);
            prop_assert_eq!(found.name(), name);
        }

        #[test]
        fn no_path_panics(path in "\\PC{0,60}") {
            let (_, rest) = split_version(&path);
            for method in [Method::Get, Method::Head, Method::Post, Method::Put, Method::Delete] {
                if let Some(found) = find(method, rest, ApiVersion::NEWEST) {
                    prop_assert!(found.names.iter().all(|n| !n.is_empty()));
                }
            }
        }
    }
}
