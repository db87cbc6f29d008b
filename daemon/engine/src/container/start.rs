// SPDX-License-Identifier: Apache-2.0
//! `ContainerStart`: the way from a record to a running init process, each step with its undo.
//!
//! ```text
//!   the last run's shim is gone ── run dir ──┬── shim spawned ───────────┬── clients gathered ── launch
//!                                            ├── mounts, spec, filter ───┤
//!                                            └── sandbox ── files, state ┘
//! ```

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use berth_domain::container::Request;
use berth_domain::{CgroupDriver, ContainerId, Error, Result};
use berth_network::{Mode, Sandbox, SandboxRecord, SandboxRequest, UserNamespace};
use berth_runtime::spec::{self, Namespaces, Share, Shm, SpecInput};
use berth_runtime::{Scope, SeccompFilter, ShimError, ShimEvent};
use berth_shim_proto::{BindSource, FailureKind, HeldFd, Launch, Log, Root, SPEC_FILE, TerminalSize};
use berth_volume::Sources;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::Engine;
use crate::asked::{Asked, IpcChoice, NamespaceChoice, NetworkChoice, RuntimeChoice};
use crate::cancel::Cancel;
use crate::door::{Door, Guest};
use crate::files::blocking;
use crate::handle::Verb;
use crate::marks::{self, mark};
use crate::record::{self, STARTING, STATE_FILE, StateRecord};
use crate::seam::Shim;
use crate::snapshot::{Paths, Snapshot};
use crate::undo::{Step, Undo};

impl Engine {
    /// Starts a container. `detach_keys` mean nothing here: who attaches brings his own.
    ///
    /// # Errors
    ///
    /// No such container; it runs (not modified) or is paused; whatever kept it from starting.
    pub async fn container_start(&self, name: &str, detach_keys: Option<&str>) -> Result<()> {
        let _unused = detach_keys;
        let handle = self.index.resolve(name)?;
        if !handle.admit(Request::Start, name)? {
            return Err(Error::not_modified(format!("container {name} is running")));
        }
        handle.ask(name, Verb::Start).await
    }
}

/// A start under way: everything it needs, by value.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) engine: Arc<Engine>,
    pub(crate) id: ContainerId,
    pub(crate) asked: Arc<Asked>,
    pub(crate) now: Snapshot,
    pub(crate) state: StateRecord,
    pub(crate) door: Arc<Door>,
    /// Taken while the container's directories are being mounted.
    pub(crate) still: Arc<tokio::sync::Mutex<()>>,
    /// The last run's shim on its way out.
    pub(crate) lingering: Option<JoinHandle<()>>,
}

/// A start that went well.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) shim: Arc<dyn Shim>,
    pub(crate) events: mpsc::Receiver<ShimEvent>,
    pub(crate) pid: i32,
    pub(crate) sandbox: Option<SandboxRecord>,
    pub(crate) cgroup: String,
    pub(crate) started_at: Timestamp,
    pub(crate) since: Instant,
    /// Until the start is published, so that nobody takes the container for a stopped one.
    pub(crate) still: Arc<tokio::sync::OwnedMutexGuard<()>>,
}

/// A start that did not.
#[derive(Debug)]
pub(crate) struct StartFailure {
    pub(crate) error: Error,
    /// What `inspect` shows as exit code.
    pub(crate) exit_code: i32,
    pub(crate) cancelled: bool,
    /// The last run's shim, if it has still to go.
    pub(crate) lingering: Option<JoinHandle<()>>,
}

impl From<Error> for StartFailure {
    fn from(error: Error) -> Self {
        Self { error, exit_code: 128, cancelled: false, lingering: None }
    }
}

/// The reference's words before the cause; clients derive exit codes from the whole.
const LAUNCH: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
    berth-shim create failed: unable to start container process";

