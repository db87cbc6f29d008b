// SPDX-License-Identifier: Apache-2.0
//! The resolver at 127.0.0.11 between a container and the servers it forwards to: sizes, how long answers hold, and a container that
//! asks without end.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use berth_tests::harness::{Bed, NetNs, until};

const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// For how long the server says that its answers hold.
const TTL: u32 = 77;

fn bed() -> Bed {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["network", "create", "--subnet", "10.79.0.0/24", "nn"]).ok();
    bed
}

fn run(bed: &Bed, name: &str, more: &[&str]) -> NetNs {
    let options = ["run", "-d", "--name", name, "--network", "nn"];
    bed.docker(&[&options[..], more, &["busybox", "sleep", "100000"]].concat()).ok();
    let pid = bed.docker(&["inspect", "-f", "{{.State.Pid}}", name]).ok();
    NetNs::open(format!("/proc/{pid}/ns/net").as_ref())
}

/// A question for the IPv4 addresses of a name; with EDNS, for answers of up to so many bytes.
fn question(name: &str, id: u16, edns: Option<u16>) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    if let Some(size) = edns {
        query.extend([0, 0, 41]);
        query.extend(size.to_be_bytes());
        query.extend([0; 6]);
    }
    query
}

/// An answer as far as it is looked at.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: u8,
    truncated: bool,
    records: u16,
    /// Of the first record.
    ttl: Option<u32>,
}

fn read(bytes: &[u8]) -> Answer {
    let records = u16::from_be_bytes([bytes[6], bytes[7]]);
    let end = 12 + bytes[12..].iter().position(|b| *b == 0).unwrap() + 5;
    let ttl = bytes.get(end + 6..end + 10).filter(|_| records > 0);
    Answer {
        code: bytes[3] & 15,
        truncated: bytes[2] & 2 != 0,
        records,
        ttl: ttl.map(|b| u32::from_be_bytes(b.try_into().unwrap())),
    }
}

fn by_udp(netns: &NetNs, name: &str, edns: Option<u16>) -> Answer {
    let query = question(name, 7, edns);
    let bytes = netns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.connect(RESOLVER).unwrap();
        until(&format!("{name} is answered"), || {
            socket.send(&query).ok()?;
            let mut buffer = vec![0; 65_535];
            let length = socket.recv(&mut buffer).ok()?;
            buffer.truncate(length);
            Some(buffer)
        })
    });
    assert!(bytes.len() <= usize::from(edns.unwrap_or(512)), "{} bytes", bytes.len());
    read(&bytes)
}

fn by_tcp(netns: &NetNs, name: &str) -> Answer {
    let query = question(name, 7, None);
    let bytes = netns.run(|| {
        let mut stream = TcpStream::connect(RESOLVER).unwrap();
        stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&query).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        answer
    });
    read(&bytes)
}

/// A name server at every address of a namespace: `n40.example` has 40 addresses.
struct Upstream {
    asked: Arc<AtomicU32>,
    end: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

fn answer_to(query: &[u8], limit: usize) -> Option<Vec<u8>> {
    let end = 12 + query.get(12..)?.iter().position(|b| *b == 0)? + 5;
    let label = query.get(13..13 + usize::from(query[12]))?;
    let count: u16 = std::str::from_utf8(label).ok()?.strip_prefix('n')?.parse().ok()?;
    let mut answer = query.get(..end)?.to_vec();
    answer[2] |= 0x80;
    answer[8..12].fill(0);
    let record = [&[0xc0, 12, 0, 1, 0, 1][..], &TTL.to_be_bytes(), &[0, 4, 192, 0, 2, 7]].concat();
    if end + usize::from(count) * record.len() > limit {
        answer[2] |= 2;
    } else {
        answer[6..8].copy_from_slice(&count.to_be_bytes());
        (0..count).for_each(|_| answer.extend(&record));
    }
    Some(answer)
}

impl Upstream {
    fn start(netns: &NetNs) -> Self {
        let (udp, tcp) =
            netns.run(|| (UdpSocket::bind("0.0.0.0:53").unwrap(), TcpListener::bind("0.0.0.0:53").unwrap()));
        udp.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (asked, end) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ended) = (Arc::clone(&asked), Arc::clone(&end));
        let datagrams = move || {
            let mut buffer = [0; 4096];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut buffer) else { continue };
                let query = &buffer[..length];
                // Where there is EDNS, it is all that is behind the question.
                let size = query.len().checked_sub(8).filter(|_| query[11] == 1);
                let limit = size.map_or(512, |at| u16::from_be_bytes([query[at], query[at + 1]]));
                if let Some(answer) = answer_to(query, usize::from(limit)) {
                    counted.fetch_add(1, Ordering::Relaxed);
                    drop(udp.send_to(&answer, from));
                }
            }
        };
        let ended = Arc::clone(&end);
        let streams = move || {
            while !ended.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    std::thread::yield_now();
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let mut length = [0; 2];
                let mut query = Vec::new();
                if stream.read_exact(&mut length).is_ok() {
                    query.resize(usize::from(u16::from_be_bytes(length)), 0);
                    drop(stream.read_exact(&mut query));
                }
                if let Some(answer) = answer_to(&query, 65_535) {
                    drop(stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()));
                    drop(stream.write_all(&answer));
                }
            }
        };
        Self { asked, end, threads: vec![std::thread::spawn(datagrams), std::thread::spawn(streams)] }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

