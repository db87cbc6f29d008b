// SPDX-License-Identifier: Apache-2.0
//! The engines that take part, each with a network namespace, a registry and a disk of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::client::Api;
use super::disk::Disk;
use crate::fixtures;
use crate::harness::{Bed, Cli, NetNs, Options, Output, build_dir, leaks, until};

/// Whose engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The reference.
    Docker,
    /// The other peer.
    Podman,
    /// Ours.
    Berth,
    /// No engine: what the kernel costs.
    Floor,
}

/// How a seat speaks to its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The docker CLI.
    Docker,
    /// `berth`.
    Berth,
    /// `podman`, which is its own engine.
    Podman,
    /// [`Api`].
    Api,
    /// The floor program.
    Direct,
}

/// An engine that runs.
pub struct Engine {
    /// Whose.
    pub kind: Kind,
    /// Its version.
    pub version: String,
    /// Its API.
    pub socket: PathBuf,
    /// Where it and its containers run.
    pub netns: NetNs,
    /// Its data root, on a disk of its own.
    pub data_root: PathBuf,
    /// That disk, for files that containers are to see.
    pub disk: PathBuf,
    /// The same where the engine sees it: peers have a root of their own.
    pub disk_inside: PathBuf,
    /// Ours.
    pub bed: Option<Mutex<Bed>>,
    /// Command that the peer's command line starts with.
    podman: Vec<String>,
}

/// An engine and the client that it is reached through.
#[derive(Clone)]
pub struct Seat {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The client.
    pub client: Client,
}

/// All engines, and what they stand on.
pub struct Hall {
    pub(super) engines: Vec<Arc<Engine>>,
    peers: Option<Peers>,
    _disks: Vec<Disk>,
    _dir: tempfile::TempDir,
}

/// The script that starts the peers, and what was started with it.
struct Peers {
    script: String,
    children: Vec<Child>,
    mounts: Vec<&'static str>,
}

const NETNS: &str = "berth-bench";
const DOCKER_DATA: &str = "/peerdata/docker";
const PODMAN_DATA: &str = "/peerdata/podman";

impl Hall {
    /// Starts them all; the peers only if `PEERS` says how.
    #[must_use]
    pub fn open() -> Self {
        let cache = fixtures::ensure();
        let dir = tempfile::Builder::new().prefix("berth-bench-").tempdir_in("/var/tmp").expect("a folder");
        let mut disks = Vec::new();
        let mut engines = Vec::new();
        let mut peers = None;
        if let Ok(script) = std::env::var("PEERS") {
            let mut made = Peers { script, children: Vec::new(), mounts: Vec::new() };
            made.run(&["up"]);
            for kind in [Kind::Docker, Kind::Podman] {
                let disk = Disk::make(dir.path(), if kind == Kind::Docker { "docker" } else { "podman" });
                engines.push(made.start(kind, &disk, dir.path(), &cache));
                disks.push(disk);
            }
            peers = Some(made);
        }
        let disk = Disk::make(dir.path(), "berth");
        engines.push(berth(&disk));
        disks.push(disk);
        engines.push(Engine {
            kind: Kind::Floor,
            version: String::new(),
            socket: PathBuf::new(),
            netns: NetNs::new(),
            // The same disk as ours: what the kernel asks of us.
            data_root: disks.last().expect("a disk").mount.clone(),
            disk: PathBuf::new(),
            disk_inside: PathBuf::new(),
            bed: None,
            podman: Vec::new(),
        });
        let engines: Vec<Arc<Engine>> = engines.into_iter().map(Arc::new).collect();
        for engine in engines.iter().filter(|e| e.kind != Kind::Floor) {
            Seat { engine: engine.clone(), client: Client::Api }.pull("busybox");
        }
        Self { engines, peers, _disks: disks, _dir: dir }
    }

    /// Ends them all and looks for what ours left.
    pub fn close(self) {
        drop(self.peers);
        for engine in self.engines {
            if let Ok(Engine { bed: Some(bed), .. }) = Arc::try_unwrap(engine) {
                bed.into_inner().expect("the bed").finish();
            }
        }
    }
}