fn launch_failure(error: ShimError) -> StartFailure {
    let ShimError::Failed(failure) = error else {
        return Error::internal("failed to create task for container").because(error).into();
    };
    let (error, exit_code) = match failure.kind {
        FailureKind::CommandNotFound => (Error::invalid(format!("{LAUNCH}: {}", failure.message)), 127),
        FailureKind::CommandNotExecutable => (Error::invalid(format!("{LAUNCH}: {}", failure.message)), 126),
        // The reference looks users up itself, before its runtime does.
        FailureKind::InvalidInput
            if ["unable to find ", "invalid mount config "]
                .iter()
                .any(|its| failure.message.starts_with(its)) =>
        {
            (Error::invalid(failure.message), 128)
        }
        FailureKind::Internal if failure.message.starts_with("error while creating mount source") => {
            (Error::internal(failure.message), 128)
        }
        FailureKind::InvalidInput => (Error::invalid(format!("{LAUNCH}: {}", failure.message)), 128),
        FailureKind::NotRunning | FailureKind::Unsupported | FailureKind::Internal => {
            (Error::internal(format!("{LAUNCH}: {}", failure.message)), 128)
        }
    };
    StartFailure { error, exit_code, cancelled: false, lingering: None }
}

fn cancelled(id: &ContainerId) -> StartFailure {
    StartFailure {
        error: Error::cancelled(format!("the start of container {id} was cancelled")),
        exit_code: 137,
        cancelled: true,
        lingering: None,
    }
}

/// The compiled seccomp filter, what keeps the sources of mounts there, and groups that devices bring along.
type Ready = (Option<SeccompFilter>, Sources, Vec<String>);

/// How the writing of a spec went.
enum Written {
    Done(Box<Result<Ready>>),
    /// The start was cancelled. `later`: it still mounts volumes, and gives them back itself.
    GivenUp {
        later: bool,
    },
}

/// What another container lends.
#[derive(Debug, Default)]
struct Borrowed {
    netns: Option<OwnedFd>,
    /// Whose `/etc` files are shared.
    etc_of: Option<Paths>,
    hostname: Option<String>,
    /// The user namespace that owns what is lent, if that is not the host's.
    userns: Option<OwnedFd>,
    namespaces: Namespaces,
    shm: Shm,
}

impl Flight {
    /// Starts, or leaves nothing behind.
    pub(crate) async fn fly(mut self, cancel: Cancel) -> Result<Started, StartFailure> {
        let mut undo = Undo::default();
        let mut result = self.steps(&mut undo, &cancel).await;
        if let Err(failure) = &mut result {
            failure.lingering = self.lingering.take();
            let cgroup = self.engine.next_cgroup_path(&self.now);
            undo.run(&self.engine, &self.id, &cgroup).await;
            let cleared = self.write_state(StateRecord { network: None, ..self.state.clone() }).await;
            if let Err(error) = cleared {
                tracing::error!(container = %self.id, error = error.chain(), "recording that a start failed");
            }
        }
        result
    }

