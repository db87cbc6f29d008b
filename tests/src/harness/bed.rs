// SPDX-License-Identifier: Apache-2.0
//! The test bed: network namespace, registry, daemon, and the clean end of all of them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::cli::{Cli, Output, build_dir};
use super::http::{self, Response};
use super::leaks;
use super::netns::NetNs;
use super::pty::Pty;
use super::wait::until;
use crate::fixtures;

/// What a test wants of its bed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Serve the fixture images on the bed's loopback and use that registry as the mirror of Docker Hub.
    pub registry: bool,
    /// Further flags for the daemon.
    pub flags: Vec<String>,
    /// Environment variables of the daemon.
    pub env: Vec<(String, String)>,
    /// The daemon's data root; a folder of the bed if not said.
    pub data_root: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { registry: true, flags: Vec::new(), env: Vec::new(), data_root: None }
    }
}

/// A host of the test's own. End it with [`Bed::finish`], which looks for leftovers.
pub struct Bed {
    /// The bed's network namespace: "the host" as containers and published ports see it.
    pub netns: NetNs,
    dir: tempfile::TempDir,
    options: Options,
    registry: Option<Child>,
    daemon: Option<Child>,
    socket: PathBuf,
    cgroup_parent: String,
    /// At which named step the next daemon dies (`BERTH_DIE_AT`).
    die_at: Option<String>,
    finished: bool,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The engine under test when it is not ours.
fn reference() -> Option<PathBuf> {
    let target = std::env::var("BERTH_TEST_TARGET").ok()?;
    Some(PathBuf::from(target.strip_prefix("unix://").expect("BERTH_TEST_TARGET is unix:///path")))
}

/// Whether containers are to be in units: `BERTH_TEST_CGROUP_DRIVER=systemd`.
fn under_systemd() -> bool {
    std::env::var_os("BERTH_TEST_CGROUP_DRIVER").is_some_and(|driver| driver == "systemd")
}

/// A bed's cgroup or slice; of one component, wherever it is made.
fn cgroup_parent(number: u32) -> String {
    let pid = std::process::id();
    if under_systemd() {
        format!("berthtest{pid}x{number}.slice")
    } else {
        format!("berth-test-{pid}-{number}")
    }
}

fn shim_path() -> PathBuf {
    if let Some(path) = std::env::var_os("BERTH_TEST_SHIM") {
        return PathBuf::from(path);
    }
    let static_one = build_dir()
        .parent()
        .expect("the target folder")
        .join(format!("{}-unknown-linux-gnu/shim/berth-shim", std::env::consts::ARCH));
    if static_one.exists() { static_one } else { build_dir().join("berth-shim") }
}

impl Bed {
    /// A bed with the fixture registry and a running daemon.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// A bed as asked.
    #[must_use]
    pub fn with(options: Options) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("berth-test-")
            .tempdir_in("/var/tmp")
            .expect("a folder for the bed");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut bed = Self {
            netns: match std::env::var_os("BERTH_TEST_NETNS") {
                Some(path) if reference().is_some() => NetNs::open(Path::new(&path)),
                _ => NetNs::new(),
            },
            socket: reference().unwrap_or_else(|| dir.path().join("run/berth.sock")),
            dir,
            options,
            registry: None,
            daemon: None,
            cgroup_parent: cgroup_parent(number),
            die_at: None,
            finished: false,
        };
        if bed.is_ours() {
            if bed.options.registry {
                bed.start_registry();
            }
            bed.start_daemon();
        } else {
            bed.clear();
            bed.clear_images();
            let pruned = bed.api("POST", "/networks/prune", "");
            assert_eq!(pruned.status, 200, "{}", pruned.text());
        }
        bed
    }

