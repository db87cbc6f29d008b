// SPDX-License-Identifier: Apache-2.0
//! `LogConfig`: where output is recorded, checked.
//!
//! Differences from the reference, on purpose: json-file logs rotate (five files of 20 MB) when nothing else is
//! asked, so that a chatty container does not fill the disk; and values that the reference refuses when the
//! container starts are refused when it is made.

mod size;
mod syslog;
mod tag;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_api::types::container_create::{ContainerConfig, LogConfig};
use berth_domain::{Error, Result};
use berth_shim_proto::{Log, LogFile, LogFormat, LogSink, SinkAddress, SinkKind};
use regex_lite::Regex;

use self::syslog::Syslog;
use self::tag::Tag;
use crate::Snapshot;
use crate::snapshot::Paths;

/// The drivers there are.
pub const LOG_DRIVERS: [&str; 5] = ["journald", "json-file", "local", "none", "syslog"];

/// Rotation where nothing else is asked.
const MAX_SIZE: u64 = 20 << 20;
const MAX_FILES: u32 = 5;
/// More files than anybody wants.
const MOST_FILES: u32 = 10_000;
/// Bytes of messages that wait for a log server.
const BUFFER: u64 = 1_000_000;

/// Options that every driver has; the reference's logger deals with them before the driver sees any.
const COMMON: [&str; 6] =
    ["mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];
/// Options that choose attributes.
const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];
const FILES: [&str; 3] = ["max-size", "max-file", "compress"];

/// Where output is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogChoice {
    /// The file that can be read back: the driver's own, or the copy kept of what goes elsewhere.
    file: Option<FileChoice>,
    remote: Option<Remote>,
    /// What each line carries.
    attrs: BTreeMap<String, String>,
    tag: Option<Tag>,
    buffer: u64,
    lossy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileChoice {
    format: LogFormat,
    max_size: Option<u64>,
    max_files: u32,
    compress: bool,
    /// Not the driver's own.
    copy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Remote {
    Journald,
    Syslog(Syslog),
}

/// A log that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Readable {
    pub(crate) path: PathBuf,
    pub(crate) format: LogFormat,
}

/// Checks a driver and its options without a container, for the daemon's own defaults.
///
/// # Errors
///
/// An unknown driver, option or value.
pub fn check_log_options(driver: &str, options: &BTreeMap<String, String>) -> Result<()> {
    let log = LogConfig { r#type: driver.to_owned(), config: options.clone() };
    LogChoice::derive(&log, &ContainerConfig::default()).map(|_| ())
}

impl LogChoice {
    /// Nothing is recorded.
    pub(crate) fn nowhere() -> Self {
        Self { file: None, remote: None, attrs: BTreeMap::new(), tag: None, buffer: BUFFER, lossy: false }
    }

    /// The default driver without options.
    pub(crate) fn json_file() -> Self {
        Self { file: Some(FileChoice::default_for(LogFormat::Json)), ..Self::nowhere() }
    }

    /// Whether who is to be told of the lines is there now.
    ///
    /// # Errors
    ///
    /// A socket is not there.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.remote {
            Some(Remote::Syslog(syslog)) => syslog.address.check(),
            Some(Remote::Journald) | None => Ok(()),
        }
    }

    /// Checks a log config.
    ///
    /// # Errors
    ///
    /// An unknown driver, option or value.
    pub(crate) fn derive(log: &LogConfig, config: &ContainerConfig) -> Result<Self> {
        let options = &log.config;
        let driver = if log.r#type.is_empty() { "json-file" } else { &log.r#type };
        match driver {
            // It takes any options and heeds none.
            "none" => return Ok(Self::nowhere()),
            known if LOG_DRIVERS.contains(&known) => {}
            "gelf" | "fluentd" | "awslogs" | "splunk" | "gcplogs" | "etwlogs" => {
                return Err(Error::not_implemented(format!(
                    "HostConfig.LogConfig.Type {driver:?} is not implemented; {} are",
                    LOG_DRIVERS.join(", ")
                )));
            }
            other => {
                return Err(Error::invalid(format!(
                    "error looking up logging plugin {other}: plugin {other:?} not found"
                )));
            }
        }
        let (buffer, lossy) = buffering(options)?;
        let copy = FileChoice::copy(options)?;
        known_only(driver, options)?;
        let (file, remote) = match driver {
            "json-file" => (Some(FileChoice::derive(LogFormat::Json, options)?), None),
            "local" => (Some(FileChoice::derive(LogFormat::Local, options)?), None),
            "journald" => (copy, Some(Remote::Journald)),
            _ => (copy, Some(Remote::Syslog(Syslog::derive(options)?))),
        };
        let tag = options.get("tag").filter(|tag| !tag.is_empty()).map(|tag| Tag::parse(tag)).transpose()?;
        Ok(Self { file, remote, attrs: attributes(options, config)?, tag, buffer, lossy })
    }

    /// What can be read back of it.
    pub(crate) fn readable(&self, now: &Snapshot) -> Option<Readable> {
        let file = self.file.as_ref()?;
        Some(Readable { path: file.path(now), format: file.format })
    }

    /// The file that `inspect` shows.
    pub(crate) fn shown_path(&self, paths: &Paths, id: &berth_domain::ContainerId) -> Option<PathBuf> {
        let file = self.file.as_ref()?;
        (file.format == LogFormat::Json).then(|| paths.json_log(id))
    }

    /// As the shim is told.
    ///
    /// # Errors
    ///
    /// A log server's name cannot be resolved.
    pub(crate) async fn for_shim(&self, now: &Snapshot, journal: &Path) -> Result<Log> {
        let mut attrs = self.attrs.clone();
        if let (None, Some(tag)) = (&self.remote, &self.tag) {
            attrs.insert("tag".to_owned(), tag.render(now));
        }
        let file = self.file.as_ref().map(|file| LogFile {
            path: file.path(now).display().to_string(),
            format: file.format,
            max_size: file.max_size,
            max_files: file.max_files,
            compress: file.compress,
            attrs: if attrs.is_empty() { None } else { serde_json::to_string(&attrs).ok() },
        });
        let sink = match &self.remote {
            None => None,
            Some(remote) => {
                let tag = self.tag.clone().unwrap_or_else(Tag::short_id).render(now);
                let (kind, address) = match remote {
                    Remote::Journald => {
                        let fields = journal_fields(now, &tag, &self.attrs);
                        (
                            SinkKind::Journald { fields },
                            SinkAddress::UnixDatagram(journal.display().to_string()),
                        )
                    }
                    Remote::Syslog(syslog) => {
                        let now = jiff::Timestamp::now();
                        let kind = SinkKind::Syslog {
                            format: syslog.format,
                            facility: syslog.facility,
                            tag,
                            hostname: hostname(),
                            utc_offset: jiff::tz::TimeZone::system().to_offset(now).seconds(),
                        };
                        (kind, syslog.address.resolve().await?)
                    }
                };
                Some(LogSink { kind, address, buffer: self.buffer, lossy: self.lossy })
            }
        };
        Ok(Log { file, sink })
    }
}

