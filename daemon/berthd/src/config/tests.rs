// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use clap::Parser as _;

use super::*;

fn flags(args: &[&str]) -> Given {
    Flags::try_parse_from(std::iter::once(&"berthd").chain(args)).unwrap().given().unwrap()
}

fn file(text: &str) -> Result<Given> {
    file::parse(text, &mut Vec::new())
}

fn settings(args: &[&str], text: &str) -> Result<Settings> {
    Settings::from_given(&Given::merge(&flags(args), &file(text)?)?)
}

fn refused(args: &[&str], text: &str, part: &str) {
    let error = settings(args, text).expect_err(text).chain();
    assert!(error.contains(part), "{error:?} does not say {part:?}");
}

#[test]
fn defaults() {
    let s = settings(&[], "").unwrap();
    assert_eq!(s.hosts, [Host::Unix("/run/berth/berth.sock".into())]);
    assert_eq!(s.data_root, PathBuf::from("/var/lib/berth"));
    assert_eq!(s.log_level, LogLevel::Info);
    assert_eq!(s.default_shm_size, 64 << 20);
}

#[test]
fn flags_and_file_add_up() {
    let s = settings(
        &[
            "-H",
            "unix:///a.sock",
            "-H",
            "tcp://127.0.0.1:2375",
            "-D",
            "--icc=false",
            "--add-runtime",
            "x=/bin/x",
        ],
        r#"{"data-root":"/d","default-shm-size":"1g","log-opts":{"max-size":"10m"},
            "default-ulimits":{"nofile":{"Name":"nofile","Hard":2048,"Soft":1024}},
            "default-address-pools":[{"base":"10.0.0.0/8","size":24}], "labels":["a=b"]}"#,
    )
    .unwrap();
    assert_eq!(s.hosts.len(), 2);
    assert_eq!(s.log_level, LogLevel::Debug);
    assert!(!s.icc);
    assert_eq!(s.data_root, PathBuf::from("/d"));
    assert_eq!(s.default_shm_size, 1 << 30);
    assert_eq!(s.default_ulimits[0].soft, 1024);
    assert_eq!(s.default_address_pools[0].size, 24);
    assert!(s.runtimes.contains_key("x"));
}

