// SPDX-License-Identifier: Apache-2.0
//! The embedded resolver in a container's namespace: where it answers, and what it leaves alone.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::lab::*;

const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);

/// A question for the addresses of a name.
fn question(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

fn ask_udp(name: &str) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    // Only answers from where the question went are taken, as libc does.
    socket.connect(RESOLVER)?;
    socket.send(&question(name))?;
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn ask_tcp(name: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(RESOLVER)?;
    let query = question(name);
    stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes())?;
    stream.write_all(&query)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The resolver's tasks need a runtime that lives as long as the test does.
fn with_runtime(test: impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
    let _inside = runtime.enter();
    test();
}

#[test]
fn a_name_server_of_the_containers_has_its_port_53() {
    with_runtime(|| {
        let lab = Lab::new();
        lab.network("mine", |_| {}).unwrap();
        let container = lab.on("mine", &[]);
        let name = container.record.name.clone();
        let ip = container.ip().octets();
        container.ns.run(|| {
            for answer in [ask_udp(&name).unwrap(), ask_tcp(&name).unwrap()] {
                assert!(answer.ends_with(&ip), "{answer:?}");
            }
            // Without any option: what the standard library sets for TCP is no help for UDP.
            let udp = UdpSocket::bind("0.0.0.0:53").unwrap();
            let tcp = TcpListener::bind("0.0.0.0:53").unwrap();
            assert!(ask_udp(&name).unwrap().ends_with(&ip), "and the resolver still answers");
            drop((udp, tcp));
        });
        let plain = lab.container(&[]);
        assert_eq!(plain.ns.sh("nft list ruleset"), "", "where there is no resolver there are no rules");
    });
}
