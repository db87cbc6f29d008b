// SPDX-License-Identifier: Apache-2.0
//! The engine itself: the containers, and what all of them share.

use std::fs;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_api::types::container_create::HostConfig;
use berth_domain::{ContainerId, Error, IdMap, Result, Status};
use berth_runtime::{HostFacts, SeccompCache, spec};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cancel::Cancel;
use crate::config::EngineConfig;
use crate::events::Bus;
use crate::exec::Execs;
use crate::files::Syncer;
use crate::index::Index;
use crate::seam::Backends;
use crate::snapshot::Snapshot;
use crate::task::Task;

/// The container engine. Cheap to share; see the crate's documentation.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) defaults: spec::Defaults,
    pub(crate) backends: Backends,
    pub(crate) index: Arc<Index>,
    pub(crate) bus: Bus,
    pub(crate) execs: Execs,
    pub(crate) syncer: Syncer,
    pub(crate) seccomp: SeccompCache,
    /// How many containers restart policies may start at a time: a daemon that comes up must not drown its host.
    pub(crate) gate: Arc<Semaphore>,
    /// Raised when the engine is to end.
    pub(crate) closing: Cancel,
    pub(crate) pruning: tokio::sync::Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
    /// Whether our own init program lies where containers take it from.
    init_installed: Mutex<bool>,
    /// Whether there has been a container with links: nobody is looked for where there is none.
    pub(crate) has_links: AtomicBool,
    /// Of each mapping in use: what maps ids of mounts.
    pub(crate) user_namespaces: Mutex<Vec<(IdMap, Arc<OwnedFd>)>>,
    #[cfg(test)]
    pub(crate) faults: Mutex<Option<&'static str>>,
}

/// How many containers are in which state, for `info`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub all: usize,
    /// Running ones.
    pub running: usize,
    /// Paused ones.
    pub paused: usize,
    /// The rest.
    pub stopped: usize,
}

/// Starts by restart policies at a time.
const GATE: usize = 32;

/// How long an engine that ends waits for what is under way.
const FAREWELL: Duration = Duration::from_secs(10);

impl Engine {
    /// Opens the engine: reads the records back, finds what still runs, finishes what was interrupted, sweeps
    /// away what belongs to nobody, and applies restart policies once.
    ///
    /// # Errors
    ///
    /// The roots cannot be made or read. A container whose record is damaged is reported and left aside.
    pub async fn open(
        config: EngineConfig,
        images: berth_image::Images,
        networks: berth_network::Networks,
        volumes: berth_volume::Volumes,
        shims: berth_runtime::Shims,
        facts: HostFacts,
    ) -> Result<Arc<Self>> {
        let backends = Backends {
            images: Arc::new(images),
            networks: Arc::new(networks),
            volumes,
            shims: Arc::new(shims),
            facts,
        };
        Self::open_with(config, backends).await
    }

    pub(crate) async fn open_with(config: EngineConfig, backends: Backends) -> Result<Arc<Self>> {
        let defaults = spec::Defaults {
            cgroup_parent: config.cgroup_parent.clone(),
            cgroup_driver: config.cgroup_driver,
            ulimits: config.default_ulimits.clone(),
            shm_size: config.default_shm_size,
            no_new_privileges: config.no_new_privileges,
            seccomp_profile: config.seccomp_profile.clone(),
            init: config.init,
            init_path: Some(config.init_path.clone().unwrap_or_else(|| own_init(&config.data_root))),
        };
        make_roots(&config)?;
        let engine = Arc::new(Self {
            defaults,
            config,
            backends,
            index: Arc::default(),
            bus: Bus::new(),
            execs: Execs::default(),
            syncer: Syncer::start()?,
            seccomp: SeccompCache::new(),
            gate: Arc::new(Semaphore::new(GATE)),
            closing: Cancel::default(),
            pruning: tokio::sync::Mutex::new(()),
            tasks: Mutex::default(),
            init_installed: Mutex::default(),
            user_namespaces: Mutex::default(),
            has_links: AtomicBool::new(false),
            #[cfg(test)]
            faults: Mutex::default(),
        });
        let checked = Arc::clone(&engine);
        crate::files::blocking(move || checked.check_id_mapping()).await?;
        engine.recover().await?;
        engine.tell_of_other_users();
        Ok(engine)
    }

    /// Resolves a name (with or without its slash), an id or a unique beginning of one.
    ///
    /// # Errors
    ///
    /// `No such container: x`; several ids begin so.
    pub fn resolve(&self, name: &str) -> Result<ContainerId> {
        Ok(self.index.resolve(name)?.id.clone())
    }

