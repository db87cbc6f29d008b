// SPDX-License-Identifier: Apache-2.0
//! From a request to its handler: the route, the version gate, the headers that every answer has.
//!
//! [`handler`] is the one table of what is done. An operation without a handler answers 501 with its name.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_api::{ApiVersion, Operation, Query, route};
use berth_domain::Error;
use http::{HeaderValue, Method, StatusCode, header};
use hyper::body::Incoming;
use tracing::Instrument as _;

use crate::api::{
    attach, build, commit, containers, containers_files, disk_usage, distribution, exec, images, networks,
    plugins, registry, search, swarm, system, system_check, volumes,
};
use crate::app::App;
use crate::http::{Answer, Call, RequestBody, Response, empty, error};

type Handled = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Handler = fn(Arc<App>, Call) -> Handled;

/// Numbers requests in the log.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Answers a request.
pub(crate) async fn handle(app: Arc<App>, request: http::Request<Incoming>) -> Response {
    let mut response = answer(app, request).await;
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static(crate::SERVER_HEADER));
    headers.insert("Api-Version", HeaderValue::from_static(crate::API_VERSION));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    response
}

async fn answer(app: Arc<App>, request: http::Request<Incoming>) -> Response {
    if request.method() == Method::OPTIONS {
        return empty(StatusCode::OK);
    }
    let path = berth_api::query::decode(request.uri().path(), false);
    let (asked, path) = route::split_version(&path);
    let method = berth_api::Method::parse(request.method().as_str());
    // A path that is not there in any version is "not found" before its version is looked at.
    let found = method.and_then(|m| Some((m, route::find(m, path, ApiVersion::NEWEST)?)));
    let Some((method, found)) = found else {
        tracing::debug!(method = %request.method(), path, "page not found");
        return error::page_not_found();
    };
    let version = match gate(asked, app.settings().min_api_version) {
        Ok(version) => version,
        Err(refused) => return refused.response(),
    };
    if route::find(method, path, version).as_ref() != Some(&found) {
        return error::page_not_found();
    }
    let span = tracing::info_span!(
        "request",
        operation = found.operation.name(),
        %version,
        id = REQUESTS.fetch_add(1, Ordering::Relaxed),
    );
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let call = Call::new(found, version, query, request.map(RequestBody::new));
    async move {
        tracing::debug!(name = call.name(), "request");
        let operation = call.operation;
        let answer = match handler(operation) {
            // In a task of its own: what was begun is finished though the client hangs up, and a bug costs one request.
            Some(handler) => tokio::spawn(handler(app, call).in_current_span())
                .await
                .unwrap_or_else(|e| Err(Error::internal("the request could not be handled").because(e))),
            None => Err(not_done(operation)),
        };
        answer.unwrap_or_else(|e| error::response(&e))
    }
    .instrument(span)
    .await
}

/// A version that is not spoken here.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    message: String,
    /// Clients older than 1.24 know no JSON errors.
    plain: bool,
}

impl Refused {
    fn response(self) -> Response {
        if self.plain {
            return crate::http::text(StatusCode::BAD_REQUEST, format!("{}\n", self.message));
        }
        error::json_message(StatusCode::BAD_REQUEST, self.message)
    }
}

/// Admits a version from the path.
fn gate(asked: Option<&str>, oldest: ApiVersion) -> Result<ApiVersion, Refused> {
    let Some(text) = asked else { return Ok(ApiVersion::NEWEST) };
    // `1` and `1.41.3` are compared as far as they go.
    let mut parts = text.split('.').map(|part| part.parse::<u16>().unwrap_or(u16::MAX));
    let version = ApiVersion { major: parts.next().unwrap_or(0), minor: parts.next().unwrap_or(0) };
    let plain = version < ApiVersion::OLDEST;
    if version < oldest {
        let message = format!(
            "client version {text} is too old. Minimum supported API version is {oldest}, please upgrade your client to a newer version"
        );
        return Err(Refused { message, plain });
    }
    if version > ApiVersion::NEWEST {
        let newest = ApiVersion::NEWEST;
        let message = format!("client version {text} is too new. Maximum supported API version is {newest}");
        return Err(Refused { message, plain });
    }
    Ok(version)
}