impl FileChoice {
    fn default_for(format: LogFormat) -> Self {
        let compress = format == LogFormat::Local;
        Self { format, max_size: Some(MAX_SIZE), max_files: MAX_FILES, compress, copy: false }
    }

    fn derive(format: LogFormat, options: &BTreeMap<String, String>) -> Result<Self> {
        let mut choice = Self::default_for(format);
        if let Some(text) = options.get("max-size") {
            choice.max_size = max_size("max-size", text)?;
            // One file of a given size starts over when it is full: so it is with the reference.
            if format == LogFormat::Json {
                choice.max_files = 1;
            }
        }
        if let Some(text) = options.get("max-file") {
            choice.max_files = max_files("max-file", text)?;
        }
        if let Some(text) = options.get("compress") {
            choice.compress = truth("compress", text)?;
            let alone = choice.max_files < 2 || choice.max_size.is_none();
            if choice.compress && alone && format == LogFormat::Json {
                return Err(Error::invalid(
                    "compress cannot be true when max-file is less than 2 or max-size is not set",
                ));
            }
        }
        Ok(choice)
    }

    /// The copy of what goes to a log server.
    fn copy(options: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let mut choice = Self { copy: true, ..Self::default_for(LogFormat::Local) };
        if let Some(text) = options.get("cache-max-size") {
            choice.max_size = max_size("cache-max-size", text)?;
        }
        if let Some(text) = options.get("cache-max-file") {
            choice.max_files = max_files("cache-max-file", text)?;
        }
        if let Some(text) = options.get("cache-compress") {
            choice.compress = truth("cache-compress", text)?;
        }
        let disabled = options.get("cache-disabled").map(|text| truth("cache-disabled", text)).transpose()?;
        Ok((disabled != Some(true)).then_some(choice))
    }

    fn path(&self, now: &Snapshot) -> PathBuf {
        match (self.format, self.copy) {
            (LogFormat::Json, _) => now.paths.json_log(&now.id),
            (LogFormat::Local, false) => now.paths.dir.join("local.log"),
            (LogFormat::Local, true) => now.paths.dir.join("cached.log"),
        }
    }
}

