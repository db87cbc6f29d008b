// SPDX-License-Identifier: Apache-2.0
//! A daemon for one shim: spawns it over a socketpair, asks, and waits for answers and events with a
//! deadline. Everything it makes is gone when it is dropped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::needless_pass_by_value, dead_code)]

pub mod client;
pub mod spec;

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use berth_shim_proto::*;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Nothing that is waited for takes this long on a machine that works.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Which runtime builds the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builder {
    Native,
    Crun,
    Runc,
}

impl Builder {
    /// The runtime's program, or none for the native one; `Err` if the host lacks it.
    pub fn program(self) -> Result<Option<&'static str>, &'static str> {
        let path = match self {
            Self::Native => return Ok(None),
            Self::Crun => "/usr/bin/crun",
            Self::Runc => "/usr/bin/runc",
        };
        if Path::new(path).exists() { Ok(Some(path)) } else { Err(path) }
    }
}

pub struct Rig {
    pub id: String,
    pub builder: Builder,
    pub dir: tempfile::TempDir,
    pub spec: serde_json::Value,
    pub launch: Launch,
    /// Descriptors for the launch, by index.
    pub fds: Vec<OwnedFd>,
    child: Child,
    socket: Option<OwnedFd>,
    next: u64,
    events: VecDeque<Event>,
}

