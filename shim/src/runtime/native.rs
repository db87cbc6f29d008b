// SPDX-License-Identifier: Apache-2.0
//! Containers built by the launcher of our own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_launch::cgroup::Cgroup;
use berth_launch::{Bundle, ExecInput, LaunchInput, Launched, Overlay, UserRequest};
use berth_seccomp::SockFilter;
use berth_shim_proto::{Exec, Launch, Root};
use oci_spec::runtime::{LinuxResources, Process, Spec};

use super::{Outcome, Started, internal, invalid, launch_failure};
use crate::container::GivenNamespaces;
use crate::say::say;
use crate::stdio::{self, Ends, Wanted};

/// A filter has at most this many instructions (the kernel's `BPF_MAXINSNS`).
const MAX_FILTER: usize = 4096;

/// What is kept of a container.
#[derive(Debug)]
pub(crate) struct Native {
    cgroup: Cgroup,
    /// Dropped after the exit was told: the kernel's teardown of the mounts waits for it.
    _mounts: Option<OwnedFd>,
    /// The spec as it was launched. Parsed anew for each exec: that costs less than keeping it parsed.
    spec: Box<[u8]>,
    seccomp: Option<OwnedFd>,
    /// For hooks at the end: the container's id and its bundle.
    hooked: Option<(String, PathBuf)>,
}

/// Builds the container and starts its init.
pub(crate) fn launch(
    launch: &Launch,
    spec: Vec<u8>,
    namespaces: GivenNamespaces<'_>,
    seccomp: Option<OwnedFd>,
) -> Outcome<(Native, Started, Vec<String>)> {
    let parsed: Spec = parse(&spec)?;
    berth_launch::trace::mark("shim", "reading the spec");
    let filter = seccomp.as_ref().map(read_filter).transpose()?;
    let wanted = Wanted { stdin: launch.open_stdin, stdout: true, stderr: true };
    let (stdio, ends) = standard_streams(launch.terminal, wanted)?;
    let launched = berth_launch::launch(LaunchInput {
        spec: &parsed,
        root: root(&launch.root),
        user: Some(UserRequest { user: &launch.user.user, groups: &launch.user.groups }),
        stdio,
        netns: namespaces.net,
        userns: namespaces.user,
        seccomp: filter.as_deref(),
        bundle: Some(Bundle { id: &launch.container_id, path: Path::new(&launch.bundle) }),
    })
    .map_err(launch_failure)?;
    let cgroup = launched.cgroup.clone();
    let (started, mounts, warnings) = started(launched, ends, launch.open_stdin).inspect_err(|_| {
        if let Err(error) = cgroup.kill().and_then(|()| cgroup.remove()) {
            say!("{error}");
        }
    })?;
    let last = parsed.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref());
    let hooked = last
        .is_some_and(|list| !list.is_empty())
        .then(|| (launch.container_id.clone(), PathBuf::from(&launch.bundle)));
    let native = Native { cgroup, _mounts: mounts, spec: spec.into_boxed_slice(), seccomp, hooked };
    Ok((native, started, warnings))
}

