// SPDX-License-Identifier: Apache-2.0
//! `LogConfig`: where output is recorded, checked.

use std::collections::BTreeMap;
use std::path::Path;

use berth_api::types::container_create::{ContainerConfig, LogConfig};
use berth_domain::{Error, Result};
use berth_shim_proto::Log;

/// Where output is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogChoice {
    /// Nowhere.
    None,
    /// Docker's json-file.
    JsonFile {
        max_size: Option<u64>,
        max_files: u32,
        /// What each line carries in `attrs`.
        attrs: BTreeMap<String, String>,
    },
}

impl LogChoice {
    /// Checks a log config.
    ///
    /// # Errors
    ///
    /// An unknown driver, option or value.
    pub(crate) fn derive(log: &LogConfig, config: &ContainerConfig) -> Result<Self> {
        match &*log.r#type {
            "none" => Ok(Self::None),
            "" | "json-file" => json_file(&log.config, config),
            "local" | "syslog" | "journald" | "gelf" | "fluentd" | "awslogs" | "splunk" | "gcplogs" => {
                Err(Error::not_implemented(format!(
                    "HostConfig.LogConfig.Type {:?} is not implemented; json-file and none are",
                    log.r#type
                )))
            }
            other => Err(Error::invalid(format!(
                "error looking up logging plugin {other}: plugin {other:?} not found"
            ))),
        }
    }

    /// As the shim is told.
    pub(crate) fn for_shim(&self, path: &Path) -> Log {
        match self {
            Self::None => Log::None,
            Self::JsonFile { max_size, max_files, attrs } => Log::JsonFile {
                path: path.display().to_string(),
                max_size: *max_size,
                max_files: *max_files,
                attrs: if attrs.is_empty() { None } else { serde_json::to_string(attrs).ok() },
            },
        }
    }
}

fn json_file(options: &BTreeMap<String, String>, config: &ContainerConfig) -> Result<LogChoice> {
    let mut max_size = None;
    let mut max_files = 1;
    let mut attrs = BTreeMap::new();
    let labels = config.labels.clone().unwrap_or_default();
    for (option, value) in options {
        match option.as_str() {
            "max-size" => {
                max_size = match value.as_str() {
                    "-1" => None,
                    text => Some(
                        parse_size(text)
                            .filter(|size| *size > 0)
                            .ok_or_else(|| Error::invalid(format!("invalid value for max-size: {text}")))?,
                    ),
                }
            }
            "max-file" => {
                max_files = value.parse().ok().filter(|n| *n >= 1).ok_or_else(|| {
                    Error::invalid(format!("invalid value for max-file: {value}: it cannot be less than 1"))
                })?;
            }
            "labels" => {
                for key in value.split(',').map(str::trim) {
                    if let Some(value) = labels.get(key) {
                        attrs.insert(key.to_owned(), value.clone());
                    }
                }
            }
            "env" => {
                for key in value.split(',').map(str::trim) {
                    let found =
                        config.env.iter().flatten().find_map(|v| v.strip_prefix(key)?.strip_prefix('='));
                    if let Some(value) = found {
                        attrs.insert(key.to_owned(), value.to_owned());
                    }
                }
            }
            "mode" if value == "blocking" => {}
            // Rotated files are kept as they are: reading them back is what they are for.
            "compress" if value == "false" => {}
            "mode" | "max-buffer-size" | "compress" | "tag" | "labels-regex" | "env-regex" => {
                return Err(Error::not_implemented(format!(
                    "HostConfig.LogConfig.Config {option}={value} is not implemented"
                )));
            }
            other => {
                return Err(Error::invalid(format!("unknown log opt '{other}' for json-file log driver")));
            }
        }
    }
    Ok(LogChoice::JsonFile { max_size, max_files, attrs })
}

/// `10m`, `1.5g`, `500k`, `42`, with or without a trailing `b`; units are powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, shift) = match bare.as_bytes().last()? {
        b'k' => (&bare[..bare.len() - 1], 10),
        b'm' => (&bare[..bare.len() - 1], 20),
        b'g' => (&bare[..bare.len() - 1], 30),
        b't' => (&bare[..bare.len() - 1], 40),
        _ => (bare, 0),
    };
    let number = number.trim();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let (whole, fraction) = number.split_once('.')?;
    let digits = u32::try_from(fraction.len()).ok().filter(|n| (1..=9).contains(n))?;
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = fraction.parse().ok()?;
    let part = fraction.checked_mul(1 << shift)? / 10u64.pow(digits);
    whole.checked_mul(1 << shift)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn choice(kind: &str, options: &[(&str, &str)]) -> Result<LogChoice> {
        let log = LogConfig {
            r#type: kind.into(),
            config: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let config = ContainerConfig {
            labels: Some(BTreeMap::from([("l".to_owned(), "1".to_owned())])),
            env: Some(vec!["E=2".into()]),
            ..ContainerConfig::default()
        };
        LogChoice::derive(&log, &config)
    }

    #[test]
    fn drivers_and_options() {
        assert_eq!(choice("none", &[]).unwrap(), LogChoice::None);
        let full =
            choice("json-file", &[("max-size", "10m"), ("max-file", "3"), ("labels", "l,x"), ("env", "E")])
                .unwrap();
        let attrs = BTreeMap::from([("E".to_owned(), "2".to_owned()), ("l".to_owned(), "1".to_owned())]);
        assert_eq!(full, LogChoice::JsonFile { max_size: Some(10 << 20), max_files: 3, attrs });
        for (kind, options, text) in [
            ("nope", &[][..], "error looking up logging plugin nope: plugin \"nope\" not found"),
            ("json-file", &[("x", "1")][..], "unknown log opt 'x' for json-file log driver"),
        ] {
            assert_eq!(choice(kind, options).expect_err(text).to_string(), text);
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in
            [("42", 42), ("1k", 1024), ("10MB", 10 << 20), ("1.5g", 3 << 29), ("2KiB", 2048), ("0", 0)]
        {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for bad in ["", "k", "-1", "1x", "1.k", "99999999999t", "1.2.3k"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
