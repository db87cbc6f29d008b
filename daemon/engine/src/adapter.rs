// SPDX-License-Identifier: Apache-2.0
//! The seam's traits over the real crates.

use std::any::Any;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_api::types::container_create::ContainerConfig;
use berth_domain::{ContainerId, Error, IdMap, ImageId, Result};
use berth_image::{CommitRequest, Committed, RemoveOptions, Removed};
use berth_network::{
    EndpointRequest, NetworkRecord, NetworkRequest, NetworkView, Sandbox, SandboxRecord, SandboxRequest,
};
use berth_runtime::link::{Adoption, HeldFds};
use berth_runtime::{Scope, ShimError, ShimEvent};
use berth_shim_proto::{Attach, Exec, Launch, State, Target};
use serde::Deserialize as _;
use tokio::sync::mpsc;

use crate::seam::{Found, Fut, ImageFacts, ImageUsers, Images, Networks, Shim, Shims};

impl Images for berth_image::Images {
    fn resolve(&self, name: &str) -> Result<ImageId> {
        berth_image::Images::resolve(self, name)
    }

    fn lineage(&self, id: &ImageId) -> Vec<ImageId> {
        // Bounded, should records ever go round in a circle.
        const LONGEST: usize = 1000;
        let parent = |id: &ImageId| self.image(id).ok().and_then(|image| image.parent.clone());
        std::iter::successors(Some(id.clone()), parent).take(LONGEST).collect()
    }

    fn facts(&self, id: &ImageId) -> Result<ImageFacts> {
        let image = self.image(id)?;
        let config = match image.raw_config.get("config") {
            None | Some(serde_json::Value::Null) => ContainerConfig::default(),
            Some(config) => ContainerConfig::deserialize(config)
                .map_err(|error| Error::invalid(format!("the config of image {id} is not valid: {error}")))?,
        };
        Ok(ImageFacts { platform: image.platform.clone(), config, size: image.size })
    }

    fn layers(&self, id: &ImageId) -> Result<Vec<PathBuf>> {
        berth_image::Images::layers(self, id)
    }

    fn lease(&self, id: &ImageId) -> Result<Box<dyn Any + Send + Sync>> {
        Ok(Box::new(berth_image::Images::lease(self, id)?))
    }

    fn remove(&self, name: &str, options: RemoveOptions, users: ImageUsers) -> Result<Vec<Removed>> {
        berth_image::Images::remove(self, name, options, |id| users(id))
    }

    fn commit(&self, request: CommitRequest, layer: Box<dyn Read + Send>) -> Result<Committed> {
        berth_image::Images::commit(self, request, layer)
    }

    fn collect(&self, users: ImageUsers) -> Result<()> {
        berth_image::Images::collect(self, |id| !users(id).is_empty())
    }
}

impl Networks for berth_network::Networks {
    fn create<'a>(&'a self, id: &'a ContainerId, request: SandboxRequest) -> Fut<'a, Result<Sandbox>> {
        Box::pin(self.sandbox_create(id, request))
    }

    fn adopt<'a>(
        &'a self,
        id: &'a ContainerId,
        record: SandboxRecord,
        netns: Option<OwnedFd>,
        held: Vec<(String, OwnedFd)>,
    ) -> Fut<'a, Result<()>> {
        Box::pin(self.sandbox_adopt(id, record, netns, held))
    }

    fn release<'a>(&'a self, id: &'a ContainerId) -> Fut<'a, ()> {
        Box::pin(self.sandbox_release(id))
    }

    fn sweep<'a>(&'a self, live: &'a [ContainerId]) -> Fut<'a, Result<()>> {
        Box::pin(berth_network::Networks::sweep(self, live))
    }

    fn driver(&self, network: &str) -> String {
        self.resolve(network).map(|network| network.driver.as_str().to_owned()).unwrap_or_default()
    }

    fn gateway(&self, network: &str) -> Option<IpAddr> {
        self.resolve(network).ok()?.ranges.iter().find_map(|range| range.gateway)
    }

    fn connect<'a>(
        &'a self,
        id: &'a ContainerId,
        netns: BorrowedFd<'a>,
        request: EndpointRequest,
    ) -> Fut<'a, Result<SandboxRecord>> {
        Box::pin(self.sandbox_connect(id, netns, request))
    }

    fn disconnect<'a>(
        &'a self,
        id: &'a ContainerId,
        netns: BorrowedFd<'a>,
        network: &'a str,
    ) -> Fut<'a, Result<SandboxRecord>> {
        Box::pin(self.sandbox_disconnect(id, netns, network))
    }

    fn network_create(&self, request: NetworkRequest) -> Fut<'_, Result<Arc<NetworkRecord>>> {
        Box::pin(berth_network::Networks::network_create(self, request))
    }

    fn network_remove<'a>(&'a self, name: &'a str) -> Fut<'a, Result<Arc<NetworkRecord>>> {
        Box::pin(berth_network::Networks::network_remove(self, name))
    }

    fn networks(&self) -> Vec<NetworkView> {
        self.list()
    }

    fn network(&self, name: &str) -> Result<NetworkView> {
        self.inspect(name)
    }

    fn rename(&self, id: &ContainerId, name: &str) {
        berth_network::Networks::rename(self, id, name);
    }
}

