// SPDX-License-Identifier: Apache-2.0
//! Traffic: what comes through a published port and between containers, how long a word takes, how many names a second are
//! answered; and what publishing costs as there are more ports.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::engines::{Client, Kind, Seat};
use super::row::{Aim, Each, Figure, Row, Seats, Work, ms};
use crate::harness::{NetNs, Output, until};

/// The port of what serves inside.
const INSIDE: u16 = 5201;
/// And where it is published.
const OUTSIDE: u16 = 15_201;
/// Words exchanged for one figure of latency.
const WORDS: u32 = 8000;
/// In so many parts.
const BATCHES: u32 = 40;
/// Names asked for one figure.
const NAMES: u32 = 4000;
/// Questions under way at a time.
const WIDE: usize = 16;

/// The rows.
#[must_use]
pub fn rows() -> Vec<Row> {
    use Aim::OfDocker;
    vec![
        Row::new("traffic", "through a published port, from a neighbour", Seats::Api)
            .figure(Figure::more("throughput", "Gbit/s").aim(Client::Api, OfDocker(1.0)))
            .figure(Figure::less("a word there and back", "us").aim(Client::Api, OfDocker(1.0)))
            .rounds(7)
            .work(|seat| {
                let server = Container::run(seat, "server", &[OUTSIDE]);
                let neighbour = neighbour(seat);
                Box::new(Traffic {
                    to: format!("10.9.0.1:{OUTSIDE}"),
                    server,
                    client: neighbour,
                    other: None,
                })
            }),
        Row::new("traffic", "from container to container", Seats::Api)
            .figure(Figure::more("throughput", "Gbit/s").aim(Client::Api, OfDocker(1.0)))
            .figure(Figure::less("a word there and back", "us").aim(Client::Api, OfDocker(1.0)))
            .rounds(7)
            .work(|seat| {
                let (server, client) =
                    (Container::run(seat, "server", &[]), Container::run(seat, "client", &[]));
                let to = format!("{}:{INSIDE}", server.address);
                Box::new(Traffic { to, server, client: client.netns.clone(), other: Some(client) })
            }),
        Row::new("traffic", "names of containers", Seats::Api)
            .figure(Figure::more("one after the other", "/s").aim(Client::Api, OfDocker(1.0)))
            .figure(Figure::more("16 wide", "/s").aim(Client::Api, OfDocker(1.0)))
            .rounds(7)
            .work(|seat| {
                let network = "bench-names";
                seat.api().ok("POST", "/networks/create", Some(&json!({"Name": network})));
                let make = |name: &str| Container::run_on(seat, name, network, &[]);
                Box::new(Names { network, containers: [make("asker"), make("asked")] })
            }),
        Row::new("traffic", "a container with 10 ports", Seats::ApiWithoutPodman)
            .figure(Figure::less("start", "ms").aim(Client::Api, OfDocker(4.0)))
            .rounds(15)
            .work(|_| Box::new(Each(ten_ports))),
        Row::new("traffic", "1,000 containers with 10 ports each (100 on Docker)", Seats::ApiWithoutPodman)
            .figure(Figure::less("the first 20 starts", "ms").aim(Client::Api, OfDocker(4.0)))
            .figure(Figure::less("the last 20 starts", "ms").aim(Client::Api, OfDocker(4.0)))
            .figure(Figure::less("the last to the first", "times").aim(Client::Api, Aim::AtMost(2.0)))
            .rounds(1)
            .cold()
            .long()
            .work(|_| Box::new(Each(many_ports))),
    ]
}

/// A container that does nothing itself: what is measured is run in its namespace.
struct Container {
    id: String,
    netns: NetNs,
    address: String,
}

/// A container to be, with these host ports published, which lead to those from `first_inside` on.
fn body(network: &str, ports: &[u16], first_inside: u16) -> Value {
    let one = |(inside, outside): (u16, &u16)| {
        (format!("{inside}/tcp"), json!([{"HostPort": outside.to_string()}]))
    };
    let bindings: serde_json::Map<_, _> = (first_inside..).zip(ports).map(one).collect();
    // The reference passes over bindings of ports that are not exposed.
    let exposed: serde_json::Map<_, _> = bindings.keys().map(|port| (port.clone(), json!({}))).collect();
    json!({"Image": "busybox", "Cmd": ["sleep", "100000"], "StopSignal": "SIGKILL", "ExposedPorts": exposed,
        "HostConfig": {"NetworkMode": network, "PortBindings": bindings}})
}

