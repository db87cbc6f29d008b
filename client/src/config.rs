// SPDX-License-Identifier: Apache-2.0
//! Credentials out of the docker CLI's `config.json`: `auths`, and credential helpers.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use crate::fail::{Fail, Result};

/// The name under which docker.io's credentials are kept.
const HUB: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credsStore")]
    store: String,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What the daemon is told (`X-Registry-Auth`).
#[derive(Default, Serialize, PartialEq, Eq)]
struct AuthConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    password: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    serveraddress: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    identitytoken: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    registrytoken: String,
}

/// The header for a pull from this registry (`docker.io`, `localhost:5000`).
pub(crate) fn registry_auth(registry: &str, config_dir: Option<&str>) -> Result<String> {
    let config = load(config_dir)?;
    let auth = config.find(registry)?;
    let json = serde_json::to_vec(&auth).map_err(|e| Fail::new(format!("encoding credentials: {e}")))?;
    Ok(URL_SAFE.encode(json))
}

fn load(config_dir: Option<&str>) -> Result<Config> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = config_dir
        .map(PathBuf::from)
        .or_else(|| var("DOCKER_CONFIG"))
        .or_else(|| var("HOME").map(|home| home.join(".docker")));
    let Some(path) = dir.map(|dir| dir.join("config.json")) else { return Ok(Config::default()) };
    match std::fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|e| Fail::new(format!("reading {}: {e}", path.display())))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(e) => Err(Fail::io(format!("reading {}", path.display()), &e)),
    }
}

/// Host and port of a key of `auths`.
fn host(key: &str) -> &str {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    bare.split('/').next().unwrap_or_default()
}

impl Config {
    fn find(&self, registry: &str) -> Result<AuthConfig> {
        let key = if registry == "docker.io" { HUB } else { registry };
        if let Some(helper) =
            self.helpers.get(key).or_else(|| (!self.store.is_empty()).then_some(&self.store))
        {
            return from_helper(helper, key);
        }
        let entry = self.auths.get(key).or_else(|| {
            self.auths
                .iter()
                .find(|(k, _)| {
                    host(k) == host(key) && (registry == "docker.io") == k.contains("index.docker.io")
                })
                .map(|(_, e)| e)
        });
        let Some(entry) = entry else { return Ok(AuthConfig::default()) };
        let mut auth = AuthConfig {
            username: entry.username.clone(),
            password: entry.password.clone(),
            serveraddress: key.to_owned(),
            identitytoken: entry.identitytoken.clone(),
            registrytoken: entry.registrytoken.clone(),
        };
        if !entry.auth.is_empty() {
            let decoded = STANDARD.decode(&entry.auth).ok().and_then(|b| String::from_utf8(b).ok());
            let (user, password) =
                decoded.as_deref().and_then(|pair| pair.split_once(':')).ok_or_else(|| {
                    Fail::new(format!("the credentials for {key} in config.json cannot be read"))
                })?;
            auth.username = user.to_owned();
            auth.password = password.trim_end_matches('\0').to_owned();
        }
        Ok(auth)
    }
}

/// Asks `docker-credential-<helper> get`.
fn from_helper(helper: &str, key: &str) -> Result<AuthConfig> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Secret {
        username: String,
        secret: String,
    }
    let program = format!("docker-credential-{helper}");
    let fail = |e: std::io::Error| Fail::io(format!("asking {program} for credentials"), &e);
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(key.as_bytes()).map_err(fail)?;
    }
    let output = child.wait_with_output().map_err(fail)?;
    if !output.status.success() {
        // "credentials not found" is how helpers say that there are none.
        return Ok(AuthConfig::default());
    }
    let found: Secret = serde_json::from_slice(&output.stdout)
        .map_err(|e| Fail::new(format!("{program} answered with something else than credentials: {e}")))?;
    let mut auth = AuthConfig { serveraddress: key.to_owned(), ..AuthConfig::default() };
    if found.username == "<token>" {
        auth.identitytoken = found.secret;
    } else {
        auth.username = found.username;
        auth.password = found.secret;
    }
    Ok(auth)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config() -> Config {
        serde_json::from_str(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"aHViOnBhOnNz"},
                "localhost:5000":{"username":"u","password":"p"},
                "https://reg.example/v1/":{"identitytoken":"t"},
                "broken":{"auth":"!"}}}"#,
        )
        .unwrap()
    }

    #[test]
    fn credentials_are_found_by_registry() {
        let hub = config().find("docker.io").unwrap();
        assert_eq!((hub.username.as_str(), hub.password.as_str()), ("hub", "pa:ss"));
        assert_eq!(config().find("localhost:5000").unwrap().username, "u");
        assert_eq!(config().find("reg.example").unwrap().identitytoken, "t");
        assert!(config().find("other.example").unwrap() == AuthConfig::default());
        assert!(config().find("broken").is_err());
    }

    #[test]
    fn without_a_file_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let header = registry_auth("docker.io", dir.path().to_str()).unwrap();
        assert_eq!(header, "e30=");
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        assert!(registry_auth("docker.io", dir.path().to_str()).is_err());
    }
}