#[test]
fn sizes_and_times_are_the_servers_and_the_askers() {
    let bed = bed();
    let container = run(&bed, "cc", &["--dns", "10.79.0.1"]);
    let upstream = Upstream::start(&bed.netns);
    let whole = |records| Answer { code: 0, truncated: false, records, ttl: Some(TTL) };
    assert_eq!(by_udp(&container, "n3.example", None), whole(3));
    // 40 are more than what was agreed on in 1987, and less than what is asked for with EDNS.
    let cut = by_udp(&container, "n40.example", None);
    assert!(cut.truncated, "{cut:?}");
    assert_eq!(by_udp(&container, "n40.example", Some(1232)), whole(40));
    assert_eq!(by_udp(&container, "n200.example", Some(4096)), whole(200));
    assert_eq!(by_tcp(&container, "n40.example"), whole(40));
    assert_eq!(by_tcp(&container, "n3000.example"), whole(3000));
    // Nothing is held longer than its time, as nothing is held: the next question is asked anew.
    let before = upstream.asked.load(Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(by_udp(&container, "n1.example", None), whole(1));
    }
    assert!(upstream.asked.load(Ordering::Relaxed) >= before + 3);
    drop((upstream, container));
    bed.finish();
}

/// Kilobytes of a process by a field of its status.
fn kilobytes(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_container_that_asks_without_end_harms_itself_alone() {
    let bed = bed();
    if !bed.is_ours() {
        return;
    }
    // Nobody answers at 127.0.0.99: each question of this one waits as long as any can.
    let flooder = run(&bed, "flooder", &["--dns", "127.0.0.99"]);
    let silent = flooder.run(|| UdpSocket::bind("127.0.0.99:53").unwrap());
    let other = run(&bed, "other", &["--dns", "10.79.0.1"]);
    let upstream = Upstream::start(&bed.netns);
    let daemon = bed.daemon_pid();
    let descriptors = || std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count();
    assert_eq!(by_udp(&other, "n1.example", None).records, 1);
    let (before, open) = (kilobytes(daemon, "VmRSS:"), descriptors());
    // The peak begins anew.
    std::fs::write(format!("/proc/{daemon}/clear_refs"), "5").unwrap();

    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            flooder.run(|| {
                let connections: Vec<_> = (0..60).map(|_| TcpStream::connect(RESOLVER).unwrap()).collect();
                let sockets: Vec<_> = (0..8).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect();
                let mut n = 0_u32;
                while !end.load(Ordering::Relaxed) {
                    for socket in &sockets {
                        n += 1;
                        let name = if n % 2 == 0 { "flooder".to_owned() } else { format!("x{n}.example") };
                        let id = u16::try_from(n & 0xffff).unwrap();
                        drop(socket.send_to(&question(&name, id, Some(4096)), RESOLVER));
                    }
                }
                drop(connections);
                assert!(n > 10_000, "only {n} questions");
            });
        });
        // The other's own questions, and those for others, are answered meanwhile.
        for n in 0..300 {
            assert_eq!(by_udp(&other, "other", None).records, 1);
            if n % 3 == 0 {
                assert_eq!(by_udp(&other, "n2.example", None).records, 2);
            }
            assert_eq!(by_tcp(&other, "flooder").records, 1);
        }
        assert!(descriptors() < open + 64 + 16 + 32, "{} descriptors, of {open}", descriptors());
        end.store(true, Ordering::Relaxed);
    });
    let peak = kilobytes(daemon, "VmHWM:");
    assert!(peak < before + 32 * 1024, "{before} kB before, {peak} kB at the most");
    // Those that waited have their end, and the resolver goes on.
    assert_eq!(by_udp(&flooder, "other", None).records, 1);
    until("what was begun is over", || (descriptors() <= open + 2).then_some(()));
    drop((silent, upstream, flooder, other));
    bed.finish();
}

#[test]
fn who_may_ask_nobody_is_told_so() {
    let bed = bed();
    bed.docker(&["network", "create", "--internal", "inner"]).ok();
    let options = ["run", "-d", "--name", "ii", "--network", "inner", "busybox", "sleep", "1000"];
    bed.docker(&options).ok();
    let pid = bed.docker(&["inspect", "-f", "{{.State.Pid}}", "ii"]).ok();
    let inside = NetNs::open(format!("/proc/{pid}/ns/net").as_ref());
    let servfail = Answer { code: 2, truncated: false, records: 0, ttl: None };
    assert_eq!(by_udp(&inside, "n1.example", None), servfail);
    assert_eq!(by_tcp(&inside, "n1.example"), servfail);
    // A name that is known has no other addresses than those known: no failure, and nothing.
    assert_eq!(by_udp(&inside, "ii", None).code, 0);
    drop(inside);
    bed.finish();
}