    async fn steps(&mut self, undo: &mut Undo, cancel: &Cancel) -> Result<Started, StartFailure> {
        let engine = Arc::clone(&self.engine);
        let paths = Arc::clone(&self.now.paths);
        mark(&self.id, "start", "begin");
        if let Some(lingering) = &mut self.lingering {
            let ended = cancel.race(lingering).await.ok_or_else(|| cancelled(&self.id))?;
            self.lingering = None;
            ended.map_err(|error| Error::internal("waiting for the last run's shim").because(error))?;
        }
        let waiting = Arc::clone(&self.still).lock_owned();
        let still = Arc::new(cancel.race(waiting).await.ok_or_else(|| cancelled(&self.id))?);
        if let Some(why) = &self.asked.refusal {
            return Err(Error::invalid(format!("this container's settings are not accepted: {why}")).into());
        }
        engine.fault("image")?;
        let mut lower = engine.backends.images.layers(&self.now.image)?;
        lower.push(engine.init_layer());
        let mut borrowed = self.borrow(&engine)?;
        self.borrow_user_namespace(&engine, &mut borrowed)?;

        undo.push(Step::RunDir(paths.run_dir.clone()));
        make_run_dir(&paths.run_dir).await?;
        mark(&self.id, "start", "run directory");
        engine.fault("run dir")?;
        if self.asked.ipc == IpcChoice::Shareable {
            let shm = paths.run_dir.join("shm");
            undo.push(Step::Shm(shm.clone()));
            borrowed.shm = Shm::Directory(self.mount_shm(shm).await?);
        }

        // The sandbox, the shim and the spec do not need one another.
        undo.push(Step::Sandbox);
        undo.push(Step::Volumes(Arc::clone(&self.now.mounts)));
        let request = self.sandbox_request(borrowed.netns.take(), borrowed.userns.as_ref())?;
        let started_at = Timestamp::now();
        self.state.started_at = Some(started_at);
        let cgroup = engine.next_cgroup_path(&self.now);
        self.state.cgroup = Some(cgroup.clone());
        let (this, borrowed) = (&*self, &borrowed);
        let sandbox = async {
            // Only the sandbox can be waited for in vain; a spawn given up half-way would leave a shim to nobody.
            let made = cancel.race(engine.backends.networks.create(&this.id, request)).await;
            let sandbox = made.ok_or_else(|| cancelled(&this.id))?;
            let sandbox = sandbox.map_err(|error| error.context("failed to set up container networking"))?;
            mark(&this.id, "sandbox", "network");
            this.write_files(borrowed, &sandbox).await?;
            mark(&this.id, "sandbox", "files in /etc and state");
            Ok::<_, StartFailure>(sandbox)
        };
        let shim = async {
            let shim = engine.backends.shims.spawn(&this.id, &paths.run_dir).await;
            mark(&this.id, "shim's birth", "spawn");
            shim
        };
        mark(&this.id, "sandbox", "begin");
        mark(&this.id, "spec", "begin");
        mark(&this.id, "shim's birth", "begin");
        let (sandbox, spec, scope, shim) = tokio::join!(
            sandbox,
            this.write_spec(borrowed, &still, cancel),
            cancel.race(this.scope(&engine)),
            shim
        );
        mark(&this.id, "start", "sandbox, shim and spec");
        if let Ok(shim) = &shim {
            undo.push(Step::Shim(Arc::clone(shim), shim.events()));
        }
        let sandbox = sandbox?;
        let (seccomp, sources, groups) = match spec {
            Written::Done(written) => (*written)?,
            Written::GivenUp { later } => {
                if later {
                    undo.leave_volumes();
                }
                return Err(cancelled(&self.id));
            }
        };
        let shim = shim?;
        // Until init has been born into the scope's group, this is what keeps it.
        let _scope = scope.ok_or_else(|| cancelled(&self.id))??;
        engine.fault("sandbox and shim")?;
        self.state.network = Some(sandbox.record.clone());
        engine.fault("files")?;

        let guests = cancel.race(self.door.gather()).await.ok_or_else(|| cancelled(&self.id))?;
        engine.fault("guests")?;
        let since = Instant::now();
        // A log server's name may have to be looked up.
        let log = self.asked.log.for_shim(&self.now, &self.engine.config.journal_socket);
        let log = cancel.race(log).await.ok_or_else(|| cancelled(&self.id))??;
        let room = crate::storage::Room::lend(&self.now.host_config, &paths);
        let userns = sandbox.userns.as_ref().or(borrowed.userns.as_ref());
        let (mut launch, fds) = self.launch(&lower, log, (&sandbox, userns), seccomp.as_ref(), &guests);
        launch.user.groups.extend(groups);
        let launched = cancel.race(shim.launch(launch, fds)).await.ok_or_else(|| cancelled(&self.id))?;
        drop(room);
        mark(&self.id, "start", "launch");
        // The launcher has its own clones of them.
        if sources.has_mounts() {
            drop(tokio::task::spawn_blocking(move || drop(sources)));
        }
        let (pid, warnings) = launched.map_err(launch_failure)?;
        engine.fault("launch")?;
        for warning in warnings {
            tracing::warn!(container = %self.id, warning, "starting");
        }
        let events =
            undo.settle().ok_or_else(|| Error::internal("the shim's events were taken by somebody else"))?;
        let sandbox = Some(sandbox.record).filter(|record| !record.sandbox_id.is_empty());
        Ok(Started { shim, events, pid, sandbox, cgroup, started_at, since, still })
    }

