// SPDX-License-Identifier: Apache-2.0
//! The container under this shim: what was launched, and how it comes to its end.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_launch::trace::{self, mark};
use berth_shim_proto::{
    Attach, BindSource, Event, ExitRecord, HeldFd, Launch, Reply, Root, SOCKET_NAME, SPEC_FILE, State, Target,
};

use crate::files;
use crate::link::{Asker, Link};
use crate::log::Recorder;
use crate::oom::OomWatch;
use crate::process::Process;
use crate::runtime::cli::{Cli, Job, forget};
use crate::runtime::oci::Starting;
use crate::runtime::{Outcome, Runtime, internal, invalid, native, oci};
use crate::say::say;
use crate::stdio::{Standing, Stdio};
use crate::watch::Watch;

/// Ends of execs that are remembered for a daemon that asks.
const REMEMBERED: usize = 256;
/// After a hint of an out-of-memory kill its counter may lag behind.
const OOM_LAG: Duration = Duration::from_millis(100);
/// Execs that were killed along with init are waited for this long.
const DEATH: Duration = Duration::from_secs(5);
/// The key of init among the processes.
pub(crate) const INIT: u64 = 0;

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) bundle: PathBuf,
    pub(crate) runtime: Runtime,
    netns: Option<OwnedFd>,
    held: Vec<(String, OwnedFd)>,
    pub(crate) init_pid: i32,
    /// Init under [`INIT`], execs under numbers that are never used again.
    pub(crate) processes: BTreeMap<u64, Process>,
    pub(crate) last_key: u64,
    /// Commands of an OCI runtime under way.
    pub(crate) jobs: Vec<Pending>,
    /// Processes that were reaped before a job could say that they are an exec of ours.
    pub(crate) strays: VecDeque<(i32, i32)>,
    ended: VecDeque<(String, i32)>,
    pub(crate) frozen: bool,
    oom: Option<OomWatch>,
    oom_again: Option<Instant>,
    exited_at: Option<SystemTime>,
    /// After init's end the other processes have until then.
    give_up_at: Option<Instant>,
    pub(crate) exit: Option<ExitRecord>,
}

/// A command under way and what is to be done when it has ended.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) asker: Asker,
    pub(crate) then: Then,
    /// It was killed for taking too long.
    pub(crate) late: bool,
}

#[derive(Debug)]
pub(crate) enum Then {
    /// Answer.
    Done(Job),
    /// Answer, having thawed what is to die.
    Thawed(Job),
    /// Answer, and remember whether the container is frozen.
    Frozen(Job, bool),
    /// Take over the exec's process.
    Exec(Box<Starting>, String, Option<(OwnedFd, Attach)>),
}

impl Pending {
    pub(crate) fn job(&self) -> &Job {
        match &self.then {
            Then::Done(job) | Then::Thawed(job) | Then::Frozen(job, _) => job,
            Then::Exec(starting, ..) => &starting.job,
        }
    }
}

/// Descriptors that came with a request, each to be taken once.
#[derive(Debug)]
pub(crate) struct Fds(Vec<Option<OwnedFd>>);

impl Fds {
    pub(crate) fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter().map(Some).collect())
    }

    pub(crate) fn take(&mut self, index: u16) -> Outcome<OwnedFd> {
        let slot = self.0.get_mut(usize::from(index));
        slot.and_then(Option::take).ok_or_else(|| invalid(format!("there is no descriptor {index}")))
    }
}

/// Namespaces that are there before the container is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenNamespaces<'a> {
    pub(crate) net: Option<BorrowedFd<'a>>,
    pub(crate) user: Option<BorrowedFd<'a>>,
}

/// What a launch gives: the container, where daemons may connect, what could not be had, and whether one
/// of the first clients left again at once.
pub(crate) struct Birth {
    pub(crate) container: Container,
    pub(crate) listener: OwnedFd,
    pub(crate) warnings: Vec<String>,
    pub(crate) detached: bool,
}