    /// False when the tests run against a reference engine, whose process and files are not ours to touch.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        reference().is_none()
    }

    /// The bed's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The daemon's data root.
    #[must_use]
    pub fn data_root(&self) -> PathBuf {
        self.options.data_root.clone().unwrap_or_else(|| self.dir.path().join("data"))
    }

    /// The daemon's exec root.
    #[must_use]
    pub fn exec_root(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The daemon's pid.
    #[must_use]
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("a running daemon").id()
    }

    /// The daemon's log so far.
    #[must_use]
    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("daemon.log")).unwrap_or_default()
    }

    fn start_registry(&mut self) {
        let store = fixtures::ensure().join("registry");
        self.start_registry_on(&store);
    }

    /// Starts the registry on another folder of blobs.
    pub fn start_registry_on(&mut self, store: &Path) {
        let cache = fixtures::ensure();
        let config = self.dir.path().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  maintenance:\n    readonly:\n      enabled: true\nhttp:\n  addr: 127.0.0.1:5000\n",
            store.display()
        );
        std::fs::write(&config, text).expect("writing the registry's configuration");
        let log = File::create(self.dir.path().join("registry.log")).expect("creating the registry's log");
        let mut command = Command::new(cache.join("bin/docker-registry"));
        command.arg("serve").arg(&config).stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        command.env_remove("OTEL_TRACES_EXPORTER");
        self.netns.place(&mut command);
        self.registry = Some(command.spawn().expect("starting docker-registry"));
        self.netns.run(|| {
            until("the registry listens", || TcpStream::connect("127.0.0.1:5000").ok());
        });
    }

    /// Ends the registry, as when it is down.
    pub fn stop_registry(&mut self) {
        if let Some(mut registry) = self.registry.take() {
            registry.kill().expect("ending the registry");
            registry.wait().expect("waiting for the registry");
        }
    }

    /// The command that starts the daemon, not yet started.
    #[must_use]
    pub fn daemon_command(&self) -> Command {
        let mut command = Command::new(build_dir().join("berthd"));
        command
            .arg("--data-root")
            .arg(self.data_root())
            .arg("--exec-root")
            .arg(self.exec_root())
            .arg("--config-file")
            .arg(self.dir.path().join("daemon.json"))
            .arg("--pidfile")
            .arg(self.dir.path().join("berthd.pid"))
            .arg("--shim-path")
            .arg(shim_path())
            .arg("--cgroup-parent")
            .arg(&self.cgroup_parent)
            .args(under_systemd().then_some("--exec-opt=native.cgroupdriver=systemd"))
            .args(["--registry-mirror", "http://127.0.0.1:5000"])
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()))
            .args(&self.options.flags)
            .envs(self.options.env.iter().cloned())
            .stdin(Stdio::null());
        command.envs(self.die_at.as_ref().map(|step| ("BERTH_DIE_AT", step)));
        self.netns.place(&mut command);
        command
    }

    /// Has the daemons that are started from now on die at a named step (`berth_domain::step`), as by `kill -9`.
    pub fn die_at(&mut self, step: Option<&str>) {
        self.die_at = step.map(str::to_owned);
    }

    /// Has the daemons that are started from now on lay out cgroups elsewhere; answers where they were.
    pub fn move_cgroups(&mut self) -> String {
        let next = cgroup_parent(NEXT.fetch_add(1, Ordering::Relaxed));
        std::mem::replace(&mut self.cgroup_parent, next)
    }

    /// Removes what [`Bed::move_cgroups`] answered, in which nothing may be left.
    pub fn forget_cgroups(&self, parent: &str) {
        assert_eq!(leaks::cgroups(parent), Vec::<String>::new(), "groups left below {parent}");
        leaks::remove_cgroup_parent(parent);
    }

    /// Waits for the end of a daemon that dies by itself.
    pub fn await_death(&mut self) {
        let mut daemon = self.daemon.take().expect("a running daemon");
        until("the daemon has died", || daemon.try_wait().expect("asking for the daemon"));
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start_daemon(&mut self) {
        let config = self.dir.path().join("daemon.json");
        if !config.exists() {
            std::fs::write(&config, "{}").expect("writing daemon.json");
        }
        let notify = self.dir.path().join("notify.sock");
        if notify.exists() {
            std::fs::remove_file(&notify).expect("removing the old notify socket");
        }
        let socket = UnixDatagram::bind(&notify).expect("binding the notify socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("daemon.log"))
            .expect("the daemon's log");
        let mut command = self.daemon_command();
        command.env("NOTIFY_SOCKET", &notify).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().expect("starting berthd");
        until("the daemon is ready", || {
            if let Some(status) = child.try_wait().expect("asking for the daemon") {
                panic!("berthd ended with {status}:\n{}", self.daemon_log());
            }
            let mut buffer = [0u8; 512];
            let n = socket.recv(&mut buffer).ok()?;
            String::from_utf8_lossy(&buffer[..n]).contains("READY=1").then_some(())
        });
        self.daemon = Some(child);
    }

    /// `kill -9`.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a running daemon");
        daemon.kill().expect("killing the daemon");
        daemon.wait().expect("waiting for the daemon");
    }

    /// SIGTERM, and wait for its end.
    pub fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a running daemon");
        let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("ending the daemon");
        let status =
            until("the daemon ends on SIGTERM", || daemon.try_wait().expect("asking for the daemon"));
        assert!(status.success(), "berthd ended with {status}:\n{}", self.daemon_log());
    }

    /// A command line with its environment set, not yet started.
    #[must_use]
    pub fn command(&self, cli: Cli, args: &[&str]) -> Command {
        let mut command = Command::new(cli.program());
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env("DOCKER_CONFIG", self.dir.path().join("cli-config"))
            .env("DOCKER_CLI_HINTS", "false")
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_TLS_VERIFY");
        command
    }

    /// Runs a command line to its end.
    #[must_use]
    pub fn run(&self, cli: Cli, args: &[&str]) -> Output {
        Output::of(&mut self.command(cli, args))
    }

    /// Runs the docker CLI to its end.
    #[must_use]
    pub fn docker(&self, args: &[&str]) -> Output {
        self.run(Cli::Docker, args)
    }

    /// Starts a command line on a pseudo-terminal.
    #[must_use]
    pub fn pty(&self, cli: Cli, args: &[&str]) -> Pty {
        Pty::spawn(&mut self.command(cli, args))
    }

    /// One request of the API's newest version.
    #[must_use]
    pub fn api(&self, method: &str, path: &str, body: &str) -> Response {
        let headers: &[(&str, &str)] =
            if body.is_empty() { &[] } else { &[("Content-Type", "application/json")] };
        http::request(&self.socket, method, path, headers, body.as_bytes())
    }

    /// One request with its own headers and any body.
    #[must_use]
    pub fn api_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        http::request(&self.socket, method, path, headers, body)
    }

    /// Subscribes to the engine's events; lines arrive on the returned reader.
    #[must_use]
    pub fn events(&self, filters: &str) -> Events {
        let mut args = vec!["events", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"];
        if !filters.is_empty() {
            args.extend(["--filter", filters]);
        }
        // A `since` in the past makes the subscription's start irrelevant.
        args.extend(["--since", "1"]);
        let mut child =
            self.command(Cli::Docker, &args).stdout(Stdio::piped()).spawn().expect("docker events");
        let lines = BufReader::new(child.stdout.take().expect("its output"));
        Events { child, lines }
    }

    /// Removes every container, as tests on a shared engine must.
    fn clear(&self) {
        let all = self.api("GET", "/containers/json?all=1", "").json();
        for container in all.as_array().expect("a list of containers") {
            let id = container["Id"].as_str().expect("an id");
            let gone = self.api("DELETE", &format!("/containers/{id}?force=1&v=1"), "");
            assert!(matches!(gone.status, 204 | 404 | 409), "removing {id}: {} {}", gone.status, gone.text());
        }
    }

    /// Removes every image, as a test that pulls expects of an engine that others used before.
    fn clear_images(&self) {
        for image in self.api("GET", "/images/json", "").json().as_array().expect("a list of images") {
            let id = image["Id"].as_str().expect("an id");
            let gone = self.api("DELETE", &format!("/images/{id}?force=1"), "");
            assert!(matches!(gone.status, 200 | 404), "removing {id}: {}", gone.text());
        }
    }

    /// Removes all containers, looks for leftovers, ends the daemon, looks again.
    pub fn finish(mut self) {
        self.clear();
        if self.is_ours() {
            self.check_idle();
            self.stop_daemon();
            self.stop_registry();
            until(&format!("no process of the bed is left: {:?}", self.survivors()), || {
                self.survivors().is_empty().then_some(())
            });
            // While it runs the daemon keeps a few namespaces ready, so that links are counted after its end.
            let links = || {
                leaks::links(&self.netns)
                    .into_iter()
                    .filter(|l| l.starts_with("vb") || l.starts_with("veth"))
                    .count()
            };
            until("no link is left", || (links() == 0).then_some(()));
            let mounts = leaks::mounts_beneath(self.dir.path());
            assert!(mounts.is_empty(), "mounts left: {mounts:#?}");
            leaks::remove_cgroup_parent(&self.cgroup_parent);
        }
        self.finished = true;
    }

    /// Nothing of any container is left while the daemon runs on.
    fn check_idle(&self) {
        let empty = |what: &str, look: &dyn Fn() -> Vec<String>| {
            until(&format!("no {what} is left, but {:?}", look()), || look().is_empty().then_some(()));
        };
        empty("container folder", &|| leaks::names_in(&self.data_root().join("containers")));
        empty("run folder", &|| leaks::names_in(&self.exec_root().join("containers")));
        empty("cgroup", &|| leaks::cgroups(&self.cgroup_parent));
        empty("mount", &|| leaks::mounts_beneath(self.dir.path()));
        // The daemon keeps this many sandboxes ready for whoever comes next; more are left over.
        const READY: usize = 2;
        empty("link", &|| {
            let mut links = leaks::links(&self.netns);
            links.retain(|l| l.starts_with("vb") || l.starts_with("veth"));
            if links.len() > READY { links } else { Vec::new() }
        });
        empty("shim", &|| {
            self.survivors().into_iter().map(leaks::describe).filter(|p| p.contains("berth-shim")).collect()
        });
        empty("published port", &|| self.published_ports());
        empty("half-made file", &|| {
            let mut names = leaks::names_in(&self.data_root().join("staging"));
            // What can be resumed is kept on purpose.
            names.retain(|n| !n.contains(".partial"));
            names.extend(leaks::names_in(&self.data_root().join("removing")));
            names
        });
        let mut held = Vec::new();
        let fds = format!("/proc/{}/fd", self.daemon_pid());
        for fd in std::fs::read_dir(&fds).expect("the daemon's descriptors").filter_map(Result::ok) {
            if let Ok(target) = std::fs::read_link(fd.path()) {
                if target.to_string_lossy().contains("/containers/") {
                    held.push(target);
                }
            }
        }
        assert!(held.is_empty(), "the daemon still holds {held:?}");
    }

    /// The elements of the maps that published ports are in, one string a map that has any.
    #[must_use]
    pub fn published_ports(&self) -> Vec<String> {
        let listed = self.netns.run(|| Output::of(Command::new("nft").args(["list", "ruleset"])));
        if listed.stderr.contains("Protocol not supported") {
            // A kernel without nftables.
            return Vec::new();
        }
        let ruleset = listed.ok();
        ruleset
            .split("\tmap ports")
            .skip(1)
            .filter_map(|map| map.split('}').next())
            .filter_map(|map| map.split_once("elements = {").map(|(_, elements)| elements.trim().to_owned()))
            .collect()
    }

    /// Processes of the bed beside the daemon and the registry.
    fn survivors(&self) -> Vec<i32> {
        let own: Vec<u32> = [&self.daemon, &self.registry].into_iter().flatten().map(Child::id).collect();
        leaks::processes_in(&self.netns)
            .into_iter()
            .filter(|p| !own.contains(&u32::try_from(*p).unwrap()))
            .collect()
    }
}

