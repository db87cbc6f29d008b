// SPDX-License-Identifier: Apache-2.0
//! What was said, by flags or by the file: the same shape for both.

use std::collections::BTreeMap;

use berth_domain::{Error, Result};
use serde::{Deserialize, Serialize};

/// Everything that can be said. What is `None` was not said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[allow(missing_docs)] // The names are Docker's keys.
pub(crate) struct Given {
    pub(crate) hosts: Option<Vec<String>>,
    pub(crate) data_root: Option<String>,
    pub(crate) exec_root: Option<String>,
    pub(crate) pidfile: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) debug: Option<bool>,
    pub(crate) log_level: Option<String>,
    pub(crate) log_format: Option<String>,
    pub(crate) registry_mirrors: Option<Vec<String>>,
    pub(crate) insecure_registries: Option<Vec<String>>,
    pub(crate) max_concurrent_downloads: Option<i64>,
    pub(crate) max_concurrent_uploads: Option<i64>,
    pub(crate) max_download_attempts: Option<i64>,
    pub(crate) proxies: Option<Proxies>,
    pub(crate) bip: Option<String>,
    pub(crate) fixed_cidr: Option<String>,
    pub(crate) ipv6: Option<bool>,
    pub(crate) bip6: Option<String>,
    pub(crate) fixed_cidr_v6: Option<String>,
    pub(crate) default_gateway: Option<String>,
    pub(crate) default_gateway_v6: Option<String>,
    /// By driver.
    pub(crate) default_network_opts: Option<BTreeMap<String, BTreeMap<String, String>>>,
    pub(crate) allow_direct_routing: Option<bool>,
    pub(crate) bridge: Option<String>,
    pub(crate) mtu: Option<i64>,
    pub(crate) icc: Option<bool>,
    pub(crate) ip: Option<String>,
    pub(crate) ip_forward: Option<bool>,
    pub(crate) ip_masq: Option<bool>,
    pub(crate) default_address_pools: Option<Vec<Pool>>,
    pub(crate) dns: Option<Vec<String>>,
    pub(crate) dns_opts: Option<Vec<String>>,
    pub(crate) dns_search: Option<Vec<String>>,
    pub(crate) host_gateway_ip: Option<String>,
    pub(crate) host_gateway_ips: Option<Vec<String>>,
    pub(crate) log_driver: Option<String>,
    pub(crate) log_opts: Option<BTreeMap<String, String>>,
    pub(crate) default_runtime: Option<String>,
    pub(crate) runtimes: Option<BTreeMap<String, Runtime>>,
    pub(crate) default_ulimits: Option<BTreeMap<String, Ulimit>>,
    /// A number of bytes or a text with a unit.
    pub(crate) default_shm_size: Option<serde_json::Value>,
    pub(crate) default_ipc_mode: Option<String>,
    pub(crate) default_cgroupns_mode: Option<String>,
    pub(crate) init: Option<bool>,
    pub(crate) init_path: Option<String>,
    pub(crate) seccomp_profile: Option<String>,
    pub(crate) cgroup_parent: Option<String>,
    pub(crate) exec_opts: Option<Vec<String>>,
    pub(crate) no_new_privileges: Option<bool>,
    pub(crate) userns_remap: Option<String>,
    pub(crate) labels: Option<Vec<String>>,
    pub(crate) shutdown_timeout: Option<i64>,
    pub(crate) shim_path: Option<String>,
    pub(crate) min_api_version: Option<String>,
    pub(crate) cpu_rt_period: Option<i64>,
    pub(crate) cpu_rt_runtime: Option<i64>,
    pub(crate) cdi_spec_dirs: Option<Vec<String>>,
    pub(crate) features: Option<BTreeMap<String, bool>>,
}

/// Proxies, in place of the environment's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub(crate) struct Proxies {
    /// For plain HTTP.
    pub(crate) http_proxy: Option<String>,
    /// For HTTPS.
    pub(crate) https_proxy: Option<String>,
    /// Who is asked directly.
    pub(crate) no_proxy: Option<String>,
}

/// A range that subnets are cut from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pool {
    /// The whole range.
    pub(crate) base: String,
    /// Prefix length of each subnet.
    pub(crate) size: u8,
}

/// An external OCI runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Runtime {
    /// The program.
    pub(crate) path: String,
    /// Its arguments before the verb.
    pub(crate) runtime_args: Vec<String>,
    /// A containerd shim, which Berth does not speak to.
    pub(crate) runtime_type: String,
}

/// A resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub(crate) struct Ulimit {
    /// Which; the map's key when empty.
    pub(crate) name: String,
    /// The ceiling.
    pub(crate) hard: i64,
    /// The limit.
    pub(crate) soft: i64,
}

impl Given {
    fn said(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(mut map)) => {
                map.retain(|_, v| !v.is_null());
                Ok(map)
            }
            Ok(_) => Err(Error::internal("settings are no object")),
            Err(e) => Err(Error::internal("settings cannot be written").because(e)),
        }
    }

    /// Puts flags and file together.
    ///
    /// # Errors
    ///
    /// A key that both have: nobody should have to know which one wins.
    pub(crate) fn merge(flags: &Self, file: &Self) -> Result<Self> {
        let (flags, mut all) = (flags.said()?, file.said()?);
        let both: Vec<String> = flags
            .iter()
            .filter_map(|(key, flag)| {
                all.get(key).map(|file| format!("{key}: (from flag: {flag}, from file: {file})"))
            })
            .collect();
        if !both.is_empty() {
            return Err(Error::invalid(format!(
                "the following directives are specified both as a flag and in the configuration file: {}",
                both.join(", ")
            )));
        }
        all.extend(flags);
        serde_json::from_value(serde_json::Value::Object(all))
            .map_err(|e| Error::internal("settings cannot be read back").because(e))
    }
}