impl Container {
    /// Builds the container and starts its init; on failure nothing is left.
    pub(crate) fn launch(launch: &Launch, mut fds: Fds) -> Outcome<Birth> {
        if launch.trace {
            trace::begin();
        }
        mark("shim", "begin");
        let bundle = PathBuf::from(&launch.bundle);
        let spec = fs::read(bundle.join(SPEC_FILE)).map_err(|e| internal(SPEC_FILE, e))?;
        if let Root::Overlay { lower, .. } = &launch.root {
            if lower.is_empty() {
                return Err(invalid("an overlay without lower directories"));
            }
        }
        let netns = launch.netns.map(|fd| fds.take(fd)).transpose()?;
        let userns = launch.userns.map(|fd| fds.take(fd)).transpose()?;
        let seccomp = launch.seccomp.map(|fd| fds.take(fd)).transpose()?;
        let held = launch.held.iter().map(|held| Ok((held.name.clone(), fds.take(held.fd)?)));
        let held = held.collect::<Outcome<Vec<_>>>()?;
        let clients = launch.attach.iter().map(|attach| Ok((fds.take(attach.fd)?, attach)));
        let clients = clients.collect::<Outcome<Vec<_>>>()?;
        let log =
            Recorder::open(&launch.log).map_err(|e| internal("failed to initialize logging driver", e))?;
        for stale in [berth_shim_proto::EXIT_FILE, berth_shim_proto::PID_FILE] {
            forget(&bundle.join(stale));
        }
        let listener = files::listen(&bundle).map_err(|e| internal(SOCKET_NAME, e))?;

        mark("shim", "log and socket");
        let namespaces =
            GivenNamespaces { net: netns.as_ref().map(AsFd::as_fd), user: userns.as_ref().map(AsFd::as_fd) };
        let built = look_at(&launch.sources)
            .and_then(|()| build(launch, spec, namespaces, seccomp))
            .inspect_err(|_| {
                forget(&bundle.join(SOCKET_NAME));
            });
        let (runtime, started, warnings) = built?;
        let pid = started.pid;
        let mut stdio = Stdio::new(started.ends, log, launch.stdin_once);
        let mut detached = false;
        for (socket, attach) in clients {
            detached |= stdio.attach(socket, attach, Standing::Pipe);
        }
        let init = Process::new(Target::Init, pid, started.pidfd, stdio);
        let container = Self {
            bundle,
            runtime,
            netns,
            held,
            init_pid: pid,
            processes: BTreeMap::from([(INIT, init)]),
            last_key: INIT,
            jobs: Vec::new(),
            strays: VecDeque::new(),
            ended: VecDeque::new(),
            frozen: false,
            oom: None,
            oom_again: None,
            exited_at: None,
            give_up_at: None,
            exit: None,
        };
        if let Err(error) = files::write_pids(&container.bundle, pid) {
            // Nobody could find the container again.
            container.discard();
            return Err(internal(berth_shim_proto::PID_FILE, error));
        }
        mark("shim", "pids");
        Ok(Birth { container, listener, warnings, detached })
    }

    /// What may be done once the daemon has its answer.
    pub(crate) fn settle(&mut self) {
        self.oom = self.runtime.cgroup().map(OomWatch::of);
    }

    pub(crate) fn key_of(&self, target: &Target) -> Option<u64> {
        let named = |process: &&Process| process.target == *target;
        self.processes.iter().find(|(_, process)| named(process)).map(|(key, _)| *key)
    }

