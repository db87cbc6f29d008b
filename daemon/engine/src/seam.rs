// SPDX-License-Identifier: Apache-2.0
//! What the engine needs of the crates below it that reach for the kernel or the network: narrow traits, so that the
//! whole life of a container can be tested, step by failing step, without either.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use berth_api::types::container_create::ContainerConfig;
use berth_domain::{ContainerId, IdMap, ImageId, Platform, Result};
use berth_image::{CommitRequest, Committed, ImageUse, RemoveOptions, Removed};
use berth_network::{
    EndpointRequest, NetworkRecord, NetworkRequest, NetworkView, Sandbox, SandboxRecord, SandboxRequest,
};
use berth_runtime::link::HeldFds;
use berth_runtime::{Scope, ShimError, ShimEvent};
use berth_shim_proto::{Attach, Exec, ExitRecord, Launch, PidRecord, State, Target};
use tokio::sync::mpsc;

/// A future behind a trait object.
pub(crate) type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What create and start need to know of an image.
#[derive(Debug, Clone)]
pub(crate) struct ImageFacts {
    /// What it is for.
    pub(crate) platform: Platform,
    /// Its `config`, in the API's shape.
    pub(crate) config: ContainerConfig,
    /// Bytes of its layers.
    pub(crate) size: u64,
}

/// Tells who uses an image.
pub(crate) type ImageUsers = Arc<dyn Fn(&ImageId) -> Vec<ImageUse> + Send + Sync>;

/// Images.
pub(crate) trait Images: Send + Sync + fmt::Debug {
    /// The image of a name, id or unique beginning of an id.
    fn resolve(&self, name: &str) -> Result<ImageId>;
    /// What is known of it.
    fn facts(&self, id: &ImageId) -> Result<ImageFacts>;
    /// Its layers, topmost first.
    fn layers(&self, id: &ImageId) -> Result<Vec<PathBuf>>;
    /// The image itself and those that it was made of by commits, nearest first.
    fn lineage(&self, id: &ImageId) -> Vec<ImageId> {
        vec![id.clone()]
    }
    /// Keeps it from being collected until dropped.
    fn lease(&self, id: &ImageId) -> Result<Box<dyn Any + Send + Sync>>;
    /// Removes it. Blocking.
    fn remove(&self, name: &str, options: RemoveOptions, users: ImageUsers) -> Result<Vec<Removed>>;
    /// Makes an image of a container's files. Blocking.
    fn commit(&self, request: CommitRequest, layer: Box<dyn Read + Send>) -> Result<Committed>;
    /// Lets go of removed images that no container uses any more. Blocking.
    fn collect(&self, users: ImageUsers) -> Result<()>;
}

/// Networks.
pub(crate) trait Networks: Send + Sync + fmt::Debug {
    /// Makes a sandbox: whole or not at all.
    fn create<'a>(&'a self, id: &'a ContainerId, request: SandboxRequest) -> Fut<'a, Result<Sandbox>>;
    /// Takes one back.
    fn adopt<'a>(
        &'a self,
        id: &'a ContainerId,
        record: SandboxRecord,
        netns: Option<OwnedFd>,
        held: Vec<(String, OwnedFd)>,
    ) -> Fut<'a, Result<()>>;
    /// Gives one up.
    fn release<'a>(&'a self, id: &'a ContainerId) -> Fut<'a, ()>;
    /// Removes what belongs to nobody.
    fn sweep<'a>(&'a self, live: &'a [ContainerId]) -> Fut<'a, Result<()>>;
    /// The kind of a network, for its events.
    fn driver(&self, network: &str) -> String;
    /// Its gateway, which `host-gateway` stands for.
    fn gateway(&self, network: &str) -> Option<std::net::IpAddr>;
    /// Puts a running container on one more network; answers the sandbox as it is then.
    fn connect<'a>(
        &'a self,
        id: &'a ContainerId,
        netns: BorrowedFd<'a>,
        request: EndpointRequest,
    ) -> Fut<'a, Result<SandboxRecord>>;
    /// Takes a running container off a network; answers the sandbox as it is then.
    fn disconnect<'a>(
        &'a self,
        id: &'a ContainerId,
        netns: BorrowedFd<'a>,
        network: &'a str,
    ) -> Fut<'a, Result<SandboxRecord>>;
    /// Makes a network.
    fn network_create(&self, request: NetworkRequest) -> Fut<'_, Result<Arc<NetworkRecord>>>;
    /// Removes one that nobody is on.
    fn network_remove<'a>(&'a self, name: &'a str) -> Fut<'a, Result<Arc<NetworkRecord>>>;
    /// All of them, in the order of their names.
    fn networks(&self) -> Vec<NetworkView>;
    /// The network of a name, id or unique beginning of an id.
    fn network(&self, name: &str) -> Result<NetworkView>;
    /// A container has another name.
    fn rename(&self, id: &ContainerId, name: &str);
}

