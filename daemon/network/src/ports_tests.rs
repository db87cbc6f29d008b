// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};

use super::*;
use crate::testing::{in_namespace, run};

fn with_loopback(test: impl FnOnce() + Send) {
    in_namespace(|| {
        run("ip link set lo up");
        test();
    });
}

fn request(protocol: Protocol, first: u16, last: u16) -> PortRequest {
    let host_ports = if first == 0 { HostPorts::Any } else { HostPorts::Range(first, last) };
    PortRequest { protocol, container_port: 80, host_ip: None, host_ports }
}

fn reserve(ports: &Ports, requests: &[PortRequest]) -> Result<Vec<Reservation>, PortTaken> {
    ports.reserve(requests, &WAYS, |_, _, _| false)
}

/// A container with IPv4 alone.
const WAYS: Ways = Ways { v4: Way::Translated, v6: Way::None, default_ip: Ipv4Addr::UNSPECIFIED };

fn numbers(reserved: &[Reservation]) -> Vec<u16> {
    reserved.iter().map(|r| r.ports[0].host_port).collect()
}

#[test]
fn a_reserved_port_is_refused_to_servers_and_to_clients() {
    with_loopback(|| {
        let ports = Ports::default();
        let held = reserve(&ports, &[request(Protocol::Tcp, 8080, 8080), request(Protocol::Udp, 8080, 8080)])
            .unwrap();
        assert_eq!(held.iter().map(|r| r.sockets.len()).sum::<usize>(), 2, "one for both families");
        // The standard library sets SO_REUSEADDR on listeners, as most servers do.
        for address in ["0.0.0.0:8080", "127.0.0.1:8080", "[::]:8080"] {
            assert_eq!(TcpListener::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse, "{address}");
            assert_eq!(UdpSocket::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse, "{address}");
        }
        for address in ["127.0.0.1:8080", "[::1]:8080"] {
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
        let error = reserve(&ports, &[request(Protocol::Tcp, 8080, 8080)]).unwrap_err();
        assert_eq!(error.to_string(), "failed to bind host port 0.0.0.0:8080/tcp: address already in use");
    });
}

#[test]
fn a_servers_port_is_taken() {
    with_loopback(|| {
        let ports = Ports::default();
        let taken = |request: PortRequest| reserve(&ports, &[request]).unwrap_err().to_string();
        let _tcp = TcpListener::bind("127.0.0.1:8080").unwrap();
        assert_eq!(
            taken(request(Protocol::Tcp, 8080, 8080)),
            "failed to bind host port 0.0.0.0:8080/tcp: address already in use"
        );
        let _udp = UdpSocket::bind("0.0.0.0:53").unwrap();
        assert_eq!(
            taken(request(Protocol::Udp, 53, 53)),
            "failed to bind host port 0.0.0.0:53/udp: address already in use"
        );
        let _v6 = TcpListener::bind("[::1]:8082").unwrap();
        assert_eq!(
            taken(request(Protocol::Tcp, 8082, 8082)),
            "failed to bind host port [::]:8082/tcp: address already in use"
        );
        let elsewhere =
            PortRequest { host_ip: Some("192.0.2.1".parse().unwrap()), ..request(Protocol::Tcp, 80, 80) };
        assert_eq!(
            taken(elsewhere),
            "failed to bind host port 192.0.2.1:80/tcp: cannot assign requested address"
        );
    });
}

#[test]
fn remains_of_connections_do_not_keep_a_port() {
    with_loopback(|| {
        let server = TcpListener::bind("127.0.0.1:8080").unwrap();
        let mut client = TcpStream::connect("127.0.0.1:8080").unwrap();
        let (mut connection, _) = server.accept().unwrap();
        // The side that closes first is the one with TIME_WAIT.
        connection.write_all(b"x").unwrap();
        drop((connection, server));
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        drop(client);
        assert!(run("ss -tan").contains("TIME-WAIT"), "{}", run("ss -tan"));
        let held = reserve(&Ports::default(), &[request(Protocol::Tcp, 8080, 8080)]).unwrap();
        assert_eq!(TcpListener::bind("127.0.0.1:8080").unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(held);
    });
}

#[test]
fn a_port_given_back_is_free_whoever_still_has_a_copy() {
    with_loopback(|| {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut ports = Ports::default();
            let held = reserve(&ports, &[request(protocol, 8080, 8080)]).unwrap().remove(0);
            let _shims: Vec<OwnedFd> = held.sockets.iter().map(|s| s.try_clone().unwrap()).collect();
            assert!(reserve(&ports, &[request(protocol, 8080, 8080)]).is_err());
            ports.give_back(&held.ports[0], held.sockets);
            let again = reserve(&ports, &[request(protocol, 8080, 8080)]).unwrap();
            assert!(
                reserve(&Ports::default(), &[request(protocol, 8080, 8080)]).is_err(),
                "and then reserved as ever"
            );
            drop(again);
        }
    });
}

#[test]
fn ranges_and_ephemeral_ports() {
    with_loopback(|| {
        let ports = Ports::default();
        let _server = TcpListener::bind("0.0.0.0:8001").unwrap();
        let range = request(Protocol::Tcp, 8000, 8003);
        let held = reserve(&ports, &[range, range, range]).unwrap();
        assert_eq!(numbers(&held), [8000, 8002, 8003]);
        assert_eq!(
            reserve(&ports, &[range]).unwrap_err().to_string(),
            "failed to bind host port 0.0.0.0:8000-8003/tcp: all ports are allocated"
        );
        let any = reserve(&ports, &[request(Protocol::Tcp, 0, 0), request(Protocol::Udp, 0, 0)]).unwrap();
        assert!(numbers(&any).iter().all(|p| *p >= 1024));
        let named_last = [request(Protocol::Tcp, 9000, 9001), request(Protocol::Tcp, 9000, 9000)];
        assert_eq!(numbers(&reserve(&ports, &named_last).unwrap()), [9001, 9000]);
    });
}

#[test]
fn either_all_or_none() {
    with_loopback(|| {
        let ports = Ports::default();
        let _server = TcpListener::bind("0.0.0.0:8001").unwrap();
        let both = [request(Protocol::Tcp, 8000, 8000), request(Protocol::Tcp, 8001, 8001)];
        assert!(reserve(&ports, &both).is_err());
        drop(TcpListener::bind("0.0.0.0:8000").unwrap());
        let error = ports.reserve(&both[..1], &WAYS, |_, _, port| port == 8000).unwrap_err();
        assert_eq!(error.to_string(), "Bind for 0.0.0.0:8000 failed: port is already allocated");
    });
}

#[test]
fn without_ipv6_there_is_ipv4() {
    in_namespace(|| {
        run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
        run("ip link set lo up");
        let held = reserve(&Ports::default(), &[request(Protocol::Tcp, 8080, 8080)]).unwrap();
        assert!(TcpListener::bind("0.0.0.0:8080").is_err());
        drop(held);
    });
}

#[test]
fn both_families_share_a_number_and_a_socket() {
    with_loopback(|| {
        let ports = Ports::default();
        let ways = Ways { v6: Way::Translated, ..WAYS };
        let held = ports.reserve(&[request(Protocol::Tcp, 0, 0)], &ways, |_, _, _| false).unwrap();
        let [first, second] = &held[0].ports[..] else { panic!("{held:?}") };
        assert_eq!((first.host_ip.to_string(), second.host_ip.to_string()), ("0.0.0.0".into(), "::".into()));
        assert_eq!(first.host_port, second.host_port);
        assert_eq!(held[0].sockets.len(), 1);

        // An address of one family leaves the other to others.
        let at = |ip: &str| PortRequest {
            host_ip: Some(ip.parse().unwrap()),
            ..request(Protocol::Tcp, 8080, 8080)
        };
        let held = ports.reserve(&[at("::"), at("0.0.0.0")], &ways, |_, _, _| false).unwrap();
        assert_eq!(held.len(), 2);
        drop(held);
        let _v6 = ports.reserve(&[at("::1")], &ways, |_, _, _| false).unwrap();
        drop(TcpListener::bind("0.0.0.0:8080").unwrap());
        let error = ports.reserve(&[at("::1")], &WAYS, |_, _, _| false).unwrap_err();
        let text = "cannot publish on ::1: the container has no IPv6 address that leads out";
        assert_eq!(error.to_string(), text);
    });
}

#[test]
fn a_routed_container_needs_no_port_of_the_hosts() {
    with_loopback(|| {
        let _server = TcpListener::bind("0.0.0.0:8080").unwrap();
        let ways = Ways { v4: Way::Routed, ..WAYS };
        let held =
            Ports::default().reserve(&[request(Protocol::Tcp, 8080, 8080)], &ways, |_, _, _| false).unwrap();
        assert_eq!((held[0].ports[0].host_port, held[0].sockets.len()), (0, 0));
    });
}

#[test]
fn a_protocol_that_the_host_does_not_speak_has_ephemeral_ports_too() {
    with_loopback(|| {
        let any = request(Protocol::Sctp, 0, 0);
        let held = reserve(&Ports::default(), &[any, any]).unwrap();
        let [first, second] = numbers(&held)[..] else { panic!("{held:?}") };
        assert!(first != 0 && second != 0 && first != second, "{first} {second}");
    });
}
