// SPDX-License-Identifier: Apache-2.0
//! Volume drivers of others: programs that listen on a socket and speak Docker's plugin protocol
//! (docs.docker.com/engine/extend/plugin_api and plugins_volume).
//!
//! Looked for by name where Docker looks: `NAME.sock` (or `NAME/NAME.sock`) in `/run/docker/plugins`, and files
//! `NAME.spec` or `NAME.json` that hold an address in `/etc/docker/plugins` and `/usr/lib/docker/plugins`. A plugin may be
//! slow, broken or hostile: each call has a deadline, each answer a bound, and a name never leaves these folders.

mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_domain::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use http::Address;

const SOCKETS: &str = "/run/docker/plugins";
const SPECS: [&str; 2] = ["/etc/docker/plugins", "/usr/lib/docker/plugins"];
/// A spec or description is an address or a little JSON.
const SPEC_MAX: u64 = 64 << 10;
/// For calls that only ask; and for those that may have to reach a storage system.
const QUICK: Duration = Duration::from_secs(10);
const PATIENT: Duration = Duration::from_secs(120);
/// Plugins listed of one folder.
const PLUGINS_MAX: usize = 1000;

/// A driver that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plugin {
    name: String,
    address: Address,
}

/// A volume as its driver tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PluginVolume {
    pub(crate) name: String,
    pub(crate) mountpoint: String,
    pub(crate) created_at: String,
    pub(crate) status: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    addr: String,
    #[serde(default, rename = "TLSConfig")]
    tls: Option<Value>,
}

/// The driver of a name.
///
/// # Errors
///
/// Not found; its description makes no sense; it does not answer, or is no volume driver.
pub(crate) fn find(name: &str) -> Result<Plugin> {
    let missing =
        || Error::not_found(format!("error looking up volume plugin {name}: plugin {name:?} not found"));
    // Docker takes a tag for managed plugins; those here have none.
    let plain = name.strip_suffix(":latest").unwrap_or(name);
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let first = plain.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !first || plain.len() > 200 || !plain.bytes().all(good) {
        return Err(missing());
    }
    let address = address(plain)?.ok_or_else(missing)?;
    let plugin = Plugin { name: name.to_owned(), address };
    let said = plugin.call("/Plugin.Activate", &json!({}), QUICK)?;
    let is_driver = said["Implements"].as_array().into_iter().flatten().any(|what| *what == "VolumeDriver");
    if is_driver {
        return Ok(plugin);
    }
    Err(Error::not_found(format!(
        "error looking up volume plugin {name}: plugin {name:?} does not implement the requested interface VolumeDriver"
    )))
}

/// Names of the plugins that there seem to be; whether they are volume drivers shows when they are asked.
pub(crate) fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in [SOCKETS].into_iter().chain(SPECS) {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten().take(PLUGINS_MAX) {
            let path = entry.path();
            let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            let is_plugin = match path.extension().and_then(|e| e.to_str()) {
                Some("sock") => folder == SOCKETS,
                Some("spec" | "json") => folder != SOCKETS,
                _ => folder == SOCKETS && path.join(format!("{stem}.sock")).exists(),
            };
            if is_plugin {
                names.insert(stem.to_owned());
            }
        }
    }
    names
}

fn address(name: &str) -> Result<Option<Address>> {
    use std::os::unix::fs::FileTypeExt as _;
    let sockets = Path::new(SOCKETS);
    for path in [sockets.join(format!("{name}.sock")), sockets.join(name).join(format!("{name}.sock"))] {
        if std::fs::metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
            return Ok(Some(Address::Unix(path)));
        }
    }
    for folder in SPECS {
        for kind in ["spec", "json"] {
            let path = Path::new(folder).join(format!("{name}.{kind}"));
            let text = match read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("reading", &path, error)),
            };
            let bad =
                |what: &str| Error::invalid(format!("the plugin description {}: {what}", path.display()));
            let url = if kind == "spec" {
                text.trim().to_owned()
            } else {
                let description: Description =
                    serde_json::from_str(&text).map_err(|e| bad("it is no such JSON").because(e))?;
                if description.tls.is_some_and(|tls| !tls.is_null()) {
                    return Err(Error::not_implemented(format!(
                        "the plugin {name} asks for TLS, which is not supported for plugins: let it listen on a Unix socket"
                    )));
                }
                description.addr
            };
            return Address::parse(&url).map(Some).ok_or_else(|| {
                bad(&format!("{url:?} is no address: unix:///path or tcp://host:port expected"))
            });
        }
    }
    Ok(None)
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(SPEC_MAX).read_to_string(&mut text)?;
    Ok(text)
}

