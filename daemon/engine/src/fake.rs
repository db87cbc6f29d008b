// SPDX-License-Identifier: Apache-2.0
//! Stand-ins for the crates below, for tests: they keep books of what is held, fail where they are told to, and let the
//! test decide when a container ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::any::Any;
use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use berth_api::types::container_create::ContainerCreateBody;
use berth_domain::{ContainerId, Error, IdMap, ImageId, Platform, Result};
use berth_image::{CommitRequest, Committed, RemoveOptions, Removed};
use berth_network::{
    EndpointRecord, EndpointRequest, Mode, NetworkRecord, NetworkRequest, NetworkView, Sandbox,
    SandboxRecord, SandboxRequest,
};
use berth_runtime::link::HeldFds;
use berth_runtime::{HostFacts, Scope, ShimError, ShimEvent};
use berth_shim_proto::{Attach, Exec, ExitRecord, Failure, FailureKind, Launch, State, Target};
use tokio::sync::{Notify, mpsc, watch};

use crate::record::StateRecord;
use crate::seam::{Backends, Found, Fut, ImageFacts, ImageUsers, Images, Networks, Shim, Shims};
use crate::{Engine, EngineConfig};

/// The one image there is.
pub(crate) const IMAGE: &str = "busybox";

#[derive(Debug)]
pub(crate) struct FakeImages {
    layer: PathBuf,
    config: serde_json::Value,
}

fn image_id() -> ImageId {
    ImageId::from_sha256([7; 32])
}

impl Images for FakeImages {
    fn resolve(&self, name: &str) -> Result<ImageId> {
        match name {
            "busybox" | "busybox:latest" => Ok(image_id()),
            other => Err(Error::not_found(format!("No such image: {other}:latest"))),
        }
    }

    fn facts(&self, _id: &ImageId) -> Result<ImageFacts> {
        let config = serde_json::from_value(self.config.clone()).unwrap();
        Ok(ImageFacts { platform: Platform::host(), config, size: 1000 })
    }

    fn layers(&self, _id: &ImageId) -> Result<Vec<PathBuf>> {
        Ok(vec![self.layer.clone()])
    }

    fn lease(&self, _id: &ImageId) -> Result<Box<dyn Any + Send + Sync>> {
        Ok(Box::new(()))
    }

    fn remove(&self, _name: &str, options: RemoveOptions, users: ImageUsers) -> Result<Vec<Removed>> {
        if users(&image_id()).is_empty() || options.force {
            Ok(vec![Removed::Untagged("busybox:latest".into()), Removed::Deleted(image_id().to_string())])
        } else {
            Err(Error::conflict("in use"))
        }
    }

    fn commit(&self, _request: CommitRequest, mut layer: Box<dyn Read + Send>) -> Result<Committed> {
        let size =
            std::io::copy(&mut layer, &mut std::io::sink()).map_err(|e| Error::invalid(e.to_string()))?;
        Ok(Committed { id: image_id(), size })
    }

    fn collect(&self, _users: ImageUsers) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakeNetworks {
    pub(crate) sandboxes: Mutex<BTreeSet<String>>,
    pub(crate) adopted: Mutex<Vec<String>>,
    pub(crate) swept: Mutex<Option<Vec<String>>>,
    pub(crate) fail: AtomicBool,
    pub(crate) hang: AtomicBool,
}

impl Networks for FakeNetworks {
    fn create<'a>(&'a self, id: &'a ContainerId, request: SandboxRequest) -> Fut<'a, Result<Sandbox>> {
        Box::pin(async move {
            self.sandboxes.lock().unwrap().insert(id.to_string());
            if self.hang.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.fail.load(Ordering::SeqCst) {
                self.sandboxes.lock().unwrap().remove(id.as_str());
                return Err(Error::not_found("network nonet not found"));
            }
            let endpoint = |name: &str| EndpointRecord {
                network_id: format!("{name:0>64}"),
                network_name: name.to_owned(),
                endpoint_id: "e".repeat(64),
                ipv4: Some([172, 17, 0, 2].into()),
                ipv4_prefix: 16,
                gateway: None,
                ipv6: None,
                ipv6_prefix: 0,
                ipv6_gateway: None,
                mac: None,
                link: None,
                interface: None,
                asked_ipv4: None,
                asked_ipv6: None,
                links: Vec::new(),
                aliases: Vec::new(),
                options: std::collections::BTreeMap::new(),
                gateway_priority: 0,
            };
            let endpoints = match request.mode {
                Mode::Networks(asked) => asked.iter().map(|e| endpoint(&e.network)).collect(),
                _ => Vec::new(),
            };
            let record = SandboxRecord {
                sandbox_id: "5".repeat(64),
                name: request.name,
                endpoints,
                ports: Vec::new(),
                ..SandboxRecord::default()
            };
            Ok(Sandbox { netns: None, userns: None, record, held: Vec::new() })
        })
    }