    pub(crate) fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        for (key, process) in &self.processes {
            process.stdio.watch(*key, watch);
        }
        if let Some(oom) = &self.oom {
            oom.watch(watch);
        }
    }

    /// When something is due though nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let processes = self.processes.values().filter_map(Process::deadline);
        let jobs = self.jobs.iter().filter(|pending| !pending.late).map(|pending| pending.job().deadline);
        processes.chain(jobs).chain(self.oom_again).chain(self.give_up_at).min()
    }

    pub(crate) fn on_oom(&mut self) {
        if let Some(oom) = &mut self.oom {
            oom.on_ready();
            self.oom_again = Some(Instant::now());
        }
    }

    /// Init was reaped.
    pub(crate) fn init_ended(&mut self, code: i32) {
        self.exited_at = Some(SystemTime::now());
        self.give_up_at = Some(Instant::now() + DEATH);
        if let Some(init) = self.processes.get_mut(&INIT) {
            init.reaped(code);
        }
        // A frozen process of a v1 group does not die.
        self.let_die();
        if let Runtime::Native(native) = &self.runtime {
            if let Err(error) = native.cgroup().kill() {
                say!("killing what is left: {error}");
            }
        }
    }

    /// Whether a child that has ended was the log's.
    pub(crate) fn log_child_ended(&mut self, pid: i32, code: i32) -> bool {
        self.processes.get_mut(&INIT).is_some_and(|init| init.stdio.child_ended(pid, code))
    }

    /// After a fatal signal to what may be frozen.
    pub(crate) fn let_die(&mut self) {
        if let (true, Some(cgroup)) = (self.frozen, self.runtime.cgroup()) {
            match cgroup.freeze(false) {
                Ok(()) => self.frozen = false,
                Err(error) => say!("thawing: {error}"),
            }
        }
    }

    /// Moves on whatever waits for a time or for output; true once the exit was told.
    pub(crate) fn advance(&mut self, link: &mut Link, scratch: &mut Vec<u8>) -> bool {
        let now = Instant::now();
        self.check_oom(now, link);
        for pending in self.jobs.iter_mut().filter(|pending| !pending.late && pending.job().deadline <= now) {
            pending.late = true;
            let pid = rustix::process::Pid::from_raw(pending.job().pid);
            // It is reaped like any other; a command that has just ended is not there to be killed.
            pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok());
        }
        let dying = self.exited_at.is_some();
        let mut gone = Vec::new();
        let mut all_drained = true;
        for (key, process) in &mut self.processes {
            process.stdio.tick();
            process.stdio.sweep();
            let drained = process.drained(scratch);
            all_drained &= drained;
            let Target::Exec(id) = process.target.clone() else { continue };
            if drained && !process.told && (dying || process.flushed()) {
                process.told = true;
                let code = process.code.unwrap_or_default();
                if self.ended.len() == REMEMBERED {
                    self.ended.pop_front();
                }
                self.ended.push_back((id.clone(), code));
                link.event(Event::ExecExited { exec_id: id, code });
            }
            // Its clients are let go of only now: whoever sees the stream end may ask for the exit code.
            if process.told && process.gone() && !dying {
                gone.push(*key);
            }
        }
        for key in gone {
            self.processes.remove(&key);
        }
        let given_up = self.give_up_at.is_some_and(|at| at <= now);
        // Whoever had init killed by a command of the runtime wants that command's answer first.
        let done = all_drained && self.jobs.is_empty();
        if dying && (done || given_up) && self.exit.is_none() {
            self.tell_exit(link);
        }
        self.exit.is_some()
    }

    fn check_oom(&mut self, now: Instant, link: &mut Link) {
        let Some(due) = self.oom_again.filter(|due| *due <= now) else { return };
        let grown = self.oom.as_mut().is_some_and(OomWatch::grown);
        // The hint comes before the kill: look once more.
        self.oom_again = (!grown && now < due + OOM_LAG).then(|| due + OOM_LAG);
        if grown {
            link.event(Event::Oom);
        }
    }

    fn tell_exit(&mut self, link: &mut Link) {
        let code = self.processes.get(&INIT).and_then(|init| init.code).unwrap_or(255);
        let at = self.exited_at.unwrap_or_else(SystemTime::now).duration_since(UNIX_EPOCH);
        let oom_killed = self.oom.as_mut().is_some_and(OomWatch::any);
        let record = ExitRecord {
            code,
            oom_killed,
            exited_at: i64::try_from(at.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX),
            execs: self.ended.iter().cloned().collect(),
        };
        if let Some(init) = self.processes.get_mut(&INIT) {
            init.told = true;
            init.stdio.close_log();
        }
        if let Err(error) = files::write_exit(&self.bundle, &record) {
            say!("{}: {error}", berth_shim_proto::EXIT_FILE);
        }
        link.event(Event::Exited(record.clone()));
        self.exit = Some(record);
    }

    pub(crate) fn state(&self) -> State {
        let running = self.processes.values().filter_map(|process| match &process.target {
            Target::Exec(id) if !process.told => Some((id.clone(), None)),
            _ => None,
        });
        let ended = self.ended.iter().map(|(id, code)| (id.clone(), Some(*code)));
        let pids = self.processes.values().filter_map(|process| match &process.target {
            Target::Exec(id) => Some((id.clone(), process.pid)),
            Target::Init => None,
        });
        State {
            init: Some(self.init_pid),
            exited: self.exit.clone(),
            execs: ended.chain(running).collect(),
            exec_pids: pids.collect(),
            frozen: self.frozen,
        }
    }

    /// The descriptors held for the daemon.
    pub(crate) fn held(&self) -> (Reply, Vec<BorrowedFd<'_>>) {
        let all = self.netns.iter().chain(self.held.iter().map(|(_, fd)| fd));
        let borrowed: Vec<BorrowedFd<'_>> = all.map(AsFd::as_fd).collect();
        let first = u16::from(self.netns.is_some());
        let names = self.held.iter().zip(first..);
        let fds = names.map(|((name, _), fd)| HeldFd { name: name.clone(), fd }).collect();
        (Reply::Held { netns: self.netns.as_ref().map(|_| 0), fds }, borrowed)
    }

    /// Ends the connections of clients that have everything.
    pub(crate) fn dismiss(&mut self) {
        self.processes.values_mut().for_each(|process| process.stdio.dismiss());
    }

    pub(crate) fn trim(&mut self) {
        self.processes.values_mut().for_each(|process| process.stdio.trim());
    }

    /// Removes what the container was built of. What is left are streams with output for slow clients.
    pub(crate) fn dissolve(self) -> Vec<Stdio> {
        let Self { bundle, runtime, processes, netns, held, .. } = self;
        forget(&bundle.join(SOCKET_NAME));
        drop((netns, held));
        let streams =
            processes.into_values().map(|process| process.stdio).filter(Stdio::has_listeners).collect();
        match runtime {
            Runtime::Oci(oci) => oci.remove(),
            Runtime::Native(native) => native.remove(),
        }
        streams
    }

    /// Kills and removes a container that must not be.
    fn discard(self) {
        if let Some(init) = self.processes.get(&INIT) {
            if let Some(pidfd) = &init.pidfd {
                crate::runtime::kill(init.pid, pidfd.as_fd());
            }
        }
        if let Runtime::Native(native) = &self.runtime {
            if let Err(error) = native.cgroup().kill() {
                say!("{error}");
            }
        }
        self.dissolve();
    }
}

