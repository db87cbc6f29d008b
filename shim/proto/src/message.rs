// SPDX-License-Identifier: Apache-2.0
//! Requests (daemon to shim), replies and events (shim to daemon), and the files a shim leaves.

use serde::{Deserialize, Serialize};

use crate::Log;

/// Index of a file descriptor among those that came with the packet.
pub type FdIndex = u16;

/// Daemon to shim: one request, answered by exactly one [`FromShim::Reply`] with the same id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToShim {
    /// Chosen by the daemon, unique within the connection.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// Shim to daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromShim {
    /// The answer to request `id`.
    Reply {
        /// Id of the request.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// Something happened.
    Event(Event),
}

/// What a daemon asks of a shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Build the container and start its init process. Once in a shim's life.
    Launch(Box<Launch>),
    /// Join a stream to the container's stdio. Answered [`Reply::Done`] at once.
    Attach(Attach),
    /// Start a further process in the container. Answered [`Reply::ExecStarted`].
    Exec(Box<Exec>),
    /// Set a terminal's size.
    Resize {
        /// Whose terminal.
        target: Target,
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
    /// Send a signal. [`FailureKind::NotRunning`] if the target has ended.
    Signal {
        /// Whom.
        target: Target,
        /// Signal number, 1 to 64.
        signal: i32,
        /// Every process of the container rather than only the target.
        #[serde(default)]
        all: bool,
    },
    /// Freeze or thaw the container's cgroup; answered when the kernel says it is so.
    Freeze {
        /// True freezes.
        frozen: bool,
    },
    /// What is running. Answered [`Reply::State`].
    State,
    /// Hand over the descriptors held for the container ([`Launch::netns`], [`Launch::held`]).
    /// Answered [`Reply::Held`].
    Held,
    /// Replace the limits in the container's cgroup by those of this OCI `linux.resources` object (JSON).
    Update {
        /// `linux.resources` of the OCI runtime spec, as JSON.
        resources: serde_json::Value,
    },
}

/// Which process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// The container's init process.
    Init,
    /// The exec with this id.
    Exec(String),
}

/// Everything needed to start a container. The OCI runtime spec itself is [`crate::SPEC_FILE`] in `bundle`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// The container's id.
    pub container_id: String,
    /// The container's run directory (on a tmpfs): spec, socket, exit file.
    pub bundle: String,
    /// What becomes the container's `/`.
    pub root: Root,
    /// Who runs the init process, as the user wrote it; the shim resolves names inside the root.
    pub user: User,
    /// Give init a pseudo-terminal.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Keep init's stdin open for attachments (else it is `/dev/null`).
    #[serde(default)]
    pub open_stdin: bool,
    /// Close stdin when the first attachment with stdin ends its side.
    #[serde(default)]
    pub stdin_once: bool,
    /// Where output is recorded.
    #[serde(default)]
    pub log: Log,
    /// The network namespace to join: an fd of it. Held until the shim ends.
    #[serde(default)]
    pub netns: Option<FdIndex>,
    /// The user namespace to join: an fd of it. It owns the network namespace, and its mappings are those in the spec.
    #[serde(default)]
    pub userns: Option<FdIndex>,
    /// Descriptors that the shim holds for the daemon under a name (sockets reserving published ports,
    /// DNS sockets).
    #[serde(default)]
    pub held: Vec<HeldFd>,
    /// A compiled seccomp filter (`struct sock_filter` array in a memfd) that stands in for the spec's
    /// `linux.seccomp`; the native launcher only.
    #[serde(default)]
    pub seccomp: Option<FdIndex>,
    /// Streams to join before init runs.
    #[serde(default)]
    pub attach: Vec<Attach>,
    /// What the container's binds are made of. The shim looks whether it is there, since who asks a file system that does
    /// not answer waits with it.
    #[serde(default)]
    pub sources: Vec<BindSource>,
    /// Who builds the container.
    #[serde(default)]
    pub runtime: Runtime,
    /// Write the moments of the launch to standard error, for `make trace`.
    #[serde(default)]
    pub trace: bool,
}

/// The source of a bind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindSource {
    /// Its path.
    pub path: String,
    /// Make a directory if nothing is there.
    pub create: bool,
    /// Who owns what is made, as the host counts: a container's root that is not the host's.
    #[serde(default)]
    pub owner: Option<(u32, u32)>,
}

/// What becomes the container's `/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Root {
    /// An overlay mount, made detached by the shim and never visible in the host's mount table.
    Overlay {
        /// Lower directories, topmost first.
        lower: Vec<String>,
        /// Upper directory.
        upper: String,
        /// Work directory.
        work: String,
        /// Skip syncing at unmount (for containers that are removed when they end).
        #[serde(default)]
        volatile: bool,
        /// The lower directories' ids are as [`Launch::userns`] maps them; those of the upper one are the host's.
        #[serde(default)]
        mapped: bool,
    },
    /// A directory.
    Directory {
        /// Its path.
        path: String,
    },
}

/// A user as `--user` or the image's `USER` gives it; see the `process.user` rules of the image spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// `""`, `name`, `uid`, `name:group`, `uid:gid`, ... Numbers are numbers, never names.
    pub user: String,
    /// `--group-add`: names (looked up in the container's /etc/group) or numbers.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// A terminal's size in cells; 0 by 0 leaves the kernel's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// A descriptor held under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFd {
    /// The daemon's name for it, such as `port/tcp/0.0.0.0/8080`.
    pub name: String,
    /// The descriptor.
    pub fd: FdIndex,
}