impl Container {
    fn run(seat: &Seat, name: &str, ports: &[u16]) -> Self {
        Self::run_on(seat, name, "bridge", ports)
    }

    fn run_on(seat: &Seat, name: &str, network: &str, ports: &[u16]) -> Self {
        let body = body(network, ports, INSIDE);
        let mut api = seat.api();
        let made = api.ok("POST", &format!("/containers/create?name=bench-{name}"), Some(&body)).json();
        let id = made["Id"].as_str().expect("an id").to_owned();
        api.ok("POST", &format!("/containers/{id}/start"), None);
        let seen = api.ok("GET", &format!("/containers/{id}/json"), None).json();
        let netns = NetNs::open(Path::new(&format!("/proc/{}/ns/net", seen["State"]["Pid"])));
        let networks = seen["NetworkSettings"]["Networks"].as_object().expect("networks").clone();
        let address = networks.values().find_map(|n| n["IPAddress"].as_str()).unwrap_or_default().to_owned();
        Self { id, netns, address }
    }

    fn remove(&self, seat: &Seat) {
        seat.api().ok("DELETE", &format!("/containers/{}?force=1", self.id), None);
    }
}

/// Somebody on a network with the engine's host, who is 10.9.0.1 there.
fn neighbour(seat: &Seat) -> NetNs {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let link = format!("lan{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let (host, outside) = (&seat.engine.netns, NetNs::new());
    // A link of an earlier row goes with its neighbour, a little after it.
    until("the address is free", || (!host.sh("ip -4 -o addr").contains("10.9.0.1/")).then_some(()));
    host.sh(&format!(
        "ip link add {link} type veth peer name lan0 netns {}; ip addr add 10.9.0.1/24 dev {link}; ip link set {link} up",
        outside.path()
    ));
    outside.sh("ip addr add 10.9.0.2/24 dev lan0; ip link set lan0 up");
    outside
}

struct Traffic {
    to: String,
    server: Container,
    client: NetNs,
    other: Option<Container>,
}

impl Work for Traffic {
    fn round(&mut self, _: &Seat) -> Vec<f64> {
        vec![
            throughput(&self.server.netns, &self.client, &self.to),
            latency(&self.server.netns, &self.client, &self.to),
        ]
    }

    fn end(&mut self, seat: &Seat) {
        for container in [Some(&self.server), self.other.as_ref()].into_iter().flatten() {
            container.remove(seat);
        }
    }
}

/// Ends what a figure was measured with.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Gbit/s of one connection, by iperf3.
fn throughput(server: &NetNs, client: &NetNs, to: &str) -> f64 {
    let mut serve = Command::new("iperf3");
    serve
        .args(["-s", "-p", &INSIDE.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .stdin(Stdio::null());
    server.place(&mut serve);
    let _ends = Ends(serve.spawn().expect("iperf3, which the set-up script installs"));
    let (ip, port) = to.rsplit_once(':').expect("address and port");
    until("iperf3 serves", || {
        server
            .run(|| std::fs::read_to_string("/proc/thread-self/net/tcp6"))
            .ok()
            .filter(|t| t.contains(&format!(":{INSIDE:04X} ")))
    });
    let mut ask = Command::new("iperf3");
    ask.args(["-c", ip, "-p", port, "-t", "2", "-O", "1", "-J"]);
    client.place(&mut ask);
    let said = Output::of(&mut ask).ok();
    let json: Value = serde_json::from_str(&said).expect("iperf3's JSON");
    let rate = json["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.unwrap_or_else(|| panic!("iperf3 to {to} gave no rate: {said}")) / 1e9
}

/// Microseconds for a byte there and back.
fn latency(server: &NetNs, client: &NetNs, to: &str) -> f64 {
    let listener = server.run(|| TcpListener::bind(("0.0.0.0", INSIDE)).expect("the port is free"));
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_nodelay(true).expect("no delay");
        let mut word = [0];
        while stream.read_exact(&mut word).is_ok() {
            if stream.write_all(&word).is_err() {
                return;
            }
        }
    });
    let taken = client.run(|| {
        let mut stream = TcpStream::connect(to).expect("the server");
        stream.set_nodelay(true).expect("no delay");
        let mut word = [7];
        // The best of several: where the scheduler puts the two ends doubles the time, and is no engine's doing.
        let batch = |_| {
            let begun = Instant::now();
            for _ in 0..WORDS / BATCHES {
                stream.write_all(&word).expect("a word sent");
                stream.read_exact(&mut word).expect("a word back");
            }
            begun.elapsed()
        };
        (0..BATCHES).map(batch).min().expect("a batch")
    });
    echo.join().expect("the echo");
    taken.as_secs_f64() * 1e6 / f64::from(WORDS / BATCHES)
}

struct Names {
    network: &'static str,
    containers: [Container; 2],
}

impl Work for Names {
    fn round(&mut self, _: &Seat) -> Vec<f64> {
        let [asker, asked] = &self.containers;
        let ask = |wide: usize| {
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..wide {
                    scope.spawn(|| {
                        asker.netns.run(|| ask_names(NAMES / u32::try_from(wide).unwrap_or(1), asked));
                    });
                }
            });
            f64::from(NAMES) / begun.elapsed().as_secs_f64()
        };
        vec![ask(1), ask(WIDE)]
    }

    fn end(&mut self, seat: &Seat) {
        self.containers.iter().for_each(|container| container.remove(seat));
        seat.api().ok("DELETE", &format!("/networks/{}", self.network), None);
    }
}

