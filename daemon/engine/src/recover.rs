// SPDX-License-Identifier: Apache-2.0
//! What a daemon that comes up makes of what an earlier one left.
//!
//! | found | then |
//! |---|---|
//! | a directory without `config.json` | half a create: removed |
//! | a record that cannot be read | reported and left aside; the rest goes on |
//! | a shim that lives and launched | the container runs: streams, sandbox and execs are taken back |
//! | a shim that lives and launched nothing | an interrupted start: undone |
//! | an exit record, and the state says that it ran | it ended meanwhile, with that code |
//! | neither, and the state says that it ran | it ended with code 255; what is left of it is killed |
//!
//! Restart policies apply once, after everything is known.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_domain::{ContainerId, Error, Result, Status};
use berth_runtime::spec;
use berth_shim_proto::{ExitRecord, PidRecord, State as ShimState};
use berth_sys::pidfd::PidFd;
use berth_volume::MountType;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Engine;
use crate::asked::{self, Asked};
use crate::container::commit::{COMMITTING, forget};
use crate::files::blocking;
use crate::life::LOST;
use crate::record::{
    self, CONFIG_FILE, ConfigRecord, STARTING, STATE_FILE, StateRecord, UNWANTED_FILE, UnwantedRecord,
};
use crate::seam::{Found, Shim};
use crate::snapshot::Snapshot;
use crate::task::{Starter, Task, Up};
use crate::undo;

/// How many containers are looked at together.
const TOGETHER: usize = 32;
/// How long a shim may take to say what it runs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container as its records have it.
struct Recorded {
    now: Snapshot,
    asked: Asked,
    state: StateRecord,
}

/// What became of it.
enum Fate {
    /// It does not run, and its state says so.
    Idle,
    /// It runs.
    Up { shim: Arc<dyn Shim>, state: Box<ShimState>, netns: Option<OwnedFd>, held: Vec<(String, OwnedFd)> },
    /// It ended while no daemon looked.
    Ended(ExitRecord),
}

