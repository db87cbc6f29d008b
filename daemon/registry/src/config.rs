// SPDX-License-Identifier: Apache-2.0
//! What the administrator decides about registries.

use std::path::PathBuf;
use std::time::Duration;

use crate::proxy::Proxies;

/// docker.io's own registry.
pub const DOCKER_HUB: &str = "https://registry-1.docker.io";

/// Where docker.io is searched.
pub const DOCKER_INDEX: &str = "https://index.docker.io";

/// Configuration of a [`crate::Client`].
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// `registry-mirrors`: base URLs (`https://mirror.example`) asked in order before docker.io itself.
    pub mirrors: Vec<String>,
    /// Base URL of the registry behind docker.io: [`DOCKER_HUB`], except in tests.
    pub docker_hub: String,
    /// Base URL of Docker Hub's search: [`DOCKER_INDEX`], except in tests.
    pub docker_index: String,
    /// `insecure-registries`: `host`, `host:port` or CIDR. For these a bad
    /// certificate is accepted and plain HTTP is tried when HTTPS does not answer.
    pub insecure: Vec<String>,
    /// Whether loopback counts as listed in `insecure` (the reference's rule).
    pub loopback_is_insecure: bool,
    /// `User-Agent` of every request.
    pub user_agent: String,
    /// Where `<host[:port]>/{*.crt, *.cert, *.key}` and `hosts.toml` are looked for, in order; the first directory that
    /// has the host wins.
    pub certs_dirs: Vec<PathBuf>,
    /// Proxies.
    pub proxies: Proxies,
    /// Patience.
    pub timeouts: Timeouts,
    /// Persistence.
    pub retries: Retries,
}

/// How long to wait for a registry.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the next byte, once there is a connection.
    pub idle: Duration,
}

/// How often, and how spaced, what failed is tried again.
#[derive(Debug, Clone)]
pub struct Retries {
    /// How many times a request is tried again after its first failure.
    pub count: u32,
    /// The first pause; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause, and the longest `Retry-After` that is waited for.
    pub longest_pause: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            docker_hub: DOCKER_HUB.to_owned(),
            docker_index: DOCKER_INDEX.to_owned(),
            insecure: Vec::new(),
            loopback_is_insecure: true,
            user_agent: format!("berth/{}", env!("CARGO_PKG_VERSION")),
            certs_dirs: vec!["/etc/berth/certs.d".into(), "/etc/docker/certs.d".into()],
            proxies: Proxies { from_env: true, ..Proxies::default() },
            timeouts: Timeouts { connect: Duration::from_secs(15), idle: Duration::from_secs(30) },
            retries: Retries {
                count: 3,
                first_pause: Duration::from_millis(250),
                longest_pause: Duration::from_secs(30),
            },
        }
    }
}