impl Shims for berth_runtime::Shims {
    fn spawn<'a>(&'a self, id: &'a ContainerId, run_dir: &'a Path) -> Fut<'a, Result<Arc<dyn Shim>>> {
        Box::pin(async move {
            let shim: Arc<dyn Shim> = Arc::new(berth_runtime::Shims::spawn(self, id, run_dir).await?);
            Ok(shim)
        })
    }

    fn found(&self, map: &IdMap) -> Result<OwnedFd> {
        Ok(berth_runtime::Shims::found(self, berth_runtime::link::Owner::New(map))?.user)
    }

    fn install_init(&self, path: &Path) -> Result<()> {
        berth_runtime::Shims::install_init(self, path)
    }

    fn scope<'a>(
        &'a self,
        id: &'a ContainerId,
        slice: &'a str,
        cgroup: &'a str,
    ) -> Fut<'a, Result<Option<Scope>>> {
        Box::pin(async move { berth_runtime::Shims::scope(self, id, slice, cgroup).await.map(Some) })
    }

    fn connect<'a>(&'a self, id: &'a ContainerId, run_dir: &'a Path) -> Fut<'a, Result<Found>> {
        Box::pin(async move {
            Ok(match berth_runtime::Shims::connect(self, id, run_dir).await? {
                Adoption::Alive(shim) => Found::Alive(Arc::new(shim)),
                Adoption::Ended(record) => Found::Ended(record),
                Adoption::Lost(pids) => Found::Lost(pids),
            })
        })
    }
}

impl Shim for berth_runtime::Shim {
    fn events(&self) -> Option<mpsc::Receiver<ShimEvent>> {
        berth_runtime::Shim::events(self)
    }

    fn launch<'a>(
        &'a self,
        launch: Launch,
        fds: Vec<BorrowedFd<'a>>,
    ) -> Fut<'a, Result<(i32, Vec<String>), ShimError>> {
        Box::pin(async move {
            let launched = berth_runtime::Shim::launch(self, launch, &fds).await?;
            Ok((launched.pid, launched.warnings))
        })
    }

    fn attach<'a>(&'a self, attach: Attach, stream: BorrowedFd<'a>) -> Fut<'a, Result<(), ShimError>> {
        Box::pin(berth_runtime::Shim::attach(self, attach, stream))
    }

    fn exec<'a>(&'a self, exec: Exec, stream: Option<BorrowedFd<'a>>) -> Fut<'a, Result<i32, ShimError>> {
        Box::pin(berth_runtime::Shim::exec(self, exec, stream))
    }

    fn resize(&self, target: Target, height: u16, width: u16) -> Fut<'_, Result<(), ShimError>> {
        Box::pin(berth_runtime::Shim::resize(self, target, height, width))
    }

    fn signal(&self, target: Target, signal: i32, all: bool) -> Fut<'_, Result<(), ShimError>> {
        Box::pin(berth_runtime::Shim::signal(self, target, signal, all))
    }

    fn freeze(&self, frozen: bool) -> Fut<'_, Result<(), ShimError>> {
        Box::pin(berth_runtime::Shim::freeze(self, frozen))
    }

    fn state(&self) -> Fut<'_, Result<State, ShimError>> {
        Box::pin(berth_runtime::Shim::state(self))
    }

    fn held(&self) -> Fut<'_, Result<HeldFds, ShimError>> {
        Box::pin(berth_runtime::Shim::held(self))
    }

    fn update(&self, resources: serde_json::Value) -> Fut<'_, Result<(), ShimError>> {
        Box::pin(berth_runtime::Shim::update(self, resources))
    }

    fn kill(&self) {
        berth_runtime::Shim::kill(self);
    }
}