fn berth(disk: &Disk) -> Engine {
    let data_root = disk.mount.join("data");
    let bed = Bed::with(Options { data_root: Some(data_root.clone()), ..Options::default() });
    Engine {
        kind: Kind::Berth,
        version: version(bed.socket()),
        socket: bed.socket().to_owned(),
        netns: bed.netns.clone(),
        data_root,
        disk: disk.mount.clone(),
        disk_inside: disk.mount.clone(),
        bed: Some(Mutex::new(bed)),
        podman: Vec::new(),
    }
}

fn version(socket: &Path) -> String {
    Api::new(socket).ok("GET", "/version", None).json()["Version"].as_str().unwrap_or_default().to_owned()
}

impl Peers {
    fn run(&self, args: &[&str]) -> String {
        Output::of(Command::new(&self.script).args(args).env("PEERS_NETNS", NETNS)).ok()
    }

    fn mount(&mut self, disk: &Disk, at: &'static str) {
        self.run(&["in", "mkdir", "-p", at]);
        self.run(&["in", "mount", "-t", "ext4", &disk.device, at]);
        self.mounts.push(at);
    }

    fn start(&mut self, kind: Kind, disk: &Disk, dir: &Path, cache: &Path) -> Engine {
        let root = std::env::var("PEERS_ROOT").unwrap_or_else(|_| "/var/tmp/peers".to_owned());
        let (socket, netns, podman) = if kind == Kind::Docker {
            drop(Output::of(Command::new("ip").args(["netns", "del", NETNS])));
            Output::of(Command::new("ip").args(["netns", "add", NETNS])).ok();
            Output::of(Command::new("ip").args(["-n", NETNS, "link", "set", "lo", "up"])).ok();
            let netns = NetNs::open(&Path::new("/run/netns").join(NETNS));
            self.children.push(registry(&netns, dir, "docker", cache));
            self.mount(disk, DOCKER_DATA);
            let host = self.run(&["dockerd", "--registry-mirror", "http://127.0.0.1:5000"]);
            (PathBuf::from(host.strip_prefix("unix://").expect("a Unix socket")), netns, Vec::new())
        } else {
            let netns = NetNs::new();
            self.children.push(registry(&netns, dir, "podman", cache));
            self.mount(disk, PODMAN_DATA);
            let registries = "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n";
            std::fs::write(Path::new(&root).join("tree/peerdata/registries.conf"), registries)
                .expect("writing registries.conf");
            let holder =
                std::fs::read_to_string(Path::new(&root).join("run/holder")).expect("the peers' namespace");
            let mut podman: Vec<String> =
                ["nsenter", "-t", holder.trim(), "-m", "-r", "-w", "--", "podman"].map(str::to_owned).into();
            podman.extend(
                ["--root", PODMAN_DATA, "--runroot", "/run/podman-bench", "--cgroup-manager", "cgroupfs"]
                    .map(str::to_owned),
            );
            let socket = Path::new(&root).join("tree/peerdata/podman.sock");
            // What an earlier service left would be in the way.
            drop(std::fs::remove_file(&socket));
            let log = std::fs::File::create(dir.join("podman.log")).expect("podman's log");
            let mut service = podman_command(&podman, &netns);
            service.args(["system", "service", "--time", "0", "unix:///peerdata/podman.sock"]);
            service.stdout(log.try_clone().expect("podman's log")).stderr(log);
            self.children.push(service.spawn().expect("starting podman"));
            until("podman listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
            (socket, netns, podman)
        };
        Engine {
            kind,
            version: version(&socket),
            socket,
            netns,
            data_root: disk.mount.clone(),
            disk: disk.mount.clone(),
            disk_inside: PathBuf::from(if kind == Kind::Docker { DOCKER_DATA } else { PODMAN_DATA }),
            bed: None,
            podman,
        }
    }
}

impl Drop for Peers {
    /// Also after a failure: what is left running would be in the next run's way.
    fn drop(&mut self) {
        let mut steps = vec![vec!["dockerd-stop"]];
        steps.extend(self.mounts.iter().map(|mount| vec!["in", "umount", "-l", mount]));
        for step in steps {
            let out = Output::of(Command::new(&self.script).args(&step).env("PEERS_NETNS", NETNS));
            if out.code != 0 {
                eprintln!("{}: {}", out.shown, out.stderr);
            }
            // The daemon has ended: now those that it may have asked.
            for mut child in self.children.drain(..).rev() {
                drop(child.kill());
                drop(child.wait());
            }
        }
        drop(Output::of(Command::new("ip").args(["netns", "del", NETNS])));
    }
}

fn podman_command(podman: &[String], netns: &NetNs) -> Command {
    let mut command = Command::new(&podman[0]);
    command
        .args(&podman[1..])
        .env("CONTAINERS_REGISTRIES_CONF", "/peerdata/registries.conf")
        .env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1")
        .stdin(Stdio::null());
    netns.place(&mut command);
    command
}

/// The fixture registry in a network namespace.
fn registry(netns: &NetNs, dir: &Path, name: &str, cache: &Path) -> Child {
    registry_on(netns, dir, name, &cache.join("registry"), 5000, true)
}

/// A registry on any folder.
pub(super) fn registry_on(
    netns: &NetNs,
    dir: &Path,
    name: &str,
    store: &Path,
    port: u16,
    readonly: bool,
) -> Child {
    let cache = fixtures::ensure();
    let config = dir.join(format!("registry-{name}.yml"));
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, maintenance: {{readonly: {{enabled: {readonly}}}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
        store.display()
    );
    std::fs::write(&config, text).expect("writing the registry's configuration");
    let mut command = Command::new(cache.join("bin/docker-registry"));
    command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env_remove("OTEL_TRACES_EXPORTER");
    netns.place(&mut command);
    let child = command.spawn().expect("starting docker-registry");
    netns.run(|| {
        until("the registry listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    });
    child
}

impl Engine {
    /// Daemons, shims, monitors and proxies of this engine that run now.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        const NAMES: [&str; 9] = [
            "berthd",
            "berth-shim",
            "dockerd",
            "containerd",
            "containerd-shim",
            "docker-proxy",
            "podman",
            "conmon",
            "aardvark-dns",
        ];
        self.named(&NAMES)
    }

    /// Those that are there once, however many containers run.
    #[must_use]
    pub fn daemons(&self) -> Vec<i32> {
        self.named(&["berthd", "dockerd", "containerd", "podman", "aardvark-dns"])
    }

    fn named(&self, names: &[&str]) -> Vec<i32> {
        let mut pids = leaks::processes_in(&self.netns);
        pids.retain(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            names.contains(&name.trim())
        });
        pids
    }
}

impl Seat {
    /// What the report calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match (self.engine.kind, self.client) {
            (Kind::Docker, _) => "Docker",
            (Kind::Podman, Client::Podman) => "Podman, podman",
            (Kind::Podman, _) => "Podman",
            (Kind::Berth, Client::Berth) => "Berth, berth",
            (Kind::Berth, _) => "Berth",
            (Kind::Floor, _) => "floor",
        }
    }