/// Shims, to be had.
pub(crate) trait Shims: Send + Sync + fmt::Debug {
    /// Starts one.
    fn spawn<'a>(&'a self, id: &'a ContainerId, run_dir: &'a Path) -> Fut<'a, Result<Arc<dyn Shim>>>;
    /// Makes a user namespace. Blocking.
    fn found(&self, map: &IdMap) -> Result<OwnedFd>;
    /// Writes the program that is the init of containers which ask for one. Blocking.
    fn install_init(&self, path: &Path) -> Result<()>;
    /// Has systemd make the scope that a container's group is in; to be kept until init runs.
    fn scope<'a>(
        &'a self,
        id: &'a ContainerId,
        slice: &'a str,
        cgroup: &'a str,
    ) -> Fut<'a, Result<Option<Scope>>>;
    /// Finds one, or what it left.
    fn connect<'a>(&'a self, id: &'a ContainerId, run_dir: &'a Path) -> Fut<'a, Result<Found>>;
}

/// What is left of a container at daemon start.
#[derive(Debug)]
pub(crate) enum Found {
    /// Its shim lives.
    Alive(Arc<dyn Shim>),
    /// Its shim has gone and left this.
    Ended(ExitRecord),
    /// Its shim has gone without a record.
    Lost(Option<PidRecord>),
}

/// A shim.
pub(crate) trait Shim: Send + Sync + fmt::Debug {
    /// Its events, once.
    fn events(&self) -> Option<mpsc::Receiver<ShimEvent>>;
    /// Starts the container; answers init's pid and warnings.
    fn launch<'a>(
        &'a self,
        launch: Launch,
        fds: Vec<BorrowedFd<'a>>,
    ) -> Fut<'a, Result<(i32, Vec<String>), ShimError>>;
    /// Joins a stream.
    fn attach<'a>(&'a self, attach: Attach, stream: BorrowedFd<'a>) -> Fut<'a, Result<(), ShimError>>;
    /// Starts a further process; answers its pid.
    fn exec<'a>(&'a self, exec: Exec, stream: Option<BorrowedFd<'a>>) -> Fut<'a, Result<i32, ShimError>>;
    /// Sets a terminal's size.
    fn resize(&self, target: Target, height: u16, width: u16) -> Fut<'_, Result<(), ShimError>>;
    /// Sends a signal.
    fn signal(&self, target: Target, signal: i32, all: bool) -> Fut<'_, Result<(), ShimError>>;
    /// Freezes or thaws.
    fn freeze(&self, frozen: bool) -> Fut<'_, Result<(), ShimError>>;
    /// What runs.
    fn state(&self) -> Fut<'_, Result<State, ShimError>>;
    /// What it holds.
    fn held(&self) -> Fut<'_, Result<HeldFds, ShimError>>;
    /// Replaces limits.
    fn update(&self, resources: serde_json::Value) -> Fut<'_, Result<(), ShimError>>;
    /// Kills init and the shim from outside.
    fn kill(&self);
}

/// All of them.
#[derive(Debug, Clone)]
pub(crate) struct Backends {
    pub(crate) images: Arc<dyn Images>,
    pub(crate) networks: Arc<dyn Networks>,
    pub(crate) volumes: berth_volume::Volumes,
    pub(crate) shims: Arc<dyn Shims>,
    pub(crate) facts: berth_runtime::HostFacts,
}