    /// The unit that the container's cgroup belongs to, where systemd lays cgroups out.
    async fn scope(&self, engine: &Engine) -> Result<Option<Scope>> {
        if engine.config.cgroup_driver == CgroupDriver::Cgroupfs {
            return Ok(None);
        }
        let cgroup = engine.next_cgroup_path(&self.now);
        engine.backends.shims.scope(&self.id, engine.cgroup_parent(&self.now), &cgroup).await
    }

    /// What other containers lend: all of them must run.
    fn borrow(&self, engine: &Engine) -> Result<Borrowed> {
        let mut borrowed = Borrowed::default();
        let lender = |name: &str, what: &str| -> Result<Arc<Snapshot>> {
            let lender = engine.index.resolve(name)?.now();
            if lender.state.pid == 0 {
                return Err(Error::conflict(format!(
                    "failed to join {what}: container {} is not running",
                    lender.id
                )));
            }
            Ok(lender)
        };
        let path =
            |lender: &Snapshot, kind: &str| PathBuf::from(format!("/proc/{}/ns/{kind}", lender.state.pid));
        let share = |choice: &NamespaceChoice, what: &str, kind: &str| -> Result<Share> {
            Ok(match choice {
                NamespaceChoice::Private => Share::Private,
                NamespaceChoice::Host => Share::Host,
                NamespaceChoice::Container(name) => Share::Path(path(&*lender(name, what)?, kind)),
            })
        };
        borrowed.namespaces.pid = share(&self.asked.pid, "PID namespace", "pid")?;
        borrowed.namespaces.uts = share(&self.asked.uts, "UTS namespace", "uts")?;
        borrowed.namespaces.cgroup = share(&self.asked.cgroup, "cgroup namespace", "cgroup")?;
        match &self.asked.ipc {
            IpcChoice::Private | IpcChoice::Shareable => {}
            IpcChoice::NoShm => borrowed.shm = Shm::None,
            IpcChoice::Host => {
                borrowed.namespaces.ipc = Share::Host;
                borrowed.shm = Shm::Host;
            }
            IpcChoice::Container(name) => {
                let lender = lender(name, "IPC namespace")?;
                let shm = lender.paths.run_dir.join("shm");
                if lender.host_config.ipc_mode != "shareable" {
                    return Err(Error::invalid(format!(
                        "failed to join IPC namespace: container {}: non-shareable IPC (hint: use IpcMode:shareable for \
                         the donor container)",
                        lender.id
                    )));
                }
                borrowed.namespaces.ipc = Share::Path(path(&lender, "ipc"));
                borrowed.shm = Shm::Directory(shm);
            }
        }
        match &self.asked.network {
            NetworkChoice::None | NetworkChoice::Networks(_) => {}
            NetworkChoice::Host => borrowed.namespaces.network = Share::Host,
            NetworkChoice::Container(name) => {
                let lender = engine.index.resolve(name).map_err(|error| {
                    Error::internal(format!("joining network namespace of container: {error}"))
                })?;
                let lender = lender.now();
                if lender.state.pid == 0 {
                    return Err(Error::conflict(format!(
                        "cannot join network namespace of a non running container: container {} is {}",
                        lender.name, lender.state.status
                    )));
                }
                let path = path(&lender, "net");
                let netns = std::fs::File::open(&path).map_err(|error| Error::io("opening", &path, error))?;
                borrowed.netns = Some(netns.into());
                borrowed.namespaces.network = Share::Path(path);
                borrowed.hostname = Some(lender.config.hostname.clone());
                borrowed.etc_of = Some((*lender.paths).clone());
            }
        }
        Ok(borrowed)
    }