    fn adopt<'a>(
        &'a self,
        id: &'a ContainerId,
        _record: SandboxRecord,
        _netns: Option<OwnedFd>,
        _held: Vec<(String, OwnedFd)>,
    ) -> Fut<'a, Result<()>> {
        self.sandboxes.lock().unwrap().insert(id.to_string());
        self.adopted.lock().unwrap().push(id.to_string());
        Box::pin(async { Ok(()) })
    }

    fn release<'a>(&'a self, id: &'a ContainerId) -> Fut<'a, ()> {
        self.sandboxes.lock().unwrap().remove(id.as_str());
        Box::pin(async {})
    }

    fn sweep<'a>(&'a self, live: &'a [ContainerId]) -> Fut<'a, Result<()>> {
        *self.swept.lock().unwrap() = Some(live.iter().map(ToString::to_string).collect());
        Box::pin(async { Ok(()) })
    }

    fn driver(&self, _network: &str) -> String {
        "bridge".into()
    }

    fn gateway(&self, _network: &str) -> Option<IpAddr> {
        Some([172, 17, 0, 1].into())
    }

    fn connect<'a>(
        &'a self,
        _id: &'a ContainerId,
        _netns: BorrowedFd<'a>,
        _request: EndpointRequest,
    ) -> Fut<'a, Result<SandboxRecord>> {
        Box::pin(async { Err(Error::not_implemented("the tests' networks are not joined later")) })
    }

    fn disconnect<'a>(
        &'a self,
        _id: &'a ContainerId,
        _netns: BorrowedFd<'a>,
        _network: &'a str,
    ) -> Fut<'a, Result<SandboxRecord>> {
        Box::pin(async { Err(Error::not_implemented("the tests' networks are not left")) })
    }

    fn network_create(&self, _request: NetworkRequest) -> Fut<'_, Result<Arc<NetworkRecord>>> {
        Box::pin(async { Err(Error::not_implemented("the tests make no networks")) })
    }

    fn network_remove<'a>(&'a self, name: &'a str) -> Fut<'a, Result<Arc<NetworkRecord>>> {
        Box::pin(async move { Err(Error::not_found(format!("network {name} not found"))) })
    }

    fn networks(&self) -> Vec<NetworkView> {
        Vec::new()
    }

    fn network(&self, name: &str) -> Result<NetworkView> {
        Err(Error::not_found(format!("network {name} not found")))
    }

    fn rename(&self, _id: &ContainerId, _name: &str) {}
}

/// How launches go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Launching {
    #[default]
    Works,
    Hangs,
    NotFound,
}

#[derive(Debug, Default)]
pub(crate) struct FakeShims {
    pub(crate) shims: Mutex<Vec<Arc<FakeShim>>>,
    pub(crate) launching: Mutex<Launching>,
    pub(crate) fail_spawn: AtomicBool,
    pub(crate) ignores_term: AtomicBool,
    /// What a new daemon finds.
    pub(crate) left: Mutex<HashMap<String, Left>>,
    pub(crate) changed: Arc<Notify>,
}

/// What an earlier daemon left.
#[derive(Debug)]
pub(crate) enum Left {
    Alive { launched: bool },
    Ended(i32),
    Lost,
}

#[derive(Debug)]
pub(crate) struct FakeShim {
    events: mpsc::Sender<ShimEvent>,
    receiver: Mutex<Option<mpsc::Receiver<ShimEvent>>>,
    launching: Launching,
    ignores_term: bool,
    pub(crate) launch: Mutex<Option<Launch>>,
    pub(crate) signals: Mutex<Vec<i32>>,
    /// A record to look at whenever a signal comes, and what it said then.
    pub(crate) watched: Mutex<Option<PathBuf>>,
    pub(crate) seen: Mutex<Vec<Option<StateRecord>>>,
    pub(crate) attached: Mutex<Vec<Attach>>,
    pub(crate) gone: watch::Sender<bool>,
    launched: bool,
}

impl FakeShim {
    fn new(launching: Launching, ignores_term: bool, launched: bool) -> Arc<Self> {
        let (events, receiver) = mpsc::channel(16);
        Arc::new(Self {
            events,
            receiver: Mutex::new(Some(receiver)),
            launching,
            ignores_term,
            launch: Mutex::default(),
            signals: Mutex::default(),
            watched: Mutex::default(),
            seen: Mutex::default(),
            attached: Mutex::default(),
            gone: watch::Sender::new(false),
            launched,
        })
    }