/// Makes sources of binds that are to be made, and has words for those that are missing.
fn look_at(sources: &[BindSource]) -> Outcome<()> {
    for BindSource { path, create, owner } in sources {
        let missing = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(internal(&format!("stat {path}"), error)),
            Ok(_) => false,
        };
        if missing && !create {
            return Err(invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {path}"
            )));
        }
        if missing {
            make_source(Path::new(path), *owner).map_err(|error| {
                internal(&format!("error while creating mount source path '{path}': mkdir {path}"), error)
            })?;
        }
    }
    Ok(())
}

/// Makes a directory with those above it that are missing.
fn make_source(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let missing: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
    for directory in missing.into_iter().rev() {
        match fs::DirBuilder::new().mode(0o755).create(directory) {
            Ok(()) => {}
            // Somebody else was first: it is his.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::lchown(directory, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

fn build(
    launch: &Launch,
    spec: Vec<u8>,
    namespaces: GivenNamespaces<'_>,
    seccomp: Option<OwnedFd>,
) -> Outcome<(Runtime, crate::runtime::Started, Vec<String>)> {
    match &launch.runtime {
        berth_shim_proto::Runtime::Native => {
            let (native, started, warnings) = native::launch(launch, spec, namespaces, seccomp)?;
            Ok((Runtime::Native(native), started, warnings))
        }
        berth_shim_proto::Runtime::Oci { path, args, root } => {
            let cli = Cli {
                program: path.into(),
                args: args.clone(),
                state: root.into(),
                bundle: Path::new(&launch.bundle).to_owned(),
                id: launch.container_id.clone(),
            };
            let (oci, started) = oci::launch(launch, &spec, namespaces, cli)?;
            Ok((Runtime::Oci(oci), started, Vec::new()))
        }
    }
}