fn not_done(operation: Operation) -> Error {
    Error::not_implemented(format!("{operation} is not implemented by this version of Berth"))
}

macro_rules! to {
    ($handler:path) => {
        Some(|app, call| Box::pin($handler(app, call)))
    };
}

/// What is done, and by whom.
fn handler(operation: Operation) -> Option<Handler> {
    match operation {
        Operation::SystemAuth => to!(system::system_auth),
        Operation::SystemInfo => to!(system::system_info),
        Operation::SystemVersion => to!(system::system_version),
        Operation::SystemPing | Operation::SystemPingHead => to!(system::system_ping),
        Operation::SystemEvents => to!(system::system_events),
        Operation::SystemDataUsage => to!(disk_usage::system_data_usage),
        Operation::BerthSystemCheck => to!(system_check::berth_system_check),

        Operation::ContainerList => to!(containers::container_list),
        Operation::ContainerCreate => to!(containers::container_create),
        Operation::ContainerInspect => to!(containers::container_inspect),
        Operation::ContainerTop => to!(containers::container_top),
        Operation::ContainerLogs => to!(containers::container_logs),
        Operation::ContainerResize => to!(containers::container_resize),
        Operation::ContainerStart => to!(containers::container_start),
        Operation::ContainerStop => to!(containers::container_stop),
        Operation::ContainerRestart => to!(containers::container_restart),
        Operation::ContainerKill => to!(containers::container_kill),
        Operation::ContainerUpdate => to!(containers::container_update),
        Operation::ContainerRename => to!(containers::container_rename),
        Operation::ContainerPause => to!(containers::container_pause),
        Operation::ContainerUnpause => to!(containers::container_unpause),
        Operation::ContainerAttach => to!(attach::container_attach),
        Operation::ContainerWait => to!(containers::container_wait),
        Operation::ContainerDelete => to!(containers::container_delete),
        Operation::ContainerPrune => to!(containers::container_prune),
        Operation::ContainerChanges => to!(containers_files::container_changes),
        Operation::ContainerExport => to!(containers_files::container_export),
        Operation::ContainerStats => to!(containers_files::container_stats),
        Operation::ContainerAttachWebsocket => to!(attach::container_attach_websocket),
        Operation::ContainerArchiveInfo => to!(containers_files::container_archive_info),
        Operation::ContainerArchive => to!(containers_files::container_archive),
        Operation::PutContainerArchive => to!(containers_files::put_container_archive),

        Operation::ContainerExec => to!(exec::container_exec),
        Operation::ExecStart => to!(exec::exec_start),
        Operation::ExecResize => to!(exec::exec_resize),
        Operation::ExecInspect => to!(exec::exec_inspect),

        Operation::ImageList => to!(images::image_list),
        Operation::ImageCreate => to!(images::image_create),
        Operation::ImageInspect => to!(images::image_inspect),
        Operation::ImageHistory => to!(images::image_history),
        Operation::ImageTag => to!(images::image_tag),
        Operation::ImageDelete => to!(images::image_delete),
        Operation::ImageLoad => to!(images::image_load),
        Operation::ImagePrune => to!(images::image_prune),
        Operation::ImagePush => to!(registry::image_push),
        Operation::ImageSearch => to!(search::image_search),
        Operation::ImageCommit => to!(commit::image_commit),
        Operation::ImageAttestations => None,
        Operation::ImageGet => to!(registry::image_get),
        Operation::ImageGetAll => to!(registry::image_get_all),

        Operation::BuildPrune => to!(build::build_prune),
        Operation::ImageBuild | Operation::BuildCancel => None,
        Operation::Session | Operation::Grpc => None,

        Operation::NetworkList => to!(networks::network_list),
        Operation::NetworkInspect => to!(networks::network_inspect),
        Operation::NetworkDelete => to!(networks::network_delete),
        Operation::NetworkCreate => to!(networks::network_create),
        Operation::NetworkConnect => to!(networks::network_connect),
        Operation::NetworkDisconnect => to!(networks::network_disconnect),
        Operation::NetworkPrune => to!(networks::network_prune),

        Operation::VolumeList => to!(volumes::volume_list),
        Operation::VolumeCreate => to!(volumes::volume_create),
        Operation::VolumeInspect => to!(volumes::volume_inspect),
        Operation::VolumeDelete => to!(volumes::volume_delete),
        Operation::VolumePrune => to!(volumes::volume_prune),

        Operation::DistributionInspect => to!(distribution::distribution_inspect),

        Operation::PluginList => to!(plugins::plugin_list),
        Operation::PluginInspect
        | Operation::PluginDelete
        | Operation::PluginEnable
        | Operation::PluginDisable
        | Operation::PluginUpgrade
        | Operation::PluginPush
        | Operation::PluginSet => to!(plugins::no_such_plugin),
        Operation::GetPluginPrivileges | Operation::PluginPull | Operation::PluginCreate => None,

        Operation::SwarmLeave => to!(swarm::swarm_leave),
        Operation::SwarmInit | Operation::SwarmJoin => None,
        // A cluster volume is the only kind that can be updated.
        Operation::VolumeUpdate
        | Operation::SwarmInspect
        | Operation::SwarmUpdate
        | Operation::SwarmUnlockkey
        | Operation::SwarmUnlock
        | Operation::NodeList
        | Operation::NodeInspect
        | Operation::NodeDelete
        | Operation::NodeUpdate
        | Operation::ServiceList
        | Operation::ServiceCreate
        | Operation::ServiceInspect
        | Operation::ServiceDelete
        | Operation::ServiceUpdate
        | Operation::ServiceLogs
        | Operation::TaskList
        | Operation::TaskInspect
        | Operation::TaskLogs
        | Operation::SecretList
        | Operation::SecretCreate
        | Operation::SecretInspect
        | Operation::SecretDelete
        | Operation::SecretUpdate
        | Operation::ConfigList
        | Operation::ConfigCreate
        | Operation::ConfigInspect
        | Operation::ConfigDelete
        | Operation::ConfigUpdate => to!(swarm::not_a_manager),

        Operation::CheckpointList
        | Operation::CheckpointCreate
        | Operation::CheckpointDelete
        | Operation::DebugVars
        | Operation::DebugPprof => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn refused(asked: &str) -> (bool, String) {
        let refused = gate(Some(asked), ApiVersion::OLDEST).expect_err(asked);
        (refused.plain, refused.message)
    }

    #[test]
    fn versions_are_admitted_from_oldest_to_newest() {
        for (asked, version) in [(None, 55), (Some("1.24"), 24), (Some("1.55"), 55), (Some("1.41.3"), 41)] {
            assert_eq!(gate(asked, ApiVersion::OLDEST), Ok(ApiVersion::v1(version)), "{asked:?}");
        }
        for new in ["1.56", "2.0", "99999999.1"] {
            assert!(!refused(new).0, "{new}");
        }
        for old in ["1.23", "1", "0.9", "1.9"] {
            assert!(refused(old).0, "{old}");
        }
        assert_eq!(
            refused("1.56").1,
            "client version 1.56 is too new. Maximum supported API version is 1.55"
        );
        assert!(gate(Some("1.30"), ApiVersion::v1(40)).is_err_and(|r| !r.plain));
    }

    /// `cargo test -p berthd not_done -- --nocapture` shows what is left to do.
    #[test]
    fn not_done_yet() {
        let left: Vec<&str> =
            Operation::ALL.iter().filter(|o| handler(**o).is_none()).map(|o| o.name()).collect();
        println!("{} of {} operations answer 501: {}", left.len(), Operation::ALL.len(), left.join(", "));
        assert!(left.len() < Operation::ALL.len() / 3);
        let error = not_done(Operation::ImageBuild);
        assert_eq!(error.meaning(), berth_domain::Meaning::NotImplemented);
        assert!(error.to_string().contains("ImageBuild"));
    }
}