impl Native {
    /// Starts a further process.
    pub(crate) fn exec(&self, exec: &Exec, init_pid: i32, init: BorrowedFd<'_>) -> Outcome<Started> {
        let spec: Spec = parse(&self.spec)?;
        let process = process(exec)?;
        let filter = self.seccomp.as_ref().map(read_filter).transpose()?;
        let attach = exec.attach.as_ref();
        let wanted = Wanted {
            stdin: attach.is_some_and(|a| a.stdin),
            stdout: attach.is_some_and(|a| a.stdout),
            stderr: attach.is_some_and(|a| a.stderr),
        };
        let (stdio, ends) = standard_streams(exec.terminal, wanted)?;
        let launched = berth_launch::exec(ExecInput {
            spec: &spec,
            init_pid,
            init,
            cgroup: &self.cgroup,
            process: &process,
            user: Some(UserRequest { user: &exec.user.user, groups: &exec.user.groups }),
            stdio,
            seccomp: filter.as_deref(),
            privileged: exec.privileged,
        })
        .map_err(launch_failure)?;
        Ok(started(launched, ends, wanted.stdin)?.0)
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Removes the cgroup; the mounts go with this.
    pub(crate) fn remove(self) {
        if let Err(error) = self.cgroup.remove() {
            say!("removing the cgroup: {error}");
        }
        let Some((id, bundle)) = &self.hooked else { return };
        match parse(&self.spec) {
            Ok(spec) => {
                let failed = berth_launch::poststop(&spec, Bundle { id, path: bundle });
                failed.iter().for_each(|why| say!("{why}"));
            }
            Err(failure) => say!("hooks at the end: {}", failure.message),
        }
    }

    pub(crate) fn update(&self, resources: &serde_json::Value) -> Outcome<Vec<String>> {
        let resources: LinuxResources =
            serde_json::from_str(&resources.to_string()).map_err(|e| invalid(format!("resources: {e}")))?;
        self.cgroup.update(&resources).map_err(launch_failure)
    }
}

/// `process` of an exec request; the user is not in it.
pub(super) fn process(exec: &Exec) -> Outcome<Process> {
    let mut process = exec.process.clone();
    if let Some(object) = process.as_object_mut() {
        object.entry("user").or_insert_with(|| serde_json::json!({"uid": 0, "gid": 0}));
        object.entry("cwd").or_insert_with(|| "/".into());
    }
    // By way of text: the code that reads a spec's process is there already.
    serde_json::from_str(&process.to_string()).map_err(|e| invalid(format!("process: {e}")))
}

fn started(
    launched: Launched,
    ends: Option<Ends>,
    with_stdin: bool,
) -> Outcome<(Started, Option<OwnedFd>, Vec<String>)> {
    let Launched { pid, pidfd, pty_master, mount_namespace, warnings, .. } = launched;
    let ends = match (ends, pty_master) {
        (Some(ends), _) => Ok(ends),
        (None, Some(master)) => stdio::terminal(master, with_stdin).map_err(|e| internal("terminal", e)),
        (None, None) => Err(internal("terminal", "the launcher made none")),
    };
    match ends {
        Ok(ends) => Ok((Started { pid, pidfd: Some(pidfd), ends }, mount_namespace, warnings)),
        Err(failure) => {
            super::kill(pid, pidfd.as_fd());
            Err(failure)
        }
    }
}

fn parse(spec: &[u8]) -> Outcome<Spec> {
    serde_json::from_slice(spec).map_err(|e| invalid(format!("config.json: {e}")))
}

/// The launcher's form of a root.
pub(super) fn root(root: &Root) -> berth_launch::Root {
    match root {
        Root::Overlay { lower, upper, work, volatile, mapped } => berth_launch::Root::Overlay(Overlay {
            lower: lower.iter().map(PathBuf::from).collect(),
            upper: upper.into(),
            work: work.into(),
            volatile: *volatile,
            mapped: *mapped,
        }),
        Root::Directory { path } => berth_launch::Root::Directory(path.into()),
    }
}

fn standard_streams(
    terminal: Option<berth_shim_proto::TerminalSize>,
    wanted: Wanted,
) -> Outcome<(berth_launch::Stdio, Option<Ends>)> {
    if let Some(size) = terminal {
        let size = berth_launch::TerminalSize { rows: size.height, columns: size.width };
        return Ok((berth_launch::Stdio::Terminal(size), None));
    }
    let (fds, ends) = stdio::pipes(wanted).map_err(|e| internal("pipes", e))?;
    Ok((berth_launch::Stdio::Fds(fds), Some(ends)))
}

/// Reads a filter from the memfd that the daemon shares between all containers.
fn read_filter(memfd: &OwnedFd) -> Outcome<Vec<SockFilter>> {
    let size = std::mem::size_of::<SockFilter>();
    let mut bytes = vec![0u8; MAX_FILTER * size + 1];
    let mut length = 0;
    loop {
        let rest = bytes.get_mut(length..).unwrap_or_default();
        // By position: the memfd's offset is shared with every other shim.
        match rustix::io::pread(memfd, rest, length as u64) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(internal("seccomp filter", error)),
        }
    }
    if length == 0 || length % size != 0 || length > MAX_FILTER * size {
        return Err(invalid(format!("a seccomp filter of {length} bytes")));
    }
    Ok(bytes[..length]
        .chunks_exact(size)
        .map(|c| SockFilter {
            code: u16::from_ne_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
        })
        .collect())
}
