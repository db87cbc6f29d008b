// SPDX-License-Identifier: Apache-2.0
//! One CDI spec file: its shape, and what of it cannot be.
//!
//! The format is that of the Container Device Interface up to version 1.1. A file is the administrator's or a vendor's
//! tool's; it is bounded and read strictly all the same, for a misspelt field would silently give a container less, or
//! more, than was meant.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Deserializer};

/// The longest file that is read.
const MAX_FILE: u64 = 4 << 20;
/// Most devices, and most edits of one kind, in a file.
const MAX_ENTRIES: usize = 16_384;
/// Versions of the format, oldest first.
const VERSIONS: [(u32, u32); 9] =
    [(0, 3), (0, 4), (0, 5), (0, 6), (0, 7), (0, 8), (1, 0), (1, 1), (u32::MAX, u32::MAX)];

/// A file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub(super) cdi_version: String,
    /// `vendor/class`.
    pub(super) kind: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Device>,
    /// For whoever gets any device of this file.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// A device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) container_edits: Edits,
}

/// What becomes of the container's OCI spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) net_devices: Vec<serde_json::Value>,
    pub(super) hooks: Vec<Hook>,
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<serde_json::Value>,
    pub(super) additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Node {
    /// In the container.
    pub(super) path: String,
    /// Where the host has it; `path` if not said.
    pub(super) host_path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) major: i64,
    pub(super) minor: i64,
    #[serde(deserialize_with = "mode")]
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A bind or another mount.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// A program of the host's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

/// A number; or, as YAML 1.1 had it, digits of base eight behind a 0.
fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Mode {
        Number(u32),
        Digits(String),
    }
    match Option::<Mode>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Mode::Number(number)) => Ok(Some(number)),
        Some(Mode::Digits(text)) => match text.strip_prefix('0').map(|t| u32::from_str_radix(t, 8)) {
            Some(Ok(number)) => Ok(Some(number)),
            _ => Err(serde::de::Error::custom(format!("{text:?} is no file mode"))),
        },
    }
}

/// Reads and checks a file.
pub(super) fn read(path: &Path) -> Result<File, String> {
    // Not to hang on a FIFO.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0))
        .open(path);
    let file = file.map_err(|e| format!("failed to read CDI Spec {path:?}: {e}"))?;
    let meta = file.metadata().map_err(|e| format!("failed to read CDI Spec {path:?}: {e}"))?;
    if !meta.is_file() {
        return Err(format!("failed to read CDI Spec {path:?}: it is no regular file"));
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|e| format!("failed to read CDI Spec {path:?}: {e}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("failed to read CDI Spec {path:?}: it is longer than {MAX_FILE} bytes"));
    }
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let file = parse(&text, is_json).map_err(|e| format!("failed to parse CDI Spec {path:?}: {e}"))?;
    file.check().map_err(|e| format!("failed to load CDI Spec {path:?}: invalid CDI Spec: {e}"))?;
    Ok(file)
}

/// Reads the text of a file, unchecked.
pub(super) fn parse(text: &str, is_json: bool) -> Result<File, String> {
    if is_json {
        serde_json::from_str(text).map_err(|e| e.to_string())
    } else {
        serde_norway::from_str(text).map_err(|e| e.to_string())
    }
}

impl File {
    /// Vendor and class.
    pub(super) fn qualifier(&self) -> (&str, &str) {
        self.kind.split_once('/').unwrap_or(("", &self.kind))
    }

    /// What cannot be.
    pub(super) fn check(&self) -> Result<(), String> {
        let version = version(&self.cdi_version)?;
        let needed = self.needed();
        if version < needed {
            return Err(format!("the spec version must be at least v{}.{}.0", needed.0, needed.1));
        }
        let (vendor, class) = self.qualifier();
        check_part(vendor).map_err(|why| format!("invalid vendor. {why}"))?;
        check_part(class).map_err(|why| format!("invalid class. {why}"))?;
        self.container_edits.check()?;
        if self.devices.is_empty() {
            return Err("invalid spec, no devices".to_owned());
        }
        if self.devices.len() > MAX_ENTRIES {
            return Err(format!("invalid spec, more than {MAX_ENTRIES} devices"));
        }
        let mut names = std::collections::BTreeSet::new();
        for device in &self.devices {
            let name = &device.name;
            check_name(name)
                .and_then(|()| match device.container_edits == Edits::default() {
                    true => Err("invalid device, empty device edits".to_owned()),
                    false => device.container_edits.check(),
                })
                .map_err(|why| format!("failed add device {name:?}: {why}"))?;
            if !names.insert(name) {
                return Err(format!("invalid spec, multiple device {name:?}"));
            }
        }
        Ok(())
    }

    /// The oldest version that has all that this file uses.
    fn needed(&self) -> (u32, u32) {
        let mut needed = (0, 3);
        let mut at_least = |version: (u32, u32), used: bool| {
            if used {
                needed = needed.max(version);
            }
        };
        let all = || self.devices.iter().map(|d| &d.container_edits).chain([&self.container_edits]);
        at_least((0, 4), all().any(|e| e.mounts.iter().any(|m| !m.kind.is_empty())));
        at_least((0, 5), self.devices.iter().any(|d| d.name.starts_with(|c: char| c.is_ascii_digit())));
        at_least((0, 5), all().any(|e| e.device_nodes.iter().any(|n| !n.host_path.is_empty())));
        let annotated = self.devices.iter().any(|d| !d.annotations.is_empty());
        at_least((0, 6), annotated || !self.annotations.is_empty() || self.qualifier().1.contains('.'));
        at_least((0, 7), all().any(|e| e.intel_rdt.is_some() || !e.additional_gids.is_empty()));
        at_least((1, 1), all().any(|e| !e.net_devices.is_empty()));
        needed
    }
}

fn version(text: &str) -> Result<(u32, u32), String> {
    let bad = || format!("invalid version {text:?}");
    let mut numbers = text.strip_prefix('v').unwrap_or(text).split('.').map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(0u32)), None)
            if VERSIONS.contains(&(major, minor)) && major != u32::MAX =>
        {
            Ok((major, minor))
        }
        _ => Err(bad()),
    }
}

