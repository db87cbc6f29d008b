// SPDX-License-Identifier: Apache-2.0
//! The engine about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::container::ContainerSummary;
use super::container_create::null_default;
use super::image::ImageSummary;
use super::volume::Volume;

/// `GET /version`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)] // The names are the API's own.
pub struct Version {
    pub platform: VersionPlatform,
    #[serde(deserialize_with = "null_default")]
    pub components: Vec<VersionComponent>,
    pub version: String,
    pub api_version: String,
    #[serde(rename = "MinAPIVersion")]
    pub min_api_version: String,
    pub git_commit: String,
    pub go_version: String,
    pub os: String,
    pub arch: String,
    pub kernel_version: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub experimental: bool,
    pub build_time: String,
}

/// Whose product it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct VersionPlatform {
    pub name: String,
}

/// A part of the engine. Clients look for one named `Engine`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct VersionComponent {
    pub name: String,
    pub version: String,
    #[serde(deserialize_with = "null_default")]
    pub details: BTreeMap<String, String>,
}

/// `GET /info`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct Info {
    #[serde(rename = "ID")]
    pub id: String,
    pub containers: i64,
    pub containers_running: i64,
    pub containers_paused: i64,
    pub containers_stopped: i64,
    pub images: i64,
    pub driver: String,
    #[serde(deserialize_with = "null_default")]
    pub driver_status: Vec<[String; 2]>,
    pub plugins: PluginsInfo,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs_period: bool,
    pub cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares")]
    pub cpu_shares: bool,
    #[serde(rename = "CPUSet")]
    pub cpu_set: bool,
    pub pids_limit: bool,
    #[serde(rename = "IPv4Forwarding")]
    pub ipv4_forwarding: bool,
    pub debug: bool,
    #[serde(rename = "NFd")]
    pub n_fd: i64,
    pub oom_kill_disable: bool,
    pub n_goroutines: i64,
    pub system_time: String,
    pub logging_driver: String,
    pub cgroup_driver: String,
    pub cgroup_version: String,
    pub n_events_listener: i64,
    pub kernel_version: String,
    pub operating_system: String,
    #[serde(rename = "OSVersion")]
    pub os_version: String,
    #[serde(rename = "OSType")]
    pub os_type: String,
    pub architecture: String,
    pub index_server_address: String,
    pub registry_config: Option<RegistryServiceConfig>,
    #[serde(rename = "NCPU")]
    pub ncpu: i64,
    pub mem_total: i64,
    pub generic_resources: Option<Vec<serde_json::Value>>,
    pub docker_root_dir: String,
    pub http_proxy: String,
    pub https_proxy: String,
    pub no_proxy: String,
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub labels: Vec<String>,
    pub experimental_build: bool,
    pub server_version: String,
    #[serde(deserialize_with = "null_default")]
    pub runtimes: BTreeMap<String, RuntimeInfo>,
    pub default_runtime: String,
    pub swarm: SwarmInfo,
    pub live_restore_enabled: bool,
    pub isolation: String,
    pub init_binary: String,
    pub containerd_commit: Commit,
    pub runc_commit: Commit,
    pub init_commit: Commit,
    #[serde(deserialize_with = "null_default")]
    pub security_options: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_address_pools: Option<Vec<AddressPool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_backend: Option<FirewallInfo>,
    #[serde(rename = "CDISpecDirs", deserialize_with = "null_default")]
    pub cdi_spec_dirs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub discovered_devices: Vec<DeviceInfo>,
    /// Each is printed to the user as it is.
    pub warnings: Option<Vec<String>>,
}

/// A device that can be asked for by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct DeviceInfo {
    /// The driver that knows it: `cdi`.
    pub source: String,
    #[serde(rename = "ID")]
    pub id: String,
}

/// What drivers there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct PluginsInfo {
    #[serde(deserialize_with = "null_default")]
    pub volume: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub network: Vec<String>,
    pub authorization: Option<Vec<String>>,
    #[serde(deserialize_with = "null_default")]
    pub log: Vec<String>,
}

/// How registries are spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct RegistryServiceConfig {
    #[serde(deserialize_with = "null_default")]
    pub index_configs: BTreeMap<String, IndexInfo>,
    #[serde(rename = "InsecureRegistryCIDRs", deserialize_with = "null_default")]
    pub insecure_registry_cidrs: Vec<String>,
    pub mirrors: Option<Vec<String>>,
}

/// One registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct IndexInfo {
    #[serde(deserialize_with = "null_default")]
    pub mirrors: Vec<String>,
    pub name: String,
    pub official: bool,
    pub secure: bool,
}

/// An OCI runtime.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct RuntimeInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    #[serde(
        rename = "runtimeArgs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub runtime_args: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<BTreeMap<String, String>>,
}

/// The engine's part in a swarm: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct SwarmInfo {
    #[serde(rename = "NodeID")]
    pub node_id: String,
    pub node_addr: String,
    pub local_node_state: String,
    pub control_available: bool,
    pub error: String,
    pub remote_managers: Option<Vec<serde_json::Value>>,
}

/// What a part was built from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Commit {
    #[serde(rename = "ID", default)]
    pub id: String,
}

/// A range that networks take their subnets from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct AddressPool {
    pub base: String,
    pub size: u8,
}

/// Who filters packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct FirewallInfo {
    pub driver: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Vec<[String; 2]>>,
}

/// `GET /system/df`: the lists of before 1.52, and the sums that newer versions answer beside or instead of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct DiskUsage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_usage: Option<KindUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_usage: Option<KindUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_usage: Option<KindUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_cache_usage: Option<KindUsage>,
    #[serde(flatten)]
    pub lists: Option<DiskUsageLists>,
}

/// What was told before 1.52.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct DiskUsageLists {
    pub layers_size: i64,
    pub images: Option<Vec<ImageSummary>>,
    pub containers: Option<Vec<ContainerSummary>>,
    pub volumes: Option<Vec<Volume>>,
    pub build_cache: Option<Vec<serde_json::Value>>,
}

/// How much room one kind of object takes, since 1.52. Numbers that are 0 are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KindUsage {
    /// How many are in use.
    #[serde(skip_serializing_if = "is_zero")]
    pub active_count: i64,
    /// The objects themselves, for who asks with `verbose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<serde_json::Value>,
    /// Bytes that a prune of all that is not in use would free.
    #[serde(skip_serializing_if = "is_zero")]
    pub reclaimable: i64,
    /// How many there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_count: i64,
    /// Bytes of all of them, each byte once.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_size: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
fn is_zero(n: &i64) -> bool {
    *n == 0
}