    /// How many containers there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for handle in self.index.all() {
            counts.all += 1;
            match handle.now().state.status {
                Status::Running | Status::Restarting => counts.running += 1,
                Status::Paused => counts.paused += 1,
                Status::Created | Status::Removing | Status::Exited | Status::Dead => counts.stopped += 1,
            }
        }
        counts
    }

    /// All containers as they are now, in the order of their ids.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        self.index.all().iter().map(|handle| handle.now()).collect()
    }

    /// What this host can do, as it was found at start.
    #[must_use]
    pub fn host_facts(&self) -> &HostFacts {
        &self.backends.facts
    }

    /// Stops taking work and waits until what is under way is recorded. Containers go on running.
    pub async fn shutdown(&self) {
        self.closing.raise();
        self.bus.close();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            tracing::warn!("some containers' operations are given up in the middle");
        }
        let syncer = self.syncer.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || syncer.close()).await {
            tracing::error!(%error, "syncing records at the end");
        }
    }

    /// Runs a container's task.
    pub(crate) fn own(&self, task: Task) {
        use tracing::Instrument as _;
        let span = tracing::info_span!("container", id = task.now.id.short());
        self.background(task.run().instrument(span));
    }

    /// Runs something that outlives the request; it is joined at the engine's end.
    pub(crate) fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the engine ended badly");
            }
        }
        tasks.spawn(work);
    }

    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.config.data_root.join("containers")
    }

    pub(crate) fn removing_dir(&self) -> PathBuf {
        self.config.data_root.join("removing")
    }

    /// The layer below all images: mount points, so that no image needs to have them and no upper directory gets them.
    pub(crate) fn init_layer(&self) -> PathBuf {
        self.config.data_root.join("init-layer")
    }

    /// Makes our own init program ready for a container that asks for one: once in a daemon's life, so that it is this
    /// version's, and only when it is wanted. Blocking.
    pub(crate) fn ready_init(&self, host: &HostConfig) -> Result<()> {
        if self.config.init_path.is_some() || !host.init.unwrap_or(self.config.init) {
            return Ok(());
        }
        let mut installed = self.init_installed.lock().unwrap_or_else(PoisonError::into_inner);
        if !*installed {
            self.backends.shims.install_init(&own_init(&self.config.data_root))?;
            *installed = true;
        }
        Ok(())
    }

    /// The cgroup of a container's last run, or the one that its next run will have.
    pub(crate) fn cgroup_path(&self, now: &Snapshot) -> String {
        now.cgroup.as_deref().map_or_else(|| self.next_cgroup_path(now), str::to_owned)
    }

    /// The cgroup of a container's next run, as its spec will say.
    pub(crate) fn next_cgroup_path(&self, now: &Snapshot) -> String {
        self.cgroup_of(self.cgroup_parent(now), &now.id)
    }

    /// Below what a container's cgroup is made.
    pub(crate) fn cgroup_parent<'a>(&'a self, now: &'a Snapshot) -> &'a str {
        match &*now.host_config.resources.cgroup_parent {
            "" => &self.config.cgroup_parent,
            parent => parent,
        }
    }

    /// The cgroup that a container has below a parent. A parent that is none was refused at create; where one is left
    /// over from other settings, what is looked for is simply not there.
    pub(crate) fn cgroup_of(&self, parent: &str, id: &ContainerId) -> String {
        let path = self.config.cgroup_driver.path(parent, id.as_str());
        path.unwrap_or_else(|_| format!("/berth/{id}"))
    }

    /// Where tests make things fail.
    #[cfg(test)]
    pub(crate) fn fault(&self, step: &'static str) -> Result<()> {
        match *self.faults.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(failing) if failing == step => Err(Error::internal(format!("fault at {step}"))),
            _ => Ok(()),
        }
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    pub(crate) fn fault(&self, _step: &'static str) -> Result<()> {
        Ok(())
    }
}

/// Not beneath the exec root: /run is often mounted without the right to execute.
fn own_init(data_root: &Path) -> PathBuf {
    data_root.join("docker-init")
}

fn make_roots(config: &EngineConfig) -> Result<()> {
    let make = |path: &Path, mode: u32| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .map_err(|error| Error::io("making", path, error))
    };
    make(&config.data_root, 0o710)?;
    make(&config.exec_root, 0o711)?;
    make(&config.data_root.join("containers"), 0o710)?;
    make(&config.data_root.join("removing"), 0o700)?;
    make(&config.exec_root.join("containers"), 0o711)?;
    let layer = config.data_root.join("init-layer");
    for dir in ["", "dev", "dev/pts", "dev/shm", "proc", "sys", "etc"] {
        make(&layer.join(dir), 0o755)?;
    }
    for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf", ".dockerenv"] {
        let path = layer.join(file);
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|error| Error::io("making", &path, error))?;
    }
    let mtab = layer.join("etc/mtab");
    match symlink("/proc/mounts", &mtab) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("making", &mtab, error)),
        _ => Ok(()),
    }
}