/// A vendor or a class.
fn check_part(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("empty name".to_owned());
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(format!("{name:?}, should start with letter"));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if let Some(c) = name.chars().find(|c| !fits(*c)) {
        return Err(format!("invalid character '{c}' in name {name:?}"));
    }
    if !name.ends_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("{name:?}, should end with a letter or digit"));
    }
    Ok(())
}

/// A device's own name.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("invalid (empty) device name".to_owned());
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    if let Some(c) = name.chars().find(|c| !fits(*c)) {
        return Err(format!("invalid character '{c}' in device name {name:?}"));
    }
    let ends = [name.chars().next(), name.chars().last()];
    if ends.iter().flatten().any(|c| !c.is_ascii_alphanumeric()) {
        return Err(format!("invalid name {name:?}, should start and end with a letter or digit"));
    }
    Ok(())
}

fn check_env(env: &[String]) -> Result<(), String> {
    match env.iter().find(|one| one.find('=').unwrap_or(0) == 0 || one.contains('\0')) {
        Some(bad) => Err(format!("invalid environment variable {bad:?}")),
        None => Ok(()),
    }
}

fn absolute(what: &str, path: &str) -> Result<(), String> {
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(()),
        false => Err(format!("{what} {path:?} is not an absolute path")),
    }
}

impl Edits {
    fn check(&self) -> Result<(), String> {
        let lengths = [
            self.env.len(),
            self.device_nodes.len(),
            self.hooks.len(),
            self.mounts.len(),
            self.additional_gids.len(),
        ];
        if lengths.iter().any(|length| *length > MAX_ENTRIES) {
            return Err(format!("more than {MAX_ENTRIES} edits of one kind"));
        }
        check_env(&self.env).map_err(|why| format!("invalid container edits: {why}"))?;
        for node in &self.device_nodes {
            let path = &node.path;
            if path.is_empty() {
                return Err("invalid (empty) device path".to_owned());
            }
            absolute("device", path)?;
            if !["", "b", "c", "u", "p"].contains(&node.kind.as_str()) {
                return Err(format!("device {path:?}: invalid type {:?}", node.kind));
            }
            if node.permissions.contains(|c: char| !"rwm".contains(c)) {
                return Err(format!("device {path:?}: invalid permissions {:?}", node.permissions));
            }
        }
        for hook in &self.hooks {
            let name = &hook.hook_name;
            let known =
                ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
            if !known.contains(&name.as_str()) {
                return Err(format!("invalid hook name {name:?}"));
            }
            if hook.path.is_empty() {
                return Err(format!("invalid hook {name:?} with empty path"));
            }
            absolute("hook", &hook.path)?;
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                return Err(format!("invalid hook {name:?}: a timeout is above 0"));
            }
            check_env(&hook.env).map_err(|why| format!("invalid hook {name:?}: {why}"))?;
        }
        for mount in &self.mounts {
            if mount.host_path.is_empty() {
                return Err("invalid mount, empty host path".to_owned());
            }
            if mount.container_path.is_empty() {
                return Err("invalid mount, empty container path".to_owned());
            }
            absolute("mount", &mount.container_path)?;
        }
        Ok(())
    }
}