    /// The container ends.
    pub(crate) fn exit(&self, code: i32) {
        let record =
            ExitRecord { code, oom_killed: false, exited_at: crate::events::now(), execs: Vec::new() };
        self.tell(ShimEvent::Exited(record));
        self.vanish();
    }

    /// The shim ends.
    pub(crate) fn vanish(&self) {
        if !self.gone.send_replace(true) {
            self.tell(ShimEvent::Gone);
        }
    }

    pub(crate) fn tell(&self, event: ShimEvent) {
        // Nobody reads the events of a shim that was given up.
        let _unread = self.events.try_send(event).is_err();
    }
}

fn failed<T: Send + 'static>(kind: FailureKind, message: &str) -> Fut<'static, Result<T, ShimError>> {
    let failure = Failure { kind, message: message.to_owned() };
    Box::pin(async move { Err(ShimError::Failed(failure)) })
}

fn done<T: Send + 'static>(value: T) -> Fut<'static, Result<T, ShimError>> {
    Box::pin(async move { Ok(value) })
}

impl Shim for FakeShim {
    fn events(&self) -> Option<mpsc::Receiver<ShimEvent>> {
        self.receiver.lock().unwrap().take()
    }

    fn launch<'a>(
        &'a self,
        launch: Launch,
        _fds: Vec<BorrowedFd<'a>>,
    ) -> Fut<'a, Result<(i32, Vec<String>), ShimError>> {
        *self.launch.lock().unwrap() = Some(launch);
        match self.launching {
            Launching::Works => done((4242, Vec::new())),
            Launching::Hangs => Box::pin(std::future::pending()),
            Launching::NotFound => {
                failed(FailureKind::CommandNotFound, "exec: \"x\": executable file not found in $PATH")
            }
        }
    }

    fn attach<'a>(&'a self, attach: Attach, _stream: BorrowedFd<'a>) -> Fut<'a, Result<(), ShimError>> {
        self.attached.lock().unwrap().push(attach);
        done(())
    }

    fn exec<'a>(&'a self, exec: Exec, _stream: Option<BorrowedFd<'a>>) -> Fut<'a, Result<i32, ShimError>> {
        if exec.process["args"][0] == "nosuch" {
            return failed(
                FailureKind::CommandNotFound,
                "exec: \"nosuch\": executable file not found in $PATH",
            );
        }
        done(4343)
    }

    fn resize(&self, _target: Target, _height: u16, _width: u16) -> Fut<'_, Result<(), ShimError>> {
        done(())
    }

    fn signal(&self, _target: Target, signal: i32, _all: bool) -> Fut<'_, Result<(), ShimError>> {
        self.signals.lock().unwrap().push(signal);
        if let Some(path) = &*self.watched.lock().unwrap() {
            self.seen.lock().unwrap().push(crate::record::read(path).ok());
        }
        if signal == 9 || (signal == 15 && !self.ignores_term) {
            self.exit(128 + signal);
        }
        done(())
    }

    fn freeze(&self, _frozen: bool) -> Fut<'_, Result<(), ShimError>> {
        done(())
    }

    fn state(&self) -> Fut<'_, Result<State, ShimError>> {
        done(State {
            init: self.launched.then_some(4242),
            exited: None,
            execs: Vec::new(),
            exec_pids: Vec::new(),
            frozen: false,
        })
    }

    fn held(&self) -> Fut<'_, Result<HeldFds, ShimError>> {
        done(HeldFds { netns: None, fds: Vec::new() })
    }

    fn update(&self, _resources: serde_json::Value) -> Fut<'_, Result<(), ShimError>> {
        done(())
    }

    fn kill(&self) {
        self.vanish();
    }
}

impl FakeShims {
    /// The shim that was spawned or found last.
    pub(crate) fn last(&self) -> Arc<FakeShim> {
        Arc::clone(self.shims.lock().unwrap().last().expect("a shim was spawned"))
    }

    /// Waits until so many were spawned or found.
    pub(crate) async fn nth(&self, n: usize) -> Arc<FakeShim> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(shim) = self.shims.lock().unwrap().get(n - 1) {
                return Arc::clone(shim);
            }
            changed.await;
        }
    }

    fn add(&self, shim: &Arc<FakeShim>) {
        self.shims.lock().unwrap().push(Arc::clone(shim));
        self.changed.notify_waiters();
    }
}

impl Shims for FakeShims {
    fn found(&self, _map: &IdMap) -> Result<OwnedFd> {
        Err(Error::internal("no user namespaces"))
    }

    fn install_init(&self, _path: &Path) -> Result<()> {
        Ok(())
    }

