// SPDX-License-Identifier: Apache-2.0
//! OCI hooks: programs of the host's that a spec wants run beside a container's own, such as those with which a device's
//! vendor completes the container's file system (CDI).
//!
//! They come from files that only the host's administrator writes, and run with the launcher's rights. So `startContainer`
//! hooks are refused: theirs is a program of the image.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{ContainerState, Hook, Spec, StateBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::error::{Context as _, Error, Result};

/// A hook that names no time has this long: a start must not wait for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// What of a failed hook's output is told.
const MAX_OUTPUT: usize = 2048;
/// Where `createContainer` hooks find the container's root, beneath the bundle, as `root.path` says.
const ROOTFS: &str = "rootfs";

/// What hooks are told of the container, besides what its spec says.
#[derive(Debug, Clone, Copy)]
pub struct Bundle<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The directory with `config.json`.
    pub path: &'a Path,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Namespaces are there, the root is not; outside the container.
    CreateRuntime,
    /// The root is complete and not yet entered; in the container's namespaces.
    CreateContainer,
    /// The container's program runs; outside.
    Poststart,
    /// The container is gone; outside.
    Poststop,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// The hooks of a spec, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hooks<'a> {
    spec: &'a Spec,
    bundle: Bundle<'a>,
}

impl<'a> Hooks<'a> {
    /// `None` when the spec has none.
    pub(crate) fn new(spec: &'a Spec, bundle: Option<Bundle<'a>>) -> Result<Option<Self>> {
        let Some(hooks) = spec.hooks() else { return Ok(None) };
        if hooks.start_container().as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(Error::invalid(
                "hooks.startContainer is not supported by the native launcher: a runtime such as runc runs these",
            ));
        }
        let moments = [Moment::CreateRuntime, Moment::CreateContainer, Moment::Poststart, Moment::Poststop];
        let mut any = false;
        for moment in moments {
            for hook in list(spec, moment) {
                any = true;
                let what = || format!("hooks.{}: {}", moment.name(), hook.path().display());
                if !hook.path().is_absolute() {
                    return Err(Error::invalid(format!("{} is not an absolute path", what())));
                }
                if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                    return Err(Error::invalid(format!("{}: a timeout is above 0", what())));
                }
            }
        }
        match (any, bundle) {
            (false, _) => Ok(None),
            (true, Some(bundle)) => Ok(Some(Self { spec, bundle })),
            (true, None) => Err(Error::invalid("hooks need a bundle to be told of")),
        }
    }

    pub(crate) fn has(&self, moment: Moment) -> bool {
        list(self.spec, moment).next().is_some()
    }

    /// Where the root is to be attached so that `createContainer` hooks find it.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle.path.join(ROOTFS)
    }

    /// Makes the place for the root; the bundle's owner removes it.
    pub(crate) fn make_rootfs(&self) -> Result<()> {
        let path = self.rootfs();
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).context(|| format!("make {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Runs all hooks of a moment in order, up to the first that fails.
    pub(crate) fn run(&self, moment: Moment, pid: i32) -> Result<()> {
        let state = self.state(moment, pid)?;
        let directory = (moment == Moment::CreateContainer).then(|| self.rootfs());
        for (number, hook) in list(self.spec, moment).enumerate() {
            run_one(hook, &state, directory.as_deref()).map_err(|why| {
                Error::internal(format!("error running {} hook #{number}: {why}", moment.name()))
            })?;
        }
        Ok(())
    }

    /// Runs all hooks of a moment, whatever becomes of each, and tells what went wrong.
    pub(crate) fn run_all(&self, moment: Moment, pid: i32) -> Vec<String> {
        let state = match self.state(moment, pid) {
            Ok(state) => state,
            Err(error) => return vec![error.message],
        };
        let run = |(number, hook): (usize, &Hook)| {
            let failed = run_one(hook, &state, None).err();
            failed.map(|why| format!("error running {} hook #{number}: {why}", moment.name()))
        };
        list(self.spec, moment).enumerate().filter_map(run).collect()
    }

    fn state(&self, moment: Moment, pid: i32) -> Result<Vec<u8>> {
        let status = match moment {
            Moment::CreateRuntime | Moment::CreateContainer => ContainerState::Creating,
            Moment::Poststart => ContainerState::Running,
            Moment::Poststop => ContainerState::Stopped,
        };
        let mut state = StateBuilder::default()
            .version(self.spec.version().clone())
            .id(self.bundle.id)
            .status(status)
            .bundle(self.bundle.path)
            .annotations(self.spec.annotations().clone().unwrap_or_default());
        if moment != Moment::Poststop {
            state = state.pid(pid);
        }
        let state = state.build().context(|| "the state for hooks")?;
        serde_json::to_vec(&state).context(|| "the state for hooks")
    }
}

/// Runs the `poststop` hooks of a container that is gone; answers what went wrong.
#[must_use]
pub fn poststop(spec: &Spec, bundle: Bundle<'_>) -> Vec<String> {
    match Hooks::new(spec, Some(bundle)) {
        Ok(Some(hooks)) => hooks.run_all(Moment::Poststop, 0),
        Ok(None) => Vec::new(),
        Err(error) => vec![error.message],
    }
}

#[allow(deprecated)] // A prestart hook runs where createRuntime hooks do, ahead of them.
fn list(spec: &Spec, moment: Moment) -> impl Iterator<Item = &Hook> {
    let hooks = spec.hooks().as_ref();
    let (first, then) = match moment {
        Moment::CreateRuntime => {
            (hooks.and_then(|h| h.prestart().as_ref()), hooks.and_then(|h| h.create_runtime().as_ref()))
        }
        Moment::CreateContainer => (None, hooks.and_then(|h| h.create_container().as_ref())),
        Moment::Poststart => (None, hooks.and_then(|h| h.poststart().as_ref())),
        Moment::Poststop => (None, hooks.and_then(|h| h.poststop().as_ref())),
    };
    first.into_iter().chain(then).flatten()
}

/// Runs one hook to its end, or kills it when its time is up.
fn run_one(hook: &Hook, state: &[u8], directory: Option<&Path>) -> std::result::Result<(), String> {
    let path = hook.path().display();
    let failed = |step: &str, cause: &dyn std::fmt::Display| format!("{path}: {step}: {cause}");
    let stdin = rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC).map_err(|e| failed("memfd", &e))?;
    let mut stdin = std::fs::File::from(stdin);
    stdin.write_all(state).map_err(|e| failed("memfd", &e))?;
    rustix::fs::seek(&stdin, rustix::fs::SeekFrom::Start(0)).map_err(|e| failed("memfd", &e))?;
    let (output, writer) =
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| failed("pipe", &e))?;
    let copy = writer.try_clone().map_err(|e| failed("pipe", &e))?;

    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    command.envs(hook.env().iter().flatten().filter_map(|one| one.split_once('=')));
    command.stdin(Stdio::from(stdin)).stdout(Stdio::from(writer)).stderr(Stdio::from(copy));
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let child = command.spawn().map_err(|e| failed("exec", &e))?;
    drop(command);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| failed("exec", &"no pid"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| failed("pidfd_open", &e))?;
    let patience = hook.timeout().and_then(|s| u64::try_from(s).ok()).map_or(PATIENCE, Duration::from_secs);
    let (said, in_time) = attend(&pidfd, &output, Instant::now() + patience);
    if !in_time {
        // It is a child of this process and not yet reaped: the signal finds it.
        pidfd_send_signal(&pidfd, Signal::KILL).map_err(|e| failed("kill", &e))?;
    }
    let ended = retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
    let ended = ended.map_err(|e| failed("wait", &e))?;
    let how = match ended.as_ref().map(|e| (e.exit_status(), e.terminating_signal())) {
        _ if !in_time => format!("not done within {} s", patience.as_secs()),
        Some((Some(0), _)) => return Ok(()),
        Some((Some(code), _)) => format!("exit status {code}"),
        Some((_, Some(signal))) => format!("killed by signal {signal}"),
        _ => "ended in an unknown way".to_owned(),
    };
    let said = String::from_utf8_lossy(&said);
    Err(format!("{path}: {how}, output: {}", said.trim()))
}

/// Reads what a hook says until it has ended; false if it has not by then.
fn attend(pidfd: &OwnedFd, output: &OwnedFd, deadline: Instant) -> (Vec<u8>, bool) {
    let mut said = Vec::new();
    let mut open = true;
    loop {
        open = open && drain(output, &mut said);
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return (said, false),
            Ok(_) if fds.first().is_some_and(|fd| !fd.revents().is_empty()) => {
                drain(output, &mut said);
                return (said, true);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return (said, false),
        }
    }
}

/// Reads what is there, and keeps its beginning; false at the end of it.
fn drain(output: &OwnedFd, said: &mut Vec<u8>) -> bool {
    let mut buffer = [0u8; 4096];
    loop {
        match rustix::io::read(output, &mut buffer) {
            Ok(0) => return false,
            Ok(n) => {
                let room = MAX_OUTPUT.saturating_sub(said.len());
                said.extend_from_slice(&buffer[..n.min(room)]);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
}