impl Engine {
    /// Brings back what there is.
    ///
    /// # Errors
    ///
    /// The directories cannot be read.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let engine = Arc::clone(self);
        let recorded = blocking(move || engine.read_records()).await?;
        let mut tasks = Vec::with_capacity(recorded.len());
        let mut live = Vec::new();
        for (recorded, fate) in self.fates(recorded).await {
            if let Fate::Up { .. } = fate {
                live.push(recorded.now.id.clone());
            }
            tasks.push(self.revive(recorded, fate).await);
        }
        if let Err(error) = self.backends.networks.sweep(&live).await {
            tracing::error!(error = error.chain(), "sweeping leftover network elements");
        }
        self.take_volumes_back(&tasks);
        for mut task in tasks {
            task.apply_policy();
            self.own(task);
        }
        self.sweep().await;
        Ok(())
    }

    /// Reads all records. Blocking.
    fn read_records(&self) -> Result<Vec<Recorded>> {
        let containers = self.containers_dir();
        let mut all = Vec::new();
        let listing = fs::read_dir(&containers).map_err(|error| Error::io("reading", &containers, error))?;
        for entry in listing {
            let dir = entry.map_err(|error| Error::io("reading", &containers, error))?.path();
            let Some(id) =
                dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<ContainerId>().ok())
            else {
                tracing::warn!(path = %dir.display(), "not a container's directory");
                continue;
            };
            if !dir.join(CONFIG_FILE).exists() {
                tracing::info!(container = %id, "removing half a container");
                let aside = self.removing_dir().join(id.as_str());
                if let Err(error) = fs::rename(&dir, &aside) {
                    tracing::error!(container = %id, %error, "moving half a container away");
                }
                continue;
            }
            match self.read_one(&id, &dir) {
                Ok(recorded) => all.push(recorded),
                Err(error) => tracing::error!(
                    container = %id, error = error.chain(),
                    "a container is left aside: its record cannot be used"
                ),
            }
        }
        // Oldest first: should two claim a name, the older keeps it.
        all.sort_by_key(|recorded| recorded.now.created_at);
        Ok(all)
    }

    fn read_one(&self, id: &ContainerId, dir: &Path) -> Result<Recorded> {
        let config: ConfigRecord = record::read(&dir.join(CONFIG_FILE))?;
        if config.id != id.as_str() {
            return Err(Error::internal(format!("the record is of container {}", config.id)));
        }
        let state_path = dir.join(STATE_FILE);
        let state = if state_path.exists() {
            record::read(&state_path).unwrap_or_else(|error| {
                // The container itself is whole; how it ended is lost.
                tracing::error!(container = %id, error = error.chain(), "a container's state cannot be read");
                StateRecord {
                    status: Status::Exited.as_str().into(),
                    exit_code: LOST,
                    by_hand: true,
                    ..StateRecord::default()
                }
            })
        } else {
            StateRecord { status: Status::Created.as_str().into(), ..StateRecord::default() }
        };
        let derived = asked::derive(&self.config, &config.config, &config.host_config, &config.networking);
        let asked = derived.unwrap_or_else(|error| {
            tracing::error!(container = %id, error = error.chain(), "a container's settings are not accepted");
            Asked::refused(&error)
        });
        let args = spec::args(&config.config).unwrap_or_default();
        let shapes = (config.config, config.host_config, config.networking);
        let mut now = self.snapshot(id, config.name, config.created_at, shapes, &asked, args);
        now.image = config.image.parse()?;
        now.image_name = config.image_name;
        now.platform = config.platform.parse()?;
        now.mounts = config.mounts.into();
        now.id_map = config.id_map.map(|map| Arc::new(map.into()));
        now.cgroup = state.cgroup.as_deref().map(Into::into);
        now.state.exit_code = state.exit_code;
        now.state.error.clone_from(&state.error);
        now.state.oom_killed = state.oom_killed;
        now.state.started_at = state.started_at;
        now.state.finished_at = state.finished_at;
        now.state.restart_count = state.restart_count;
        now.state.status = match Status::parse(&state.status) {
            Some(status @ (Status::Created | Status::Exited | Status::Restarting | Status::Dead)) => status,
            // Where it stands now is found out below.
            _ if state.finished_at.is_some() => Status::Exited,
            _ => Status::Created,
        };
        for mount in now.mounts.iter().filter(|mount| mount.r#type == MountType::Volume) {
            if let Err(error) = self.backends.volumes.acquire(&mount.name, id) {
                tracing::error!(container = %id, volume = mount.name, error = error.chain(), "a volume is missing");
            }
        }
        Ok(Recorded { now, asked, state })
    }

    /// Looks at all of them, some together, and keeps their order.
    async fn fates(self: &Arc<Self>, recorded: Vec<Recorded>) -> Vec<(Recorded, Fate)> {
        let together = Arc::new(Semaphore::new(TOGETHER));
        let mut looking = JoinSet::new();
        for (n, recorded) in recorded.into_iter().enumerate() {
            let (engine, together) = (Arc::clone(self), Arc::clone(&together));
            looking.spawn(async move {
                // The semaphore is never closed.
                let _permit = together.acquire_owned().await.ok();
                let fate = engine.fate(&recorded).await;
                (n, recorded, fate)
            });
        }
        let mut fates = Vec::new();
        while let Some(looked) = looking.join_next().await {
            match looked {
                Ok(fate) => fates.push(fate),
                Err(error) => tracing::error!(%error, "looking at a container ended badly"),
            }
        }
        fates.sort_by_key(|(n, ..)| *n);
        fates.into_iter().map(|(_, recorded, fate)| (recorded, fate)).collect()
    }

    async fn fate(&self, recorded: &Recorded) -> Fate {
        let now = &recorded.now;
        let run_dir = &now.paths.run_dir;
        let ran = matches!(&*recorded.state.status, "running" | "paused");
        let starting = recorded.state.status == STARTING;
        let lost = |ran: bool| if ran { Fate::Ended(lost_record()) } else { Fate::Idle };
        if !run_dir.exists() {
            return lost(ran);
        }
        let fate = match self.backends.shims.connect(&now.id, run_dir).await {
            Ok(Found::Alive(shim)) => match ask(&*shim).await {
                Some((state, netns, held)) if state.init.is_some() || state.exited.is_some() => {
                    return Fate::Up { shim, state: Box::new(state), netns, held };
                }
                said => {
                    tracing::warn!(container = %now.id, answers = said.is_some(), "ending a shim that runs nothing");
                    shim.kill();
                    undo::until_gone(shim.events()).await;
                    lost(ran)
                }
            },
            // The exit record stays until the state has it.
            Ok(Found::Ended(record)) if ran || starting => return Fate::Ended(record),
            Ok(Found::Ended(_)) => Fate::Idle,
            Ok(Found::Lost(pids)) => {
                let launched = pids.is_some();
                if let Some(pids) = pids {
                    kill_left(pids).await;
                }
                lost(ran || (starting && launched))
            }
            Err(error) => {
                tracing::error!(container = %now.id, error = error.chain(), "finding a container's shim");
                if let Some(pids) = read_pids(run_dir).await {
                    kill_left(pids).await;
                }
                lost(ran)
            }
        };
        self.clear_run(now).await;
        fate
    }

    /// Clears away what a run left outside the container's own directory.
    async fn clear_run(&self, now: &Snapshot) {
        undo::clear_cgroup(self.cgroup_path(now)).await;
        undo::unmount(&now.paths.run_dir.join("shm"));
        undo::remove_dir(now.paths.run_dir.clone()).await;
    }

    /// Makes the container's task; it is not yet running.
    async fn revive(self: &Arc<Self>, recorded: Recorded, fate: Fate) -> Task {
        let Recorded { mut now, asked, mut state } = recorded;
        if state.status == STARTING && !matches!(fate, Fate::Idle) {
            // The record is still the last run's, but this one began: what is said of how that ended is not of this one.
            state.by_hand = false;
            now.state.oom_killed = false;
            now.state.error.clear();
        }
        let guard = self.index.reserve(&now.name, &now.id).or_else(|error| {
            tracing::error!(container = %now.id, error = error.chain(), "a container's name is taken; it goes by its id");
            now.name = now.id.short().to_owned();
            self.index.reserve(&now.name, &now.id)
        });
        match guard {
            Ok(guard) => guard.keep(),
            Err(error) => {
                tracing::error!(container = %now.id, error = error.chain(), "a container has no name");
            }
        }
        let id = now.id.clone();
        let (mut task, handle) = Task::new(Arc::clone(self), asked, now, state.by_hand);
        self.index.insert(handle);
        match fate {
            Fate::Idle => {}
            Fate::Up { shim, state: running, netns, held } => {
                if let Some(network) = &state.network {
                    let adopted = self.backends.networks.adopt(&id, network.clone(), netns, held).await;
                    if let Err(error) = adopted {
                        tracing::error!(container = %id, error = error.chain(), "a container's network could not be taken back");
                    }
                }
                self.execs_found(&id, task.now.paths.run_dir.clone(), &running).await;
                self.backends.volumes.claim(&task.now.mounts, &id);
                task.take_back(shim, &running, &state);
                if task.up.is_some() && task.state_record() != state {
                    task.record_state().await;
                }
            }
            Fate::Ended(exit) => {
                let state = &mut task.now.state;
                state.status = Status::Exited;
                state.exit_code = exit.code;
                state.oom_killed |= exit.oom_killed;
                state.finished_at = Timestamp::from_nanosecond(exit.exited_at.into()).ok();
                task.publish();
                task.event("die", &[("exitCode", exit.code.to_string())]);
                task.record_state().await;
                self.clear_run(&task.now).await;
            }
        }
        task
    }

    /// Finds out where the volumes of running containers are, and unmounts what none of them uses: beside everything else and
    /// beside one another, as a driver or a file system that hangs must hold up neither the daemon's start nor other volumes.
    fn take_volumes_back(self: &Arc<Self>, tasks: &[Task]) {
        for task in tasks.iter().filter(|task| task.up.is_some()) {
            let of_volumes = task.now.mounts.iter().filter(|mount| mount.r#type == MountType::Volume);
            for name in of_volumes.map(|mount| mount.name.clone()) {
                let (volumes, id) = (self.backends.volumes.clone(), task.now.id.clone());
                self.in_background("taking a volume back", move || volumes.adopt(&name, &id));
            }
        }
        let volumes = self.backends.volumes.clone();
        self.in_background("unmounting unused volumes", move || volumes.unmount_unused());
    }

    fn in_background(&self, what: &'static str, work: impl FnOnce() + Send + 'static) {
        self.background(async move {
            let done = blocking(move || {
                work();
                Ok(())
            });
            if let Err(error) = done.await {
                tracing::error!(error = error.chain(), what);
            }
        });
    }

    /// Deletes what earlier removals did not come to, and run directories of containers that are gone.
    async fn sweep(self: &Arc<Self>) {
        let engine = Arc::clone(self);
        self.background(async move {
            for dir in entries(&engine.removing_dir()) {
                engine.remove_unwanted(&dir).await;
                undo::remove_dir(dir).await;
            }
            for dir in entries(&engine.config.exec_root.join("containers")) {
                let id = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<ContainerId>().ok());
                let Some(id) = id else { continue };
                // A record that was left aside keeps its container as it is.
                if engine.index.get(&id).is_some() || engine.containers_dir().join(id.as_str()).exists() {
                    continue;
                }
                engine.sweep_run_dir(&id, dir).await;
            }
            engine.collect_images().await;
        });
    }

    /// Removes the volumes that were to go with a directory.
    async fn remove_unwanted(self: &Arc<Self>, dir: &Path) {
        let path = dir.join(UNWANTED_FILE);
        let id = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<ContainerId>().ok());
        let (engine, Some(id), true) = (Arc::clone(self), id, path.exists()) else { return };
        let removed = blocking(move || {
            let unwanted: UnwantedRecord = record::read(&path)?;
            engine.backends.volumes.release_all(&unwanted.mounts, &id, true)
        })
        .await;
        if let Err(error) = removed {
            tracing::error!(dir = %dir.display(), error = error.chain(), "removing volumes of a container that is gone");
        }
    }

    async fn sweep_run_dir(&self, id: &ContainerId, dir: PathBuf) {
        tracing::info!(container = %id, "sweeping what is left of a container that is gone");
        match self.backends.shims.connect(id, &dir).await {
            Ok(Found::Alive(shim)) => {
                shim.kill();
                undo::until_gone(shim.events()).await;
            }
            Ok(Found::Lost(Some(pids))) => kill_left(pids).await,
            Ok(Found::Ended(_) | Found::Lost(None)) => {}
            Err(error) => tracing::warn!(container = %id, error = error.chain(), "finding a leftover shim"),
        }
        undo::clear_cgroup(self.cgroup_of(&self.config.cgroup_parent, id)).await;
        undo::unmount(&dir.join("shm"));
        undo::remove_dir(dir).await;
    }
}