    fn spawn<'a>(&'a self, _id: &'a ContainerId, _run_dir: &'a Path) -> Fut<'a, Result<Arc<dyn Shim>>> {
        Box::pin(async move {
            if self.fail_spawn.load(Ordering::SeqCst) {
                return Err(Error::internal("no process"));
            }
            let launching = *self.launching.lock().unwrap();
            let shim = FakeShim::new(launching, self.ignores_term.load(Ordering::SeqCst), false);
            self.add(&shim);
            let shim: Arc<dyn Shim> = shim;
            Ok(shim)
        })
    }

    fn scope<'a>(
        &'a self,
        _id: &'a ContainerId,
        _slice: &'a str,
        _cgroup: &'a str,
    ) -> Fut<'a, Result<Option<Scope>>> {
        Box::pin(async { Ok(None) })
    }

    fn connect<'a>(&'a self, id: &'a ContainerId, _run_dir: &'a Path) -> Fut<'a, Result<Found>> {
        Box::pin(async move {
            Ok(match self.left.lock().unwrap().get(id.as_str()) {
                Some(Left::Alive { launched }) => {
                    let shim = FakeShim::new(Launching::Works, false, *launched);
                    self.add(&shim);
                    Found::Alive(shim)
                }
                Some(Left::Ended(code)) => Found::Ended(ExitRecord {
                    code: *code,
                    oom_killed: false,
                    exited_at: crate::events::now(),
                    execs: Vec::new(),
                }),
                Some(Left::Lost) | None => Found::Lost(None),
            })
        })
    }
}

/// An engine on stand-ins, in a directory of its own.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) engine: Arc<Engine>,
    pub(crate) networks: Arc<FakeNetworks>,
    pub(crate) shims: Arc<FakeShims>,
    pub(crate) root: Arc<tempfile::TempDir>,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::open(Arc::new(tempfile::tempdir().unwrap()), Arc::default()).await
    }

    async fn open(root: Arc<tempfile::TempDir>, shims: Arc<FakeShims>) -> Self {
        let layer = root.path().join("layer");
        std::fs::create_dir_all(&layer).unwrap();
        let config = serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": {"from": "image"}});
        let images = Arc::new(FakeImages { layer, config });
        let networks = Arc::new(FakeNetworks::default());
        let mut config = EngineConfig::new(root.path().join("data"), root.path().join("run"));
        config.cgroup_parent = "/berth-unit-test".into();
        let volumes = berth_volume::Volumes::open(&root.path().join("data/volumes")).unwrap();
        let backends = Backends {
            images: images as Arc<dyn Images>,
            networks: Arc::clone(&networks) as Arc<dyn Networks>,
            volumes,
            shims: Arc::clone(&shims) as Arc<dyn Shims>,
            facts: HostFacts::probe().unwrap(),
        };
        let engine = Engine::open_with(config, backends).await.unwrap();
        Self { engine, networks, shims, root }
    }

    /// A new daemon after the old one was killed, which finds what `left` says.
    pub(crate) async fn restart(self, left: impl IntoIterator<Item = (ContainerId, Left)>) -> Self {
        let shims = Arc::new(FakeShims::default());
        *shims.left.lock().unwrap() = left.into_iter().map(|(id, left)| (id.to_string(), left)).collect();
        // The old engine ends without a chance to say anything; its tasks see the flag and go.
        self.engine.shutdown().await;
        Self::open(Arc::clone(&self.root), shims).await
    }

    pub(crate) async fn create(&self, name: &str, body: serde_json::Value) -> ContainerId {
        self.try_create(name, body).await.expect("create").id
    }

    pub(crate) async fn try_create(&self, name: &str, mut body: serde_json::Value) -> Result<crate::Created> {
        if body.get("Image").is_none() {
            body["Image"] = IMAGE.into();
        }
        let body: ContainerCreateBody = serde_json::from_value(body).expect("a body");
        self.engine.container_create(Some(name.to_owned()).filter(|n| !n.is_empty()), None, body).await
    }

    /// Waits until a container looks as wanted.
    pub(crate) async fn until(&self, name: &str, looks: impl FnMut(&Arc<crate::Snapshot>) -> bool) {
        let mut snapshot = self.engine.index.resolve(name).expect("a container").snapshot.clone();
        let wait = snapshot.wait_for(looks);
        tokio::time::timeout(std::time::Duration::from_secs(20), wait)
            .await
            .expect("in time")
            .expect("alive");
    }

    /// Nothing of a start is left.
    pub(crate) fn check_nothing_left(&self, id: &ContainerId) {
        assert!(self.networks.sandboxes.lock().unwrap().is_empty(), "a sandbox is left");
        for shim in self.shims.shims.lock().unwrap().iter() {
            assert!(*shim.gone.borrow(), "a shim is left");
        }
        let run_dir = self.root.path().join("run/containers").join(id.as_str());
        assert!(!run_dir.exists(), "the run directory is left");
    }
}