fn ask_names(count: u32, asked: &Container) {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11];
    query.extend(b"bench-asked");
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // For an engine that drops a question: it is asked again, and counts once.
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a time limit");
    // Podman's resolver is at the network's gateway.
    let resolver = if asked.resolver_is_local(&query) { "127.0.0.11:53".to_owned() } else { asked.gateway() };
    socket.connect(resolver).expect("the resolver");
    let mut answer = [0; 512];
    for n in 0..count {
        query[..2].copy_from_slice(&u16::try_from(n % 65_536).unwrap_or(0).to_be_bytes());
        loop {
            socket.send(&query).expect("a question sent");
            match socket.recv(&mut answer) {
                Ok(length) if answer[..2] == query[..2] && length > query.len() => break,
                _ => {}
            }
        }
    }
}

impl Container {
    fn resolver_is_local(&self, query: &[u8]) -> bool {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit");
        socket.connect("127.0.0.11:53").is_ok()
            && socket.send(query).is_ok()
            && socket.recv(&mut [0; 512]).is_ok()
    }

    fn gateway(&self) -> String {
        let (net, _) = self.address.rsplit_once('.').expect("an address");
        format!("{net}.1:53")
    }
}

fn ten_ports(seat: &Seat) -> Vec<f64> {
    let ports: Vec<u16> = (30_000..30_010).collect();
    let mut api = seat.api();
    let id = create_with(seat, &ports, "bridge");
    let taken = ms(|| drop(api.ok("POST", &format!("/containers/{id}/start"), None)));
    api.ok("DELETE", &format!("/containers/{id}?force=1"), None);
    vec![taken]
}

fn create_with(seat: &Seat, ports: &[u16], network: &str) -> String {
    let body = body(network, ports, 100);
    let made = seat.api().ok("POST", "/containers/create", Some(&body)).json();
    made["Id"].as_str().expect("an id").to_owned()
}

fn many_ports(seat: &Seat) -> Vec<f64> {
    const EACH: u16 = 10;
    // The reference has two processes a port, of 2 MB each: 10,000 ports are more than most machines have memory for.
    let containers: u16 = if seat.engine.kind == Kind::Docker { 100 } else { 1000 };
    let mut api = seat.api();
    let mut times = Vec::new();
    let mut ids = Vec::new();
    for n in 0..containers {
        let ports: Vec<u16> = (0..EACH).map(|k| 20_000 + n * EACH + k).collect();
        let id = create_with(seat, &ports, "bridge");
        times.push(ms(|| drop(api.ok("POST", &format!("/containers/{id}/start"), None))));
        ids.push(id);
    }
    for id in ids {
        api.ok("DELETE", &format!("/containers/{id}?force=1"), None);
    }
    let median = |times: &[f64]| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let (first, last) = (median(&times[..20]), median(&times[times.len() - 20..]));
    vec![first, last, last / first]
}