impl Drop for Bed {
    /// After a failed test: end what was started, so that the next one finds a clean machine.
    fn drop(&mut self) {
        if std::thread::panicking() && !self.daemon_log().is_empty() {
            eprintln!("--- daemon log\n{}", self.daemon_log());
        }
        for mut child in [self.daemon.take(), self.registry.take()].into_iter().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
        if self.is_ours() && !self.finished {
            for root in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().filter_map(Result::ok) {
                kill_cgroup(&root.path().join(&self.cgroup_parent));
            }
            kill_cgroup(&Path::new("/sys/fs/cgroup").join(&self.cgroup_parent));
            for pid in leaks::processes_in(&self.netns) {
                kill9(pid);
            }
        }
    }
}

/// Kills every process of the containers beneath a test's cgroup.
fn kill_cgroup(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok) {
        let pids = std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|p| p.parse().ok()) {
            kill9(pid);
        }
    }
}

/// Ends a process of the bed; it may have gone by itself.
fn kill9(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => eprintln!("ending {pid:?}: {error}"),
        }
    }
}

/// A running `docker events`.
pub struct Events {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Events {
    /// Reads lines up to the one that is `line`, and returns all that were read.
    #[track_caller]
    pub fn until(&mut self, line: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let mut next = String::new();
            let n = self.lines.read_line(&mut next).expect("reading events");
            assert!(n > 0, "events ended before {line:?}; seen: {seen:?}");
            let next = next.trim_end().to_owned();
            seen.push(next.clone());
            if next == line {
                return seen;
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