impl Plugin {
    fn call(&self, endpoint: &str, body: &Value, patience: Duration) -> Result<Value> {
        let operation = endpoint.trim_start_matches('/');
        let deadline = Instant::now() + patience;
        let (status, answer) = http::post(&self.address, endpoint, body.to_string().as_bytes(), deadline)
            .map_err(|error| {
                Error::unavailable(format!("{operation}: the plugin {:?} does not answer", self.name))
                    .because(error)
            })?;
        let failed = |text: &str| Error::internal(format!("{operation}: {text}"));
        let said: Value = match serde_json::from_slice(&answer) {
            Ok(said @ Value::Object(_)) => said,
            Ok(Value::Null) => Value::Object(Map::new()),
            // Some answer their errors as text.
            _ if status != 200 => return Err(failed(String::from_utf8_lossy(&answer).trim())),
            _ if answer.is_empty() => Value::Object(Map::new()),
            _ => return Err(failed(&format!("the plugin {:?} answered with no JSON object", self.name))),
        };
        match said["Err"].as_str() {
            Some(text) if !text.is_empty() => Err(failed(text)),
            _ if status != 200 => {
                Err(failed(&format!("the plugin {:?} answered with status {status}", self.name)))
            }
            _ => Ok(said),
        }
    }

    pub(crate) fn create(&self, name: &str, options: Option<&BTreeMap<String, String>>) -> Result<()> {
        let body = json!({ "Name": name, "Opts": options.unwrap_or(&BTreeMap::new()) });
        self.call("/VolumeDriver.Create", &body, PATIENT).map(drop)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.call("/VolumeDriver.Remove", &json!({ "Name": name }), PATIENT).map(drop)
    }

    /// Where it is mounted for this user.
    pub(crate) fn mount(&self, name: &str, user: &str) -> Result<PathBuf> {
        let said = self.call("/VolumeDriver.Mount", &json!({ "Name": name, "ID": user }), PATIENT)?;
        self.place(&said, "Mount")
    }

    pub(crate) fn unmount(&self, name: &str, user: &str) -> Result<()> {
        self.call("/VolumeDriver.Unmount", &json!({ "Name": name, "ID": user }), PATIENT).map(drop)
    }

    /// Where it is mounted already.
    pub(crate) fn path(&self, name: &str) -> Result<PathBuf> {
        let said = self.call("/VolumeDriver.Path", &json!({ "Name": name }), QUICK)?;
        self.place(&said, "Path")
    }

    fn place(&self, said: &Value, operation: &str) -> Result<PathBuf> {
        let path = said["Mountpoint"].as_str().unwrap_or_default();
        if path.starts_with('/') && !path.contains('\0') {
            return Ok(path.into());
        }
        Err(Error::internal(format!(
            "VolumeDriver.{operation}: the plugin {:?} answered with the mount point {path:?}, which is no absolute path",
            self.name
        )))
    }

    pub(crate) fn get(&self, name: &str) -> Result<PluginVolume> {
        let said = self.call("/VolumeDriver.Get", &json!({ "Name": name }), QUICK)?;
        let volume = said.get("Volume").cloned().unwrap_or_default();
        let volume: PluginVolume = serde_json::from_value(volume)
            .map_err(|e| Error::internal("VolumeDriver.Get: the answer makes no sense").because(e))?;
        if volume.name.is_empty() {
            return Err(Error::not_found(format!("get {name}: no such volume")));
        }
        Ok(volume)
    }

    pub(crate) fn list(&self) -> Result<Vec<PluginVolume>> {
        let said = self.call("/VolumeDriver.List", &json!({}), QUICK)?;
        match said.get("Volumes").cloned().unwrap_or_default() {
            Value::Null => Ok(Vec::new()),
            list => serde_json::from_value(list)
                .map_err(|e| Error::internal("VolumeDriver.List: the answer makes no sense").because(e)),
        }
    }

    /// `local` or `global`; drivers from before there were capabilities are local.
    pub(crate) fn scope(&self) -> String {
        let said = self.call("/VolumeDriver.Capabilities", &json!({}), QUICK);
        let scope =
            said.ok().and_then(|said| Some(said["Capabilities"]["Scope"].as_str()?.to_ascii_lowercase()));
        scope.filter(|scope| scope == "global").unwrap_or_else(|| "local".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn names_do_not_leave_the_folders() {
        for bad in ["", "../x", "a/b", ".hidden", "a\0", "a:b", &"a".repeat(300)] {
            assert_eq!(find(bad).unwrap_err().meaning(), berth_domain::Meaning::NotFound, "{bad:?}");
        }
    }
}
