// SPDX-License-Identifier: Apache-2.0
//! A host, a neighbour on its network, and containers.
//!
//! ```text
//! outside 198.51.100.2 ─── up0 198.51.100.1 [ host: berth0 172.17.0.1 ─── containers ]
//! ```

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_domain::{ContainerId, Result};
use berth_network::*;
use nix::sched::{CloneFlags, setns, unshare};

pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

/// A network namespace.
#[derive(Debug)]
pub struct Ns(pub OwnedFd);

impl Ns {
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            Self(std::fs::File::open("/proc/thread-self/ns/net").unwrap().into())
        });
        let ns = made.join().unwrap();
        ns.sh("ip link set lo up");
        ns
    }

    /// Runs on a thread inside.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a shell command inside; its output.
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-ec", script]).output().unwrap());
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// On every address of both families.
    pub fn listen6(&self, port: u16) -> TcpListener {
        self.run(|| TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).unwrap())
    }

    pub fn listen(&self, port: u16) -> TcpListener {
        self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())
    }

    pub fn udp(&self, port: u16) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        // A deadline for tests that fail, not a measure.
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    pub fn connect(&self, to: (impl Into<IpAddr>, u16)) -> std::io::Result<TcpStream> {
        let to = SocketAddr::from(to);
        self.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)))
    }

    /// A connection that must not come about. Gives up soon: what is dropped never answers.
    pub fn cannot_connect(&self, to: (impl Into<IpAddr>, u16)) {
        let address = SocketAddr::from(to);
        let result = self.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(250)));
        assert!(result.is_err(), "{address} answers");
    }
}

/// Connects and exchanges a word. Answers the address that the server saw.
pub fn talk(client: &Ns, to: (impl Into<IpAddr>, u16), server: &TcpListener) -> IpAddr {
    let to: (IpAddr, u16) = (to.0.into(), to.1);
    let mut stream = client.connect(to).unwrap_or_else(|e| panic!("connecting to {to:?}: {e}"));
    let (mut accepted, peer) = server.accept().unwrap();
    stream.write_all(b"ping").unwrap();
    let mut word = [0; 4];
    accepted.read_exact(&mut word).unwrap();
    accepted.write_all(b"pong").unwrap();
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"pong");
    peer.ip()
}

/// Sends a datagram and has it answered. Answers the address that the server saw.
pub fn ask(client: &UdpSocket, to: (Ipv4Addr, u16), server: &UdpSocket) -> IpAddr {
    client.send_to(b"ping", to).unwrap();
    let mut word = [0; 16];
    let (len, peer) = server.recv_from(&mut word).unwrap();
    assert_eq!(&word[..len], b"ping");
    server.send_to(b"pong", peer).unwrap();
    let (len, from) = client.recv_from(&mut word).unwrap();
    assert_eq!(&word[..len], b"pong");
    assert_eq!(from, SocketAddr::from(to), "the answer comes from where the question went");
    peer.ip()
}

/// A container: its id and its namespace.
#[derive(Debug)]
pub struct Container {
    pub id: ContainerId,
    pub ns: Ns,
    pub record: SandboxRecord,
    pub held: Vec<(String, OwnedFd)>,
}

impl Container {
    pub fn ip(&self) -> Ipv4Addr {
        self.record.endpoints[0].ipv4.unwrap()
    }

    pub fn ip6(&self) -> std::net::Ipv6Addr {
        self.record.endpoints[0].ipv6.unwrap()
    }

    pub fn host_port(&self, n: usize) -> u16 {
        self.record.ports[n].host_port
    }
}

