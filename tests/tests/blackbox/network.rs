// SPDX-License-Identifier: Apache-2.0
//! The default bridge, the host's network, none, another container's; published ports.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use berth_tests::harness::{Bed, NetNs, Output, until};

fn bed() -> Bed {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed
}

/// What a TCP server says before it hangs up, once it can be reached.
fn read_from(netns: &NetNs, address: &str) -> String {
    netns.run(|| {
        until(&format!("{address} answers"), || {
            let mut stream = TcpStream::connect(address).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            (!text.is_empty()).then_some(text)
        })
    })
}

const GREETER: &str = "while true; do echo hello | nc -l -p 80; done";

fn address_of(bed: &Bed, name: &str) -> String {
    bed.docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name]).ok()
}

#[test]
fn none_host_and_container_mode() {
    let bed = bed();
    let interfaces = |mode: &str| {
        let out = bed.docker(&["run", "--rm", "--network", mode, "busybox", "ls", "/sys/class/net"]).ok();
        out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(interfaces("none"), ["lo"]);
    assert!(interfaces("bridge").contains(&"eth0".to_owned()));
    let host =
        bed.docker(&["run", "--rm", "--network", "host", "busybox", "readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(host, format!("net:[{}]", bed.netns.inode()));
    bed.docker(&["run", "-d", "--name", "first", "busybox", "sleep", "1000"]).ok();
    let first = bed.docker(&["exec", "first", "readlink", "/proc/self/ns/net"]).ok();
    let second = bed
        .docker(&["run", "--rm", "--network", "container:first", "busybox", "readlink", "/proc/self/ns/net"])
        .ok();
    assert_eq!(first, second);
    bed.finish();
}

#[test]
fn containers_reach_each_other_by_address() {
    let bed = bed();
    bed.docker(&["run", "-d", "--name", "aa", "busybox", "sh", "-c", GREETER]).ok();
    bed.docker(&["run", "-d", "--name", "bb", "busybox", "sleep", "1000"]).ok();
    let (a, b) = (address_of(&bed, "aa"), address_of(&bed, "bb"));
    assert_ne!(a, b);
    bed.docker(&["exec", "bb", "ping", "-c", "1", "-W", "10", &a]).ok();
    assert_eq!(
        bed.docker(&["exec", "bb", "sh", "-c", &format!("until nc {a} 80; do :; done")]).ok(),
        "hello"
    );
    bed.finish();
}

#[test]
fn tcp_ports_ranges_and_loopback_bindings() {
    let bed = bed();
    bed.docker(&["run", "-d", "--name", "any", "-p", "8080:80", "busybox", "sh", "-c", GREETER]).ok();
    bed.docker(&["run", "-d", "--name", "lo", "-p", "127.0.0.1:8081:80", "busybox", "sh", "-c", GREETER])
        .ok();
    bed.docker(&["run", "-d", "--name", "range", "-p", "8090-8092:80-82", "busybox", "sh", "-c", GREETER])
        .ok();
    bed.docker(&["run", "-d", "--name", "chosen", "-p", "80", "busybox", "sh", "-c", GREETER]).ok();
    assert_eq!(read_from(&bed.netns, "127.0.0.1:8080"), "hello\n");
    assert_eq!(read_from(&bed.netns, "127.0.0.1:8081"), "hello\n");
    assert_eq!(read_from(&bed.netns, "127.0.0.1:8090"), "hello\n");
    if bed.is_ours() {
        // What the look for leftovers goes by.
        assert_eq!(bed.published_ports().len(), 2, "{:?}", bed.published_ports());
    }
    let ports = bed.docker(&["port", "range"]).ok();
    for line in ["80/tcp -> 0.0.0.0:8090", "81/tcp -> 0.0.0.0:8091", "82/tcp -> 0.0.0.0:8092"] {
        assert!(ports.contains(line), "{ports}");
    }
    let chosen = bed.docker(&["port", "chosen", "80/tcp"]).ok();
    let port = chosen.lines().next().unwrap().rsplit(':').next().unwrap().to_owned();
    assert_eq!(read_from(&bed.netns, &format!("127.0.0.1:{port}")), "hello\n");
    // From a container through the host's address on the bridge, its own published port included (hairpin).
    let gateway =
        bed.docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", "any"]).ok();
    assert_eq!(bed.docker(&["exec", "range", "nc", &gateway, "8080"]).ok(), "hello");
    assert_eq!(bed.docker(&["exec", "any", "nc", &gateway, "8080"]).ok(), "hello");
    bed.finish();
}

#[test]
fn udp_ports() {
    let bed = bed();
    let echo = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 53))\nwhile True: s.sendto(*s.recvfrom(99))";
    bed.docker(&["run", "-d", "--name", "uu", "-p", "5353:53/udp", "flask", "python3", "-c", echo]).ok();
    let answer = bed.netns.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        until("the echo comes back", || {
            socket.send_to(b"echo\n", "127.0.0.1:5353").ok()?;
            let mut buffer = [0u8; 16];
            let n = socket.recv(&mut buffer).ok()?;
            Some(buffer[..n].to_vec())
        })
    });
    assert_eq!(answer, b"echo\n");
    bed.finish();
}

