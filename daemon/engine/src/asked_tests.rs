// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
use berth_api::types::container_create::ContainerCreateBody;
use berth_domain::Meaning;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn ask(body: Value) -> Result<Asked> {
    let mut body: ContainerCreateBody = serde_json::from_value(body).expect("a body");
    let engine = EngineConfig::new("/d", "/r");
    normalise(&engine, &body.config, &mut body.host_config);
    derive(&engine, &body.config, &body.host_config, &body.networking_config)
}

fn check_refused(body: Value, text: &str) {
    assert_eq!(ask(body).expect_err(text).to_string(), text);
}

#[test]
fn defaults() {
    let asked = ask(json!({})).unwrap();
    assert_eq!(asked.stop_signal, Signal::TERM);
    assert_eq!(asked.stop_timeout, Some(Duration::from_secs(10)));
    assert_eq!(asked.network, NetworkChoice::Networks(vec![EndpointRequest::on("bridge")]));
    assert_eq!((asked.runtime, asked.restart), (RuntimeChoice::Native, RestartPolicy::No));
}

#[test]
fn network_modes() {
    let mode = |mode: &str| ask(json!({"HostConfig": {"NetworkMode": mode}})).unwrap().network;
    assert_eq!(mode("none"), NetworkChoice::None);
    assert_eq!(mode("host"), NetworkChoice::Host);
    assert_eq!(mode("default"), NetworkChoice::Networks(vec![EndpointRequest::on("bridge")]));
    assert_eq!(mode("gn"), NetworkChoice::Networks(vec![EndpointRequest::on("gn")]));
    assert_eq!(mode("container:x"), NetworkChoice::Container("x".into()));
    let disabled = ask(json!({"NetworkDisabled": true})).unwrap();
    assert_eq!(disabled.network, NetworkChoice::None);
}

#[test]
fn endpoints_take_their_settings() {
    let asked = ask(json!({
        "HostConfig": {"NetworkMode": "gn"},
        "NetworkingConfig": {"EndpointsConfig": {
            "gn": {"IPAMConfig": {"IPv4Address": "172.30.0.9"}, "Aliases": ["al"], "MacAddress": "02:42:ac:11:00:02"},
            "other": {},
        }},
    }))
    .unwrap();
    let NetworkChoice::Networks(endpoints) = asked.network else { panic!("networks") };
    assert_eq!(endpoints.len(), 2);
    assert_eq!((&*endpoints[0].network, endpoints[0].ipv4), ("gn", Some([172, 30, 0, 9].into())));
    assert_eq!(endpoints[0].aliases, ["al"]);
    assert_eq!(endpoints[1], EndpointRequest::on("other"));
    // The key `default` means the bridge.
    let asked =
        ask(json!({"NetworkingConfig": {"EndpointsConfig": {"default": {"Aliases": ["a"]}}}})).unwrap();
    let NetworkChoice::Networks(endpoints) = asked.network else { panic!("networks") };
    assert_eq!((endpoints.len(), &*endpoints[0].network), (1, "bridge"));
}

#[test]
fn ports() {
    let asked = ask(json!({
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "HostConfig": {"PublishAllPorts": true, "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}},
    }))
    .unwrap();
    assert_eq!(asked.ports.len(), 2);
    assert_eq!(asked.ports[0].host_ports, HostPorts::Range(8080, 8080));
    assert_eq!((asked.ports[1].container_port, asked.ports[1].host_ports), (53, HostPorts::Any));
    let any = ask(json!({"HostConfig": {"PortBindings": {"80/tcp": null}}})).unwrap();
    assert_eq!(any.ports[0].host_ports, HostPorts::Any);
    let host = ask(json!({"HostConfig": {"NetworkMode": "host", "PortBindings": {"80/tcp": null}}})).unwrap();
    assert!(host.ports.is_empty());
    check_refused(
        json!({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "x"}]}}}),
        "invalid port specification: \"x\"",
    );
}

#[test]
fn what_collides() {
    check_refused(
        json!({"HostConfig": {"NetworkMode": "container:x", "PortBindings": {"80/tcp": null}}}),
        "conflicting options: port publishing and the container type network mode",
    );
    check_refused(
        json!({"HostConfig": {"NetworkMode": "container:x", "Dns": ["1.1.1.1"]}}),
        "conflicting options: dns and the network mode",
    );
    check_refused(
        json!({"Hostname": "h", "HostConfig": {"UTSMode": "host"}}),
        "conflicting options: hostname and the UTS mode",
    );
    check_refused(
        json!({"WorkingDir": "x"}),
        "the working directory 'x' is invalid, it needs to be an absolute path",
    );
    check_refused(
        json!({"Hostname": "h", "HostConfig": {"NetworkMode": "container:x"}}),
        "conflicting options: hostname and the network mode",
    );
    check_refused(json!({"HostConfig": {"ExtraHosts": ["x"]}}), "bad format for add-host: \"x\"");
    check_refused(json!({"HostConfig": {"ExtraHosts": ["x:y"]}}), "invalid IP address in add-host: \"y\"");
    check_refused(json!({"HostConfig": {"Dns": ["nope"]}}), "bad nameserver address nope");
    check_refused(json!({"Env": ["=x"]}), "invalid environment variable: =x");
    check_refused(json!({"HostConfig": {"Runtime": "nope"}}), "unknown or invalid runtime name: nope");
    check_refused(json!({"HostConfig": {"PidMode": "nope"}}), "invalid PID mode: nope");
    check_refused(json!({"HostConfig": {"StorageOpt": {"inodes": "1"}}}), "unknown option inodes");
    check_refused(
        json!({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "1.2.3.4"}}}}}),
        "invalid config for network bridge: invalid endpoint settings:\n* user specified IP address is supported on user \
         defined networks only\n* user specified IP address is supported only when connecting to networks with user \
         configured subnets",
    );
}

#[test]
fn what_is_not_there_is_named() {
    let error = ask(json!({"HostConfig": {"LogConfig": {"Type": "gelf"}}})).expect_err("no such driver yet");
    assert_eq!(error.meaning(), Meaning::NotImplemented);
    assert!(error.to_string().contains("LogConfig"), "{error}");
}

proptest! {
    #[test]
    fn no_words_panic(mode in "\\PC{0,12}", port in "\\PC{0,12}", ip in "\\PC{0,12}", env in "\\PC{0,12}") {
        let _either = ask(json!({
            "Env": [env], "Hostname": &mode, "StopSignal": &port,
            "HostConfig": {
                "NetworkMode": &mode, "PidMode": &mode, "IpcMode": &mode, "UTSMode": &mode, "Runtime": &mode,
                "PortBindings": {&*port: [{"HostIp": ip, "HostPort": &port}]},
            },
        }));
    }
}