pub struct Lab {
    pub host: Ns,
    pub outside: Ns,
    pub networks: Networks,
    pub dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut NetworkConfig)) -> Self {
        let (host, outside) = (Ns::new(), Ns::new());
        let pid = std::process::id();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&outside.0);
        host.sh(&format!(
            "ip link add up0 type veth peer name up0 netns /proc/{pid}/fd/{fd}
             ip addr add {HOST}/24 dev up0
             ip link set up0 up"
        ));
        outside.sh(&format!(
            "ip addr add {OUTSIDE}/24 dev up0; ip link set up0 up; ip route add default via {HOST}"
        ));
        let dir = tempfile::tempdir().unwrap();
        let mut config = configuration(dir.path());
        change(&mut config);
        let networks = open(&host, config).unwrap();
        wait(networks.sweep(&[])).unwrap();
        Self { host, outside, networks, dir }
    }

    /// Another daemon on the same host.
    pub fn beside(&self, change: impl FnOnce(&mut NetworkConfig)) -> Self {
        let copy = |ns: &Ns| Ns(ns.0.try_clone().unwrap());
        let (host, outside) = (copy(&self.host), copy(&self.outside));
        let dir = tempfile::tempdir().unwrap();
        let mut config = configuration(dir.path());
        change(&mut config);
        let networks = open(&host, config).unwrap();
        wait(networks.sweep(&[])).unwrap();
        Self { host, outside, networks, dir }
    }

    /// The daemon goes, another comes.
    pub fn restart(&mut self) {
        self.restart_with(|_| {}).unwrap();
    }

    pub fn restart_with(&mut self, change: impl FnOnce(&mut NetworkConfig)) -> Result<()> {
        let mut config = configuration(self.dir.path());
        change(&mut config);
        self.networks = open(&self.host, config)?;
        Ok(())
    }

    pub fn create(&self, mode: Mode, ports: &[PortRequest]) -> Result<Container> {
        let id = new_id();
        let request = SandboxRequest {
            name: format!("c-{}", id.short()),
            mode,
            ports: ports.to_vec(),
            hostname: String::new(),
            dns_servers: Vec::new(),
            user: berth_network::UserNamespace::Host,
        };
        let sandbox = wait(self.networks.sandbox_create(&id, request))?;
        let ns = sandbox.netns.unwrap_or_else(|| self.host.0.try_clone().unwrap());
        Ok(Container { id, ns: Ns(ns), record: sandbox.record, held: sandbox.held })
    }

    /// A container on the default bridge.
    pub fn container(&self, ports: &[PortRequest]) -> Container {
        self.create(Mode::Networks(vec![EndpointRequest::on("bridge")]), ports)
            .unwrap_or_else(|e| panic!("{}", e.chain()))
    }

    pub fn on(&self, network: &str, ports: &[PortRequest]) -> Container {
        self.create(Mode::Networks(vec![EndpointRequest::on(network)]), ports)
            .unwrap_or_else(|e| panic!("{}", e.chain()))
    }

    pub fn release(&self, container: &Container) {
        wait(self.networks.sandbox_release(&container.id));
    }

    pub fn network(
        &self,
        name: &str,
        change: impl FnOnce(&mut NetworkRequest),
    ) -> Result<std::sync::Arc<NetworkRecord>> {
        let mut request = NetworkRequest {
            name: name.into(),
            driver: Driver::Bridge,
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            ranges: Vec::new(),
            options: std::collections::BTreeMap::new(),
            ipam_options: std::collections::BTreeMap::new(),
            labels: std::collections::BTreeMap::new(),
            config_only: false,
            config_from: None,
        };
        change(&mut request);
        wait(self.networks.network_create(request))
    }

    /// The firewall table.
    pub fn table(&self) -> String {
        self.host.sh("nft -n list table inet berth")
    }

    /// Our links on the host.
    pub fn links(&self) -> Vec<String> {
        let all = self.host.sh("ip -o link");
        let names = all.lines().filter_map(|l| l.split_whitespace().nth(1));
        names.filter(|n| n.starts_with("vb")).map(|n| n.split('@').next().unwrap().to_owned()).collect()
    }
}

/// Nothing is put on the bridge ahead, so that links can be counted and addresses told; tests of just that turn it on.
fn configuration(dir: &std::path::Path) -> NetworkConfig {
    let mut config = NetworkConfig::new(dir);
    config.endpoint_pool = 0;
    config
}

fn open(host: &Ns, config: NetworkConfig) -> Result<Networks> {
    // Threads begin in the namespace of the one that starts them.
    let runtime = tokio::runtime::Handle::try_current().ok();
    host.run(|| {
        let _inside = runtime.as_ref().map(tokio::runtime::Handle::enter);
        wait(Networks::open(config))
    })
}

pub fn wait<T>(work: impl Future<Output = T>) -> T {
    // Tests of the resolver are in a runtime, which goes on serving.
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.block_on(work),
        Err(_) => tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work),
    }
}

pub fn new_id() -> ContainerId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes[8..12].copy_from_slice(&std::process::id().to_be_bytes());
    bytes.rotate_left(6);
    ContainerId::from_bytes(bytes)
}

pub fn tcp(host: u16, container: u16) -> PortRequest {
    publish(Protocol::Tcp, host, container)
}

pub fn udp(host: u16, container: u16) -> PortRequest {
    publish(Protocol::Udp, host, container)
}

fn publish(protocol: Protocol, host: u16, container_port: u16) -> PortRequest {
    let host_ports = if host == 0 { HostPorts::Any } else { HostPorts::Range(host, host) };
    PortRequest { protocol, container_port, host_ip: None, host_ports }
}

pub fn at(ip: impl Into<IpAddr>, request: PortRequest) -> PortRequest {
    PortRequest { host_ip: Some(ip.into()), ..request }
}

/// Waits for a condition; the deadline is for tests that fail.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "still not so: {what}");
        std::thread::yield_now();
    }
}

/// A subnet that a user asks for, and nothing else of it.
pub fn range(subnet: &str) -> AddressRange {
    AddressRange {
        subnet: subnet.parse().unwrap(),
        range: None,
        gateway: None,
        reserved: std::collections::BTreeMap::new(),
        chosen_by_user: true,
        gateway_chosen_by_user: false,
    }
}