#[test]
fn a_taken_port_leaves_the_container_created() {
    let bed = bed();
    let _taken = bed.netns.run(|| std::net::TcpListener::bind("0.0.0.0:8088").unwrap());
    let out = bed.docker(&["run", "-d", "--name", "pp", "-p", "8088:80", "busybox", "sleep", "1000"]);
    assert_eq!(out.code, 125, "{out:?}");
    assert!(out.stderr.contains("address already in use"), "{}", out.stderr);
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Status}}", "pp"]).ok(), "created");
    drop(_taken);
    bed.docker(&["start", "pp"]).ok();
    bed.finish();
}

#[test]
fn the_sandboxs_key_leads_into_the_container() {
    let bed = bed();
    bed.docker(&["run", "-d", "--name", "kk", "busybox", "sleep", "1000"]).ok();
    let setting =
        |name: &str| bed.docker(&["inspect", "-f", &format!("{{{{.NetworkSettings.{name}}}}}"), "kk"]).ok();
    let (key, id, address) = (setting("SandboxKey"), setting("SandboxID"), address_of(&bed, "kk"));
    assert!(key.starts_with('/'), "{key}");
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    // The reference's is a path in its own mount namespace.
    if bed.is_ours() {
        let script = format!("nsenter --net={key} ip -o -4 addr show eth0");
        assert!(bed.netns.sh(&script).contains(&address), "{key}");
        // The way of those who want names: ip looks for them in one place.
        let name = format!("berth-test-{}", &id[..12]);
        let link = std::path::Path::new("/run/netns").join(&name);
        std::fs::create_dir_all("/run/netns").unwrap();
        std::os::unix::fs::symlink(&key, &link).unwrap();
        let said = Output::of(Command::new("ip").args(["-n", &name, "-o", "-4", "addr", "show", "eth0"]));
        std::fs::remove_file(&link).unwrap();
        assert!(said.clone().ok().contains(&address), "{said:?}");
    }
    bed.docker(&["run", "-d", "--name", "guest", "--network", "container:kk", "busybox", "sleep", "1000"])
        .ok();
    let guest = bed.docker(&["inspect", "-f", "{{json .NetworkSettings.SandboxKey}}", "guest"]).ok();
    assert_eq!(guest, "\"\"", "it is another's");
    bed.docker(&["rm", "-f", "guest"]).ok();
    bed.docker(&["stop", "-t", "0", "kk"]).ok();
    assert_eq!((setting("SandboxKey"), setting("SandboxID")), (String::new(), String::new()));
    bed.finish();
}

/// The bed's host gets a neighbour on a network of their own: 10.9.0.1 is the host, 10.9.0.2 the neighbour.
fn neighbour(bed: &Bed) -> NetNs {
    let outside = NetNs::new();
    let ip = |netns: &NetNs, args: &str| {
        let mut command = Command::new("ip");
        command.args(args.split_whitespace());
        netns.place(&mut command);
        Output::of(&mut command).ok();
    };
    // A namespace is named to `ip` by the pid of a process in it.
    let mut keeper = Command::new("sleep");
    keeper.arg("1000");
    outside.place(&mut keeper);
    let mut keeper = keeper.spawn().unwrap();
    ip(&bed.netns, &format!("link add lan0 type veth peer name lan0 netns {}", keeper.id()));
    ip(&bed.netns, "addr add 10.9.0.1/24 dev lan0");
    ip(&bed.netns, "link set lan0 up");
    ip(&outside, "addr add 10.9.0.2/24 dev lan0");
    ip(&outside, "link set lan0 up");
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    outside
}

#[test]
fn seen_from_outside() {
    let bed = bed();
    let outside = neighbour(&bed);
    bed.docker(&["run", "-d", "--name", "any", "-p", "8080:80", "busybox", "sh", "-c", GREETER]).ok();
    bed.docker(&["run", "-d", "--name", "lo", "-p", "127.0.0.1:8081:80", "busybox", "sh", "-c", GREETER])
        .ok();
    assert_eq!(read_from(&outside, "10.9.0.1:8080"), "hello\n");
    // The loopback binding is for the host alone, whichever way a neighbour asks.
    let refused = |address: String| {
        outside.run(|| {
            let address = address.parse().unwrap();
            TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_err()
        })
    };
    assert!(refused("10.9.0.1:8081".into()), "the loopback binding answered on the LAN");
    let route = |args: &str| {
        let mut command = Command::new("ip");
        command.args(args.split_whitespace());
        outside.place(&mut command);
        Output::of(&mut command).ok();
    };
    // A neighbour that routes straight into the bridge's subnet gets no further than the forward chain.
    let address = address_of(&bed, "any");
    route(&format!("route add {address}/32 via 10.9.0.1"));
    assert!(refused(format!("{address}:80")), "an unpublished way in");
    // Outbound connections leave under the host's address.
    let listener = outside.run(|| std::net::TcpListener::bind("10.9.0.2:9000").unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"seen\n").unwrap();
        peer
    });
    assert_eq!(bed.docker(&["run", "--rm", "busybox", "nc", "10.9.0.2", "9000"]).ok(), "seen");
    assert_eq!(server.join().unwrap().ip().to_string(), "10.9.0.1");
    bed.finish();
}

#[test]
fn the_source_address_survives() {
    let bed = bed();
    let outside = neighbour(&bed);
    let mirror = "import socket; s = socket.create_server(('', 80))\nwhile True: c, a = s.accept(); c.send(a[0].encode()); c.close()";
    bed.docker(&["run", "-d", "--name", "ss", "-p", "8080:80", "flask", "python3", "-c", mirror]).ok();
    assert_eq!(read_from(&outside, "10.9.0.1:8080"), "10.9.0.2");
    bed.finish();
}