/// Who builds the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Runtime {
    /// The shim's own launcher.
    #[default]
    Native,
    /// An external runtime, driven through the OCI command line (`create`, `start`, `kill`, `delete`, `exec`).
    Oci {
        /// Path of the program.
        path: String,
        /// Global arguments before the verb.
        #[serde(default)]
        args: Vec<String>,
        /// `--root` of the runtime's state.
        root: String,
    },
}

/// A stream joined to a process's stdio. The descriptor is a connected stream socket: the client's own
/// connection where that is possible, so that attached sessions outlive the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The socket.
    pub fd: FdIndex,
    /// Bytes that the client sent together with its request head; they come before what the socket has.
    #[serde(default)]
    pub early: Vec<u8>,
    /// Feed the process's stdin from the socket.
    pub stdin: bool,
    /// Send stdout.
    pub stdout: bool,
    /// Send stderr.
    pub stderr: bool,
    /// Frame output with the 8-byte stdcopy header (no terminal); raw otherwise.
    pub multiplexed: bool,
    /// The key sequence that ends the attachment and not the process; empty for none.
    #[serde(default)]
    pub detach_keys: Vec<u8>,
    /// It was asked for before the process began, by whoever runs it: its output is all there, however slow it is read.
    /// One who comes later looks on, and is let go of when he is stuck.
    #[serde(default)]
    pub from_start: bool,
}

/// A further process in the container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// The exec's id.
    pub exec_id: String,
    /// `process` of the OCI runtime spec, as JSON (args, env, cwd, capabilities, ...). The container's
    /// namespaces, cgroup, seccomp filter and no_new_privs are added by the shim.
    pub process: serde_json::Value,
    /// Who runs it.
    pub user: User,
    /// Grant all capabilities (`--privileged`); the container's seccomp filter stays.
    #[serde(default)]
    pub privileged: bool,
    /// Give it a pseudo-terminal.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Where its stdio goes; `None` is `/dev/null` (detached).
    #[serde(default)]
    pub attach: Option<Attach>,
}

/// How a request went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// Init runs.
    Launched {
        /// Its pid as the host sees it.
        pid: i32,
        /// What was asked and could not be given (an oom_score_adj that the host does not grant, ...).
        #[serde(default)]
        warnings: Vec<String>,
    },
    /// The exec runs.
    ExecStarted {
        /// Its pid as the host sees it.
        pid: i32,
    },
    /// Answer to [`Request::State`].
    State(State),
    /// Answer to [`Request::Held`]; the descriptors come with the packet.
    Held {
        /// The network namespace.
        netns: Option<FdIndex>,
        /// The named descriptors.
        fds: Vec<HeldFd>,
    },
    /// It did not work and left nothing behind.
    Failed(Failure),
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The meaning.
    pub kind: FailureKind,
    /// For a person: the step, the path, the cause.
    pub message: String,
}

/// The meaning of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The program is not in the container (exit code 127 for `docker run`).
    CommandNotFound,
    /// The program cannot be executed (exit code 126).
    CommandNotExecutable,
    /// The request or the spec asks for something that cannot be (unknown user, bad mount destination).
    InvalidInput,
    /// The target has ended or never ran.
    NotRunning,
    /// This shim does not know the request.
    Unsupported,
    /// Anything else.
    Internal,
}

/// What a shim tells of its own accord.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Init ended; the exit file is on disk, its output is in the log. The shim ends soon after.
    Exited(ExitRecord),
    /// An exec ended and its output was handed to its stream.
    ExecExited {
        /// Which.
        exec_id: String,
        /// Exit code; 128+n for a death by signal n.
        code: i32,
    },
    /// A client typed its detach keys.
    Detached {
        /// From whom.
        target: Target,
    },
    /// The kernel killed a process of the container for memory.
    Oom,
}

/// What [`crate::EXIT_FILE`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code; 128+n for a death by signal n.
    pub code: i32,
    /// Whether the kernel killed a process of the container for memory.
    pub oom_killed: bool,
    /// Unix time in nanoseconds.
    pub exited_at: i64,
    /// Codes of the execs that ended last (256 at most): a daemon that was away, or died with the news in its
    /// socket, has not heard of them.
    #[serde(default)]
    pub execs: Vec<(String, i32)>,
}

/// What [`crate::PID_FILE`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidRecord {
    /// The shim.
    pub shim: i32,
    /// The shim's start time in clock ticks since boot (field 22 of `/proc/PID/stat`): guards against pid reuse.
    pub shim_started: u64,
    /// The container's init.
    pub init: i32,
    /// Init's start time, likewise.
    pub init_started: u64,
    /// The kernel's [`BOOT_ID`] then: pids and start times say nothing after a reboot. Empty in records of older shims.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
}

/// Where the kernel says which boot this is.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl PidRecord {
    /// The record as it is to be taken in this boot: one of another boot names no process.
    #[must_use]
    pub fn in_boot(self, boot_id: &str) -> Self {
        let same = self.boot_id.is_empty() || self.boot_id == boot_id.trim();
        if same { self } else { Self { shim: 0, init: 0, ..self } }
    }
}

/// What runs under a shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Pid of init, if it was launched.
    pub init: Option<i32>,
    /// Set once init has ended.
    pub exited: Option<ExitRecord>,
    /// Execs that run (`None`), and those that ended last (their code; 256 at most).
    pub execs: Vec<(String, Option<i32>)>,
    /// Pids, as the host sees them, of the execs that run.
    #[serde(default)]
    pub exec_pids: Vec<(String, i32)>,
    /// Frozen by [`Request::Freeze`].
    pub frozen: bool,
}