impl Task {
    /// It runs, and has been running while no daemon looked.
    fn take_back(&mut self, shim: Arc<dyn Shim>, running: &ShimState, state: &StateRecord) {
        let Some(events) = shim.events() else {
            tracing::error!(container = %self.now.id, "a shim's events are not to be had");
            return;
        };
        for guest in self.door.open(Arc::clone(&shim)) {
            drop(guest);
        }
        // The kernel knows how long init has been there, whatever has been done to the clock since.
        let by_clock =
            || state.started_at.and_then(|at| Duration::try_from(Timestamp::now().duration_since(at)).ok());
        let ran = running.init.and_then(|pid| berth_sys::pidfd::age(pid).ok()).or_else(by_clock);
        let since = Instant::now().checked_sub(ran.unwrap_or_default()).unwrap_or_else(Instant::now);
        self.now.state.up_since = Some(since);
        let marker = self.now.paths.run_dir.join(COMMITTING);
        let half_committed = running.frozen && marker.exists();
        if half_committed {
            tracing::info!(container = %self.now.id, "thawing a container whose commit was cut short");
            let (shim, id) = (Arc::clone(&shim), self.now.id.clone());
            tokio::spawn(async move {
                if let Err(error) = shim.freeze(false).await {
                    tracing::warn!(container = %id, %error, "thawing a container whose commit was cut short");
                }
            });
        }
        forget(&marker);
        self.up = Some(Up { shim, events, since, prober: None });
        self.now.state.status =
            if running.frozen && !half_committed { Status::Paused } else { Status::Running };
        self.now.state.pid = running.init.unwrap_or(0);
        self.now.state.exit_code = 0;
        self.now.state.error.clear();
        let network = state.network.as_ref().filter(|record| !record.sandbox_id.is_empty());
        self.now.sandbox = network.cloned().map(Arc::new);
        self.begin_probing();
        self.publish();
    }