    /// Who shares namespaces with a container that has users of its own must have the same ones: it joins its user namespace.
    fn borrow_user_namespace(&self, engine: &Engine, borrowed: &mut Borrowed) -> Result<()> {
        let Some(map) = &self.now.id_map else { return Ok(()) };
        let mut lenders = Vec::new();
        if let NetworkChoice::Container(name) = &self.asked.network {
            lenders.push(name);
        }
        if let IpcChoice::Container(name) = &self.asked.ipc {
            lenders.push(name);
        }
        if let NamespaceChoice::Container(name) = &self.asked.pid {
            lenders.push(name);
        }
        let mut first: Option<(u64, u64)> = None;
        for name in lenders {
            let lender = engine.index.resolve(name)?.now();
            let refused = |why: &str| {
                Err(Error::invalid(format!("cannot share namespaces of container {}: {why}", lender.name)))
            };
            if lender.id_map.as_ref() != Some(map) {
                return refused(
                    "its users are mapped otherwise (userns-remap); with --userns=host it can be",
                );
            }
            let path = format!("/proc/{}/ns/user", lender.state.pid);
            let userns = std::fs::File::open(&path).map_err(|error| Error::io("opening", &path, error))?;
            let stat = rustix::fs::fstat(&userns).map_err(|error| Error::io("stat", &path, error))?;
            let id = (stat.st_dev, stat.st_ino);
            if first.is_some_and(|first| first != id) {
                return refused("another container that it shares with has another user namespace");
            }
            first = Some(id);
            borrowed.userns = Some(userns.into());
        }
        Ok(())
    }

    fn sandbox_request(&self, netns: Option<OwnedFd>, userns: Option<&OwnedFd>) -> Result<SandboxRequest> {
        let user = match (userns, &self.now.id_map) {
            (Some(userns), _) => UserNamespace::Of(
                userns.try_clone().map_err(|error| Error::internal("copying a descriptor").because(error))?,
            ),
            (None, Some(map)) => UserNamespace::Mapped((**map).clone()),
            (None, None) => UserNamespace::Host,
        };
        let mode = match (&self.asked.network, netns) {
            (NetworkChoice::Container(_), Some(netns)) => Mode::Container(netns),
            (NetworkChoice::Host, _) => Mode::Host,
            (NetworkChoice::Networks(endpoints), _) => Mode::Networks(endpoints.clone()),
            (NetworkChoice::None | NetworkChoice::Container(_), _) => Mode::None,
        };
        let servers = self.engine.name_servers(&self.now.host_config);
        Ok(SandboxRequest {
            name: self.now.name.clone(),
            mode,
            ports: self.asked.ports.clone(),
            hostname: self.now.config.hostname.clone(),
            dns_servers: servers.iter().filter_map(|server| server.parse().ok()).collect(),
            user,
        })
    }