fn max_size(name: &str, text: &str) -> Result<Option<u64>> {
    if text == "-1" {
        return Ok(None);
    }
    let size = size::parse(text).filter(|size| *size > 0);
    size.map(Some).ok_or_else(|| Error::invalid(format!("invalid value for {name}: {text}")))
}

fn max_files(name: &str, text: &str) -> Result<u32> {
    text.parse().ok().filter(|n| (1..=MOST_FILES).contains(n)).ok_or_else(|| {
        Error::invalid(format!("invalid value for {name}: {text}: a number from 1 to {MOST_FILES} expected"))
    })
}

fn truth(name: &str, text: &str) -> Result<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::invalid(format!("invalid value for {name}: {text}: true or false expected"))),
    }
}

/// `mode` and `max-buffer-size`. Files are written as output is read and never make a container wait for more
/// than the disk, in either mode.
fn buffering(options: &BTreeMap<String, String>) -> Result<(u64, bool)> {
    let lossy = match options.get("mode").map_or("", String::as_str) {
        "" | "blocking" => false,
        "non-blocking" => true,
        other => return Err(Error::invalid(format!("logger: logging mode not supported: {other}"))),
    };
    let Some(text) = options.get("max-buffer-size") else { return Ok((BUFFER, lossy)) };
    if !lossy {
        return Err(Error::invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ));
    }
    let size = size::parse(text).filter(|size| (1..=1 << 30).contains(size));
    let size = size.ok_or_else(|| {
        Error::invalid(format!("error parsing option max-buffer-size: invalid size: '{text}'"))
    })?;
    Ok((size, lossy))
}

fn known_only(driver: &str, options: &BTreeMap<String, String>) -> Result<()> {
    for option in options.keys().map(String::as_str) {
        let known = COMMON.contains(&option)
            || match driver {
                "json-file" => FILES.contains(&option) || ATTRIBUTES.contains(&option),
                "local" => FILES.contains(&option),
                "journald" => ATTRIBUTES.contains(&option),
                _ => {
                    ATTRIBUTES.contains(&option)
                        || matches!(option, "syslog-address" | "syslog-facility" | "syslog-format")
                        || option
                            .strip_prefix("syslog-tls-")
                            .is_some_and(|rest| matches!(rest, "ca-cert" | "cert" | "key" | "skip-verify"))
                }
            };
        if !known {
            return Err(Error::invalid(match driver {
                "local" => format!("unknown log opt '{option}' for log driver local"),
                _ => format!("unknown log opt '{option}' for {driver} log driver"),
            }));
        }
    }
    Ok(())
}

/// The labels and environment that were asked for.
fn attributes(
    options: &BTreeMap<String, String>,
    config: &ContainerConfig,
) -> Result<BTreeMap<String, String>> {
    let mut attrs = BTreeMap::new();
    let labels: BTreeMap<&str, &str> =
        config.labels.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let env: BTreeMap<&str, &str> =
        config.env.iter().flatten().filter_map(|variable| variable.split_once('=')).collect();
    for (listed, matched, known) in [("labels", "labels-regex", &labels), ("env", "env-regex", &env)] {
        for key in options.get(listed).iter().flat_map(|list| list.split(',')).map(str::trim) {
            if let Some(value) = known.get(key) {
                attrs.insert(key.to_owned(), (*value).to_owned());
            }
        }
        if let Some(pattern) = options.get(matched).filter(|pattern| !pattern.is_empty()) {
            let pattern = Regex::new(pattern)
                .map_err(|error| Error::invalid(format!("invalid {matched} {pattern:?}")).because(error))?;
            for (key, value) in known.iter().filter(|(key, _)| pattern.is_match(key)) {
                attrs.insert((*key).to_owned(), (*value).to_owned());
            }
        }
    }
    Ok(attrs)
}

fn journal_fields(now: &Snapshot, tag: &str, attrs: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let short: String = now.id.as_str().chars().take(12).collect();
    let own = [
        ("CONTAINER_ID", short),
        ("CONTAINER_ID_FULL", now.id.to_string()),
        ("CONTAINER_NAME", now.name.clone()),
        ("CONTAINER_TAG", tag.to_owned()),
        ("IMAGE_NAME", now.image_name.clone()),
        ("SYSLOG_IDENTIFIER", tag.to_owned()),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    let further = attrs.iter().map(|(key, value)| (journal_name(key), value.clone()));
    own.chain(further.filter(|(name, _)| !name.is_empty())).collect()
}

/// A field name that journald accepts: capitals, digits, underscores, and none of the latter in front.
fn journal_name(key: &str) -> String {
    let letters = key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    letters.collect::<String>().trim_start_matches(|c: char| c == '_' || c.is_ascii_digit()).to_owned()
}

/// The host's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
