// SPDX-License-Identifier: Apache-2.0
//! The keys of `daemon.json`.

/// What Berth makes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    /// A field of [`super::Given`].
    Done,
    /// Accepted; the text says why it changes nothing.
    NoEffect(&'static str),
    /// Accepted with this value, which changes nothing; the text says why there is no other.
    Only(Wanted, &'static str),
    /// Would promise something that Berth does not do.
    NotYet,
}

/// The one value that a key may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    True,
    Zero,
    Text(&'static str),
}

impl Wanted {
    /// As the file has it.
    pub(super) fn value(self) -> serde_json::Value {
        match self {
            Self::True => true.into(),
            Self::Zero => 0.into(),
            Self::Text(text) => text.into(),
        }
    }
}

/// Looks a key up; `None` for one that neither Docker nor Berth knows.
pub(super) fn support(key: &str) -> Option<Support> {
    use Support::{Done, NoEffect, NotYet, Only};
    Some(match key {
        "hosts"
        | "data-root"
        | "exec-root"
        | "pidfile"
        | "group"
        | "debug"
        | "log-level"
        | "log-format"
        | "registry-mirrors"
        | "insecure-registries"
        | "max-concurrent-downloads"
        | "max-concurrent-uploads"
        | "max-download-attempts"
        | "proxies"
        | "bip"
        | "fixed-cidr"
        | "ipv6"
        | "bip6"
        | "fixed-cidr-v6"
        | "default-gateway"
        | "default-gateway-v6"
        | "default-network-opts"
        | "allow-direct-routing"
        | "bridge"
        | "mtu"
        | "icc"
        | "ip"
        | "ip-forward"
        | "ip-masq"
        | "default-address-pools"
        | "dns"
        | "dns-opts"
        | "dns-search"
        | "host-gateway-ip"
        | "host-gateway-ips"
        | "log-driver"
        | "log-opts"
        | "default-runtime"
        | "runtimes"
        | "default-ulimits"
        | "default-shm-size"
        | "default-ipc-mode"
        | "default-cgroupns-mode"
        | "init"
        | "init-path"
        | "seccomp-profile"
        | "cgroup-parent"
        | "no-new-privileges"
        | "userns-remap"
        | "labels"
        | "exec-opts"
        | "shutdown-timeout"
        | "shim-path"
        | "min-api-version"
        | "cdi-spec-dirs"
        | "cpu-rt-period"
        | "cpu-rt-runtime"
        | "features" => Done,

        "live-restore" => NoEffect("containers always survive the daemon"),
        "userland-proxy" | "userland-proxy-path" => NoEffect("ports are published by the kernel alone"),
        "storage-driver" => NoEffect("there is one storage driver: overlay2"),
        "containerd" | "containerd-namespace" | "containerd-plugins-namespace" => {
            NoEffect("there is no containerd")
        }
        "experimental" | "builder" => NoEffect("there are no such features to turn on or off"),
        "ip-forward-no-drop" => NoEffect("other tables' policies are left alone"),
        "network-control-plane-mtu" => NoEffect("there are no overlay networks"),
        "iptables" | "ip6tables" => Only(
            Wanted::True,
            "published ports and isolation are the firewall's work, and there is no proxy to stand in for it",
        ),
        "firewall-backend" => Only(Wanted::Text("nftables"), "the firewall is nftables alone"),
        "network-diagnostic-port" => Only(Wanted::Zero, "there is no network database to diagnose"),
        "rootless" => NoEffect("the daemon runs as root"),
        "selinux-enabled"
        | "authorization-plugins"
        | "tls"
        | "tlsverify"
        | "tlscacert"
        | "tlscert"
        | "tlskey"
        | "storage-opts"
        | "metrics-addr"
        | "node-generic-resources"
        | "swarm-default-advertise-addr"
        | "oom-score-adjust"
        | "raw-logs"
        | "allow-nondistributable-artifacts"
        | "bridge-accept-fwmark"
        | "nri-opts" => NotYet,
        _ => return None,
    })
}