    /// What is due to a container that does not run.
    fn apply_policy(&mut self) {
        if self.up.is_some() {
            return;
        }
        let state = &self.now.state;
        match state.status {
            // Also one that never ran: who created it to run it once has lost his connection. The reference does so too.
            _ if self.asked.auto_remove => self.want_removal(true),
            Status::Restarting => self.begin_start(Starter::Policy, None, false),
            Status::Exited
                if self.asked.restart.at_daemon_start(state.exit_code, self.by_hand, state.restart_count) =>
            {
                self.begin_start(Starter::Policy, None, false);
            }
            _ => {}
        }
    }
}

fn lost_record() -> ExitRecord {
    ExitRecord { code: LOST, oom_killed: false, exited_at: crate::events::now(), execs: Vec::new() }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    match fs::read_dir(dir) {
        Ok(listing) => listing.flatten().map(|entry| entry.path()).collect(),
        Err(error) => {
            tracing::error!(dir = %dir.display(), %error, "reading a directory");
            Vec::new()
        }
    }
}

/// What a shim runs and holds; `None` if it does not say.
async fn ask(shim: &dyn Shim) -> Option<(ShimState, Option<OwnedFd>, Vec<(String, OwnedFd)>)> {
    let asking = async {
        let state = shim.state().await?;
        let held = shim.held().await?;
        Ok::<_, berth_runtime::ShimError>((state, held.netns, held.fds))
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(said)) => Some(said),
        Ok(Err(error)) => {
            tracing::error!(%error, "asking a shim what it runs");
            None
        }
        Err(_) => None,
    }
}

/// Whom a shim that does not answer noted.
async fn read_pids(run_dir: &Path) -> Option<PidRecord> {
    let run_dir = run_dir.to_owned();
    blocking(move || berth_runtime::read_pids(&run_dir)).await.ok().flatten()
}

/// Kills what a dead shim left, if the pids are still those of the processes that it meant.
async fn kill_left(pids: PidRecord) {
    let killed = blocking(move || {
        for (pid, started) in [(pids.init, pids.init_started), (pids.shim, pids.shim_started)] {
            let failed = |error| Error::internal(format!("killing process {pid}")).because(error);
            if let Some(process) = PidFd::open_started(pid, started).map_err(failed)? {
                process.kill().map_err(failed)?;
                process.wait(PATIENCE).map_err(failed)?;
            }
        }
        Ok(())
    })
    .await;
    if let Err(error) = killed {
        tracing::error!(error = error.chain(), "killing what a dead shim left");
    }
}