/// A json file that never rotates, unless `shape` says more.
pub fn log(path: String, shape: impl FnOnce(&mut LogFile)) -> Log {
    let mut file =
        LogFile { path, format: LogFormat::Json, max_size: None, max_files: 1, compress: false, attrs: None };
    shape(&mut file);
    Log { file: Some(file), sink: None }
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Rig {
    /// A container that will run `args`.
    pub fn new(builder: Builder, args: &[&str]) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("shimtest{}x{number}", std::process::id());
        let dir = tempfile::Builder::new().prefix("berth-shim-test").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for name in ["bundle", "upper", "work", "state"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let said = fs::File::create(dir.path().join("shim.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_berth-shim"))
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap();
        let launch = Launch {
            sources: Vec::new(),
            container_id: id.clone(),
            bundle: path("bundle"),
            root: Root::Overlay {
                lower: vec![spec::busybox().to_str().unwrap().to_owned()],
                upper: path("upper"),
                work: path("work"),
                volatile: true,
                mapped: false,
            },
            user: User::default(),
            terminal: None,
            open_stdin: false,
            stdin_once: false,
            log: log(path("log.json"), |_| {}),
            netns: None,

            userns: None,
            held: Vec::new(),
            seccomp: None,
            attach: Vec::new(),
            runtime: match builder.program() {
                Ok(Some(program)) => {
                    Runtime::Oci { path: program.to_owned(), args: Vec::new(), root: path("state") }
                }
                _ => Runtime::Native,
            },
            trace: false,
        };
        let spec = spec::spec(&id, args);
        Self {
            id,
            builder,
            dir,
            spec,
            launch,
            fds: Vec::new(),
            child,
            socket: Some(ours),
            next: 1,
            events: VecDeque::new(),
        }
    }

    pub fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub fn shim_pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Adds a descriptor for the launch.
    pub fn fd(&mut self, fd: OwnedFd) -> u16 {
        self.fds.push(fd);
        (self.fds.len() - 1).try_into().unwrap()
    }

    /// Adds a client for the launch.
    pub fn client(&mut self, shape: impl FnOnce(&mut Attach)) -> client::Client {
        let (client, theirs) = client::Client::pair();
        let mut attach = attach(self.fd(theirs));
        shape(&mut attach);
        self.launch.attach.push(attach);
        client
    }

    /// Launches and returns the answer.
    pub fn try_launch(&mut self) -> Reply {
        fs::write(self.bundle().join(SPEC_FILE), self.spec.to_string()).unwrap();
        let fds = std::mem::take(&mut self.fds);
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.ask_with(Request::Launch(Box::new(self.launch.clone())), &borrowed)
    }

    /// Sends the launch and drops the connection.
    pub fn launch_and_die(&mut self) {
        fs::write(self.bundle().join(SPEC_FILE), self.spec.to_string()).unwrap();
        let fds = std::mem::take(&mut self.fds);
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let request = Request::Launch(Box::new(self.launch.clone()));
        send(self.socket.as_ref().unwrap(), &ToShim { id: 1, request }, &borrowed).unwrap();
        self.drop_connection();
    }

    /// Launches; returns init's pid.
    pub fn launch(&mut self) -> i32 {
        match self.try_launch() {
            Reply::Launched { pid, .. } => pid,
            other => panic!("launch: {other:?}; shim.log: {}", self.shim_log()),
        }
    }

    pub fn ask(&mut self, request: Request) -> Reply {
        self.ask_with(request, &[])
    }

    pub fn done(&mut self, request: Request) {
        assert_eq!(self.ask(request), Reply::Done);
    }

    pub fn ask_with(&mut self, request: Request, fds: &[BorrowedFd<'_>]) -> Reply {
        self.ask_raw(&request, fds).0
    }

    pub fn ask_raw(
        &mut self,
        request: &impl serde::Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> (Reply, Vec<OwnedFd>) {
        let id = self.next;
        self.next += 1;
        let message = serde_json::json!({"id": id, "request": request});
        send(self.socket.as_ref().unwrap(), &message, fds).unwrap();
        loop {
            let packet = self.receive().expect("the shim closed the connection");
            match packet.message {
                FromShim::Event(event) => self.events.push_back(event),
                FromShim::Reply { id: answered, reply } => {
                    assert_eq!(answered, id);
                    return (reply, packet.fds);
                }
            }
        }
    }

    /// The next packet; `None` when the connection has ended.
    pub fn receive(&mut self) -> Option<Packet<FromShim>> {
        let socket = self.socket.as_ref().unwrap();
        readable(socket, "the shim says nothing");
        match recv(socket) {
            Ok(packet) => Some(packet),
            Err(PacketError::Closed) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for the next event.
    pub fn event(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let packet = self.receive();
        match packet.unwrap_or_else(|| panic!("the shim is gone; shim.log: {}", self.shim_log())).message {
            FromShim::Event(event) => event,
            FromShim::Reply { reply, .. } => panic!("an answer to nothing: {reply:?}"),
        }
    }

    /// Waits for init's end and the shim's; checks that nothing is left.
    pub fn exited(&mut self) -> ExitRecord {
        let record = loop {
            match self.event() {
                Event::Exited(record) => break record,
                Event::Oom => {}
                other => panic!("{other:?}"),
            }
        };
        let on_disk: ExitRecord =
            serde_json::from_slice(&fs::read(self.bundle().join(EXIT_FILE)).unwrap()).unwrap();
        assert_eq!(on_disk, record);
        self.gone();
        record
    }

    /// Waits for the shim's end; checks that nothing is left.
    pub fn gone(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.shim_pid()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        readable(&pidfd, "the shim does not end");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}; shim.log: {}", self.shim_log());
        assert!(!self.bundle().join(SOCKET_NAME).exists());
        assert!(!self.bundle().join("rootfs").exists());
        assert_eq!(cgroups(&self.id), Vec::<PathBuf>::new());
    }

    /// The daemon dies.
    pub fn drop_connection(&mut self) {
        self.socket = None;
        self.events.clear();
    }

    /// A new daemon comes.
    pub fn connect(&mut self) {
        self.socket = Some(self.dial());
    }

    pub fn replace_connection(&mut self, socket: OwnedFd) {
        self.socket = Some(socket);
    }

    pub fn dial(&self) -> OwnedFd {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let address = SocketAddrUnix::new(self.bundle().join(SOCKET_NAME)).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        socket
    }

    pub fn attach(&mut self, shape: impl FnOnce(&mut Attach)) -> client::Client {
        let (client, theirs) = client::Client::pair();
        let mut attach = attach(0);
        shape(&mut attach);
        assert_eq!(self.ask_with(Request::Attach(attach), &[theirs.as_fd()]), Reply::Done);
        client
    }

    /// Starts a process with its streams attached, multiplexed.
    pub fn exec(
        &mut self,
        id: &str,
        args: &[&str],
        shape: impl FnOnce(&mut Exec),
    ) -> (Reply, client::Client) {
        let (client, theirs) = client::Client::pair();
        let mut exec = Exec {
            exec_id: id.to_owned(),
            process: spec::process(args),
            user: User::default(),
            privileged: false,
            terminal: None,
            attach: Some(attach(0)),
        };
        shape(&mut exec);
        let fds = [theirs.as_fd()];
        let fds: &[BorrowedFd<'_>] = if exec.attach.is_some() { &fds } else { &[] };
        (self.ask_with(Request::Exec(Box::new(exec)), fds), client)
    }

    /// Waits for an exec's end.
    pub fn exec_exited(&mut self, id: &str) -> i32 {
        match self.event() {
            Event::ExecExited { exec_id, code } => {
                assert_eq!(exec_id, id);
                code
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn signal(&mut self, target: Target, signal: i32) -> Reply {
        self.ask(Request::Signal { target, signal, all: false })
    }

    /// Kills init and waits for the end.
    pub fn kill(&mut self) -> ExitRecord {
        assert_eq!(self.signal(Target::Init, libc::SIGKILL), Reply::Done);
        let record = self.exited();
        assert_eq!(record.code, 137);
        record
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log.json")
    }

    /// The log's records: stream and text.
    pub fn log(&self) -> Vec<(String, String)> {
        records(&self.log_path())
    }

    /// Waits until something is true of the rig's directory.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Path) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition(self.dir.path()) {
            assert!(Instant::now() < deadline, "waited in vain for {what}; shim.log: {}", self.shim_log());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Bytes of memory that are the shim's own.
    pub fn shim_memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.shim_pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    pub fn shim_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("shim.log")).unwrap()
    }

    /// Descriptors of the shim, once it has done all it was asked.
    pub fn shim_fds(&mut self) -> usize {
        assert!(matches!(self.ask(Request::State), Reply::State(_)));
        fs::read_dir(format!("/proc/{}/fd", self.shim_pid())).unwrap().count()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            let pids = fs::read(self.bundle().join(PID_FILE)).ok();
            if let Some(record) = pids.and_then(|p| serde_json::from_slice::<PidRecord>(&p).ok()) {
                let init = rustix::process::Pid::from_raw(record.init).unwrap();
                rustix::process::kill_process(init, rustix::process::Signal::KILL).ok();
            }
            self.child.kill().unwrap();
            self.child.wait().unwrap();
            // Of a test that failed; what still dies in there keeps its group.
            cgroups(&self.id).iter().for_each(|path| drop(fs::remove_dir(path)));
        }
        if std::thread::panicking() {
            eprintln!("shim.log: {}", self.shim_log());
        }
    }
}

/// An attachment to everything, multiplexed.
pub fn attach(fd: u16) -> Attach {
    Attach {
        fd,
        early: Vec::new(),
        stdin: true,
        stdout: true,
        stderr: true,
        multiplexed: true,
        detach_keys: Vec::new(),
        from_start: false,
    }
}

pub fn records(path: &Path) -> Vec<(String, String)> {
    parse(&fs::read_to_string(path).unwrap())
}

/// The records of a json file: stream and text.
pub fn parse(text: &str) -> Vec<(String, String)> {
    let record = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        (value["stream"].as_str().unwrap().to_owned(), value["log"].as_str().unwrap().to_owned())
    };
    text.lines().map(record).collect()
}

/// Waits until a descriptor is readable.
pub fn readable(fd: &impl AsFd, otherwise: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{otherwise}");
        let timeout = Timespec { tv_sec: left.as_secs().try_into().unwrap(), tv_nsec: 1_000_000 };
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Cgroups with the name, in any hierarchy.
pub fn cgroups(id: &str) -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path()));
    roots.into_iter().map(|root| root.join("berth-shim-test").join(id)).filter(|path| path.exists()).collect()
}

/// Whether two descriptors are the same object.
pub fn same(one: impl AsFd, other: impl AsFd) -> bool {
    let stat = |fd: BorrowedFd<'_>| {
        let stat = rustix::fs::fstat(fd).unwrap();
        (stat.st_dev, stat.st_ino)
    };
    stat(one.as_fd()) == stat(other.as_fd())
}

pub fn raw(fd: &impl AsRawFd) -> i32 {
    fd.as_raw_fd()
}