    /// A connection to the engine's API.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(&self.engine.socket)
    }

    /// A command line of this seat.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let program = match self.client {
            Client::Podman => {
                let mut command = podman_command(&self.engine.podman, &self.engine.netns);
                command.args(args);
                return command;
            }
            Client::Berth => Cli::Berth.program(),
            Client::Docker | Client::Api | Client::Direct => Cli::Docker.program(),
        };
        let mut command = Command::new(program);
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{}", self.engine.socket.display()))
            .env("DOCKER_CONFIG", "/nonexistent")
            .env("DOCKER_CLI_HINTS", "false")
            .env_remove("DOCKER_CONTEXT")
            .stdin(Stdio::null());
        command
    }

    /// The floor program with arguments, in the floor's network namespace.
    #[must_use]
    pub fn floor(&self, args: &[&str]) -> Command {
        let mut command = Command::new(build_dir().join("floor"));
        command.arg(&self.engine.data_root).args(args);
        self.engine.netns.place(&mut command);
        command
    }

    /// Pulls an image.
    #[track_caller]
    pub fn pull(&self, image: &str) {
        let answer = self.api().ok("POST", &format!("/images/create?fromImage={image}&tag=latest"), None);
        let text = String::from_utf8_lossy(&answer.body);
        assert!(!text.contains("\"error\""), "{}: pulling {image}: {text}", self.name());
    }
}
