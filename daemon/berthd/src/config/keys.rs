// SPDX-License-Identifier: Apache-2.0
//! The keys of `daemon.json`.

/// What Berth makes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    /// A field of [`super::Given`].
    Done,
    /// Accepted; the text says why it changes nothing.
    NoEffect(&'static str),
    /// Would promise something that Berth does not do.
    NotYet,
}

/// Looks a key up; `None` for one that neither Docker nor Berth knows.
pub(super) fn support(key: &str) -> Option<Support> {
    use Support::{Done, NoEffect, NotYet};
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
        | "fixed-cidr-v6"
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
        | "labels"
        | "exec-opts"
        | "shutdown-timeout"
        | "shim-path"
        | "min-api-version" => Done,

        "live-restore" => NoEffect("containers always survive the daemon"),
        "userland-proxy" | "userland-proxy-path" => NoEffect("ports are published by the kernel alone"),
        "storage-driver" => NoEffect("there is one storage driver: overlay2"),
        "containerd" | "containerd-namespace" | "containerd-plugins-namespace" => {
            NoEffect("there is no containerd")
        }
        "experimental" | "features" | "builder" => NoEffect("there are no such features to turn on or off"),
        "ip-forward-no-drop" | "allow-direct-routing" => NoEffect("other tables' policies are left alone"),
        "rootless" => NoEffect("the daemon runs as root"),
        "selinux-enabled"
        | "userns-remap"
        | "authorization-plugins"
        | "tls"
        | "tlsverify"
        | "tlscacert"
        | "tlscert"
        | "tlskey"
        | "default-gateway"
        | "default-gateway-v6"
        | "iptables"
        | "ip6tables"
        | "storage-opts"
        | "cpu-rt-period"
        | "cpu-rt-runtime"
        | "metrics-addr"
        | "network-control-plane-mtu"
        | "node-generic-resources"
        | "swarm-default-advertise-addr"
        | "oom-score-adjust"
        | "raw-logs"
        | "cdi-spec-dirs"
        | "default-network-opts"
        | "firewall-backend"
        | "allow-nondistributable-artifacts"
        | "bridge-accept-fwmark"
        | "nri-opts" => NotYet,
        _ => return None,
    })
}