#[test]
fn every_mistake_is_named() {
    refused(
        &[],
        r#"{"nope":1,"debug":true,"alsonot":{}}"#,
        "don't match any configuration option: nope, alsonot",
    );
    refused(&[], r#"{"raw-logs":true}"#, "not supported by this version of Berth: raw-logs");
    refused(&[], r#"{"debug":"yes"}"#, "debug is not as it should be");
    refused(&[], r#"["debug"]"#, "not a JSON object");
    refused(&[], r#"{"log-level":"loud"}"#, "invalid log-level \"loud\"");
    refused(
        &["--log-driver", "gelf"],
        "",
        "log-driver and log-opts: HostConfig.LogConfig.Type \"gelf\" is not implemented",
    );
    refused(&["--default-runtime", "kata"], "", "invalid default-runtime \"kata\"");
    refused(&["-H", "http://x"], "", "invalid host \"http://x\"");
    refused(&["-H", "unix://a"], "", "an absolute path expected");
    refused(&["--dns", "x"], "", "invalid dns \"x\"");
    refused(&["--label", "x"], "", "KEY=VALUE expected");
    refused(&["--max-concurrent-downloads", "0"], "", "at least 1");
    refused(&[], r#"{"default-address-pools":[{"base":"10.0.0.0/8","size":4}]}"#, "does not fit");
    refused(
        &[],
        r#"{"runtimes":{"k":{"runtimeType":"io.containerd.kata.v2"}}}"#,
        "runtimeType is not supported",
    );
    refused(&["--seccomp-profile", "/nonexistent"], "", "invalid seccomp-profile \"/nonexistent\"");
    refused(&[], r#"{"iptables":false}"#, "invalid iptables false: only true is possible");
    refused(&[], r#"{"firewall-backend":"iptables"}"#, "only \"nftables\" is possible");
    refused(&["--default-gateway", "fd00::1"], "", "an IPv4 address expected");
    let flags = Flags::try_parse_from(["berthd", "--default-network-opt", "bridge=x"]).unwrap();
    assert!(flags.given().unwrap_err().chain().contains("DRIVER=KEY=VALUE expected"));
    refused(&["--default-network-opt", "overlay=x=y"], "", "the driver bridge, macvlan or ipvlan expected");
    refused(&["--init-path", "/nonexistent"], "", "invalid init-path \"/nonexistent\"");
    refused(&["--cgroup-parent", "x.slice"], "", "slices need --exec-opt native.cgroupdriver=systemd");
    refused(&["--exec-opt", "native.cgroupdriver=x"], "", "cgroupfs or =systemd expected");
    refused(
        &["--cgroup-parent", "/x", "--exec-opt", "native.cgroupdriver=systemd"],
        "",
        "valid slice named as \"xxx.slice\"",
    );
    refused(&[], r#"{"min-api-version":"1.20"}"#, "from 1.24 to 1.55");
}

#[test]
fn a_key_in_both_is_a_conflict() {
    refused(
        &["-D", "--label", "a=b"],
        r#"{"debug":false,"labels":["c=d"]}"#,
        "specified both as a flag and in the configuration file: debug: (from flag: true, from file: false), labels",
    );
}

#[test]
fn keys_of_networks() {
    let s = settings(
        &["--default-network-opt", "bridge=com.docker.network.driver.mtu=1400", "--bip6", "fd00::1/64"],
        r#"{"iptables":true,"ip6tables":true,"firewall-backend":"nftables","network-diagnostic-port":0,
            "network-control-plane-mtu":1500,"default-gateway":"172.17.0.254","default-gateway-v6":"fd00::fe",
            "allow-direct-routing":true}"#,
    )
    .unwrap();
    assert_eq!(s.default_network_opts["bridge"]["com.docker.network.driver.mtu"], "1400");
    assert_eq!(s.default_gateway, Some([172, 17, 0, 254].into()));
    assert_eq!(s.default_gateway_v6.unwrap().to_string(), "fd00::fe");
    assert!(s.allow_direct_routing && s.bip6.is_some());
}

#[test]
fn keys_without_effect_leave_a_note() {
    let mut notes = Vec::new();
    file::parse(r#"{"live-restore":true,"userland-proxy":false}"#, &mut notes).unwrap();
    assert_eq!(notes.len(), 2);
    assert!(notes[0].starts_with("live-restore has no effect"), "{notes:?}");
}

#[test]
fn every_field_is_a_known_key_and_the_other_way_round() {
    let map = serde_json::to_value(Given::default()).unwrap();
    for key in map.as_object().unwrap().keys() {
        assert_eq!(keys::support(key), Some(keys::Support::Done), "{key}");
    }
}

#[test]
fn hosts() {
    for (text, shown) in [
        ("unix:///x/y.sock", "unix:///x/y.sock"),
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1"),
        ("tcp://:2376", "tcp://0.0.0.0:2376"),
        ("tcp://[::1]:5", "tcp://[::1]:5"),
        ("fd://", "fd://"),
        ("fd://*", "fd://"),
        ("fd://name", "fd://name"),
    ] {
        assert_eq!(text.parse::<Host>().unwrap().to_string(), shown);
    }
    for bad in ["", "/x", "tcp://127.0.0.1:x", "tcp://127.0.0.1:99999", "ssh://x"] {
        bad.parse::<Host>().expect_err(bad);
    }
}

#[test]
fn certificates_are_beside_the_file_and_where_they_are_for_all() {
    let dirs = |file: &str| certs_dirs(Path::new(file));
    assert_eq!(dirs(DEFAULT_FILE), ["/etc/berth/certs.d", "/etc/docker/certs.d"].map(PathBuf::from));
    let own = ["/opt/x/certs.d", "/etc/berth/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    assert_eq!(dirs("/opt/x/daemon.json"), own);
}