    async fn mount_shm(&self, at: PathBuf) -> Result<PathBuf> {
        let bytes = u64::try_from(self.now.host_config.shm_size).unwrap_or(0);
        let owner = self.now.id_map.as_ref().map(|map| map.root());
        blocking(move || {
            std::fs::create_dir_all(&at).map_err(|error| Error::io("making", &at, error))?;
            berth_sys::mount::tmpfs(&at, bytes, 0o1777)
                .map_err(|error| Error::io("mounting a tmpfs at", &at, error))?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(&at, Some(uid), Some(gid))
                    .map_err(|error| Error::io("giving away", &at, error))?;
            }
            Ok(at)
        })
        .await
    }

    /// Writes the container's files in `/etc` and its state.
    async fn write_files(&self, borrowed: &Borrowed, sandbox: &Sandbox) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        let now = self.now.clone();
        let asked = Arc::clone(&self.asked);
        let network = Some(sandbox.record.clone());
        let state = StateRecord { status: STARTING.into(), network, ..self.state.clone() };
        let hostname = borrowed.hostname.clone().unwrap_or_else(|| now.config.hostname.clone());
        let etc_is_lent = borrowed.etc_of.is_some();
        let addresses = addresses(&sandbox.record);
        let resolver = sandbox.record.resolver;
        blocking(move || {
            if !etc_is_lent {
                let linked = engine.linked(&now)?;
                engine.write_etc(&now, &asked, (&addresses, resolver), &hostname, &linked)?;
            }
            record::write(&now.paths.dir.join(STATE_FILE), &state)
        })
        .await
    }

    /// Writes the container's spec; answers the compiled seccomp filter, what keeps the sources of mounts there, and groups
    /// that devices bring along.
    ///
    /// A volume's driver may not answer for minutes. A start that is given up does not wait for it: what was mounted is
    /// given back whenever it does, and until then `still` keeps the next start waiting.
    async fn write_spec(
        &self,
        borrowed: &Borrowed,
        still: &Arc<tokio::sync::OwnedMutexGuard<()>>,
        cancel: &Cancel,
    ) -> Written {
        let engine = Arc::clone(&self.engine);
        let now = self.now.clone();
        let asked = Arc::clone(&self.asked);
        let hostname = borrowed.hostname.clone().unwrap_or_else(|| now.config.hostname.clone());
        let namespaces = borrowed.namespaces.clone();
        let shm = borrowed.shm.clone();
        let etc = borrowed.etc_of.clone();
        let work = move || {
            let linked = engine.linked(&now)?;
            let images = &engine.backends.images;
            let layers = |id: &str| images.layers(&id.parse()?);
            let userns = now.id_map.as_deref().map(|map| engine.user_namespace(map)).transpose()?;
            let start = berth_volume::Start {
                container: &now.id,
                run_dir: &now.paths.run_dir,
                layers: &layers,
                userns: userns.as_deref(),
            };
            let mut sources = engine.backends.volumes.oci_mounts(&now.mounts, &start)?;
            let mut mounts = std::mem::take(&mut sources.mounts);
            let own = crate::etc_mounts::mounts(etc.as_ref().unwrap_or(&now.paths), &now, &mounts)?;
            mounts.extend(own);
            engine.ready_init(&now.host_config)?;
            let native = asked.runtime == RuntimeChoice::Native;
            let mut facts = std::borrow::Cow::Borrowed(&engine.backends.facts);
            if !native {
                // runc before 1.2 refuses a spec with a namespace that it does not know.
                facts.to_mut().time_namespaces = false;
            }
            let mut built = spec::build(&SpecInput {
                id: &now.id,
                config: &now.config,
                host: &now.host_config,
                hostname: &hostname,
                linked: &linked.env,
                namespaces: &namespaces,
                shm: &shm,
                mounts: &mounts,
                defaults: &engine.defaults,
                facts: &facts,
                seccomp_apart: native,
                id_map: now.id_map.as_deref(),
            })?;
            for warning in built.warnings {
                tracing::warn!(container = %now.id, warning, "building the runtime spec");
            }
            let groups =
                crate::devices::inject(&engine.config, &now.host_config, &now.config.user, &mut built.spec)?;
            crate::realtime::ready(&engine.config, &engine.cgroup_path(&now))?;
            let path = now.paths.run_dir.join(SPEC_FILE);
            let json = serde_json::to_vec(&built.spec)
                .map_err(|error| Error::internal("encoding the runtime spec").because(error))?;
            crate::files::write_whole(&path, &json, 0o600)?;
            let profile = built.seccomp.filter(|_| native);
            let filter = profile.map(|profile| engine.seccomp.of(&profile)).transpose()?;
            mark(&now.id, "spec", "built and written");
            Ok((filter, sources, groups))
        };
        let (engine, now, still) = (Arc::clone(&self.engine), self.now.clone(), Arc::clone(still));
        // Whoever comes second of the end of the work and the end of patience knows of the other.
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let written = blocking(move || {
            let written = work();
            if ended.swap(true, Ordering::SeqCst) {
                drop(written);
                engine.backends.volumes.unmount_all(&now.mounts, &now.id);
                drop(still);
                return Err(Error::cancelled("the start was given up"));
            }
            Ok(Box::new(written))
        });
        match cancel.race(written).await {
            Some(Ok(written)) => Written::Done(written),
            Some(Err(error)) => Written::Done(Box::new(Err(error))),
            None => Written::GivenUp { later: !over.swap(true, Ordering::SeqCst) },
        }
    }

    fn launch<'a>(
        &self,
        lower: &[PathBuf],
        log: Log,
        (sandbox, userns): (&'a Sandbox, Option<&'a OwnedFd>),
        seccomp: Option<&'a SeccompFilter>,
        guests: &'a [Guest],
    ) -> (Launch, Vec<BorrowedFd<'a>>) {
        let text = |path: &Path| path.display().to_string();
        let mut fds: Vec<BorrowedFd<'a>> = Vec::new();
        let mut index = |fd: BorrowedFd<'a>| {
            fds.push(fd);
            u16::try_from(fds.len() - 1).unwrap_or(u16::MAX)
        };
        let paths = &self.now.paths;
        let config = &self.now.config;
        let [height, width] = self.now.host_config.console_size;
        let owner = self.now.id_map.as_ref().map(|map| map.root());
        let cells = |n: u32| u16::try_from(n).unwrap_or(0);
        let launch = Launch {
            container_id: self.id.to_string(),
            bundle: text(&paths.run_dir),
            root: Root::Overlay {
                lower: lower.iter().map(|path| text(path)).collect(),
                upper: text(&paths.upper),
                work: text(&paths.work),
                volatile: self.asked.auto_remove,
                mapped: userns.is_some(),
            },
            user: self.asked.user.clone(),
            terminal: config.tty.then(|| TerminalSize { height: cells(height), width: cells(width) }),
            open_stdin: config.open_stdin,
            stdin_once: config.stdin_once,
            log,
            netns: sandbox.netns.as_ref().map(|fd| index(fd.as_fd())),
            userns: userns.map(|fd| index(fd.as_fd())),
            held: sandbox
                .held
                .iter()
                .map(|(name, fd)| HeldFd { name: name.clone(), fd: index(fd.as_fd()) })
                .collect(),
            seccomp: seccomp.map(|filter| index(filter.as_fd())),
            attach: guests
                .iter()
                .map(|guest| {
                    let mut attach = guest.attach.clone();
                    attach.fd = index(guest.socket.as_fd());
                    attach
                })
                .collect(),
            trace: marks::wanted(),
            sources: berth_volume::Volumes::bind_sources(&self.now.mounts)
                .into_iter()
                .map(|(path, create)| BindSource { path, create, owner })
                .collect(),
            runtime: self.asked.runtime.for_shim(&self.engine.config.exec_root.join("oci")),
        };
        (launch, fds)
    }

    async fn write_state(&self, state: StateRecord) -> Result<()> {
        let path = self.now.paths.dir.join(STATE_FILE);
        blocking(move || record::write(&path, &state)).await
    }
}

/// A run directory with nothing in it. On a tmpfs, so that making it is no work to hand to another thread.
async fn make_run_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if std::fs::DirBuilder::new().mode(0o700).create(path).is_ok() {
        return Ok(());
    }
    let path = path.to_owned();
    blocking(move || {
        // What an earlier run left is no use to this one.
        berth_sys::in_root::remove_path(&path).map_err(|error| Error::io("removing", &path, error))?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| Error::io("making", &path, error))
    })
    .await
}

pub(crate) fn addresses(record: &SandboxRecord) -> Vec<IpAddr> {
    let v4 = record.endpoints.iter().filter_map(|endpoint| endpoint.ipv4.map(IpAddr::V4));
    let v6 = record.endpoints.iter().filter_map(|endpoint| endpoint.ipv6.map(IpAddr::V6));
    v4.chain(v6).collect()
}
