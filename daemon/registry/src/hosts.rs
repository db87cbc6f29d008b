// SPDX-License-Identifier: Apache-2.0
//! `hosts.toml`: which servers stand for a registry, in containerd's format (containerd docs/hosts.md).
//!
//! ```text
//! <certs.d>/<host[:port]>/hosts.toml, or <host>_<port>_, or _default for all that have none
//!   server = "https://registry.example"          the registry itself, asked last; in _default one more mirror
//!   [host."https://mirror.example"]              asked first, in the file's order
//!   capabilities = ["pull", "resolve"]  ca = ...  client = ...  skip_verify = ...  override_path = ...
//!     [host."https://mirror.example".header]
//! ```
//! Two things differ. Pushes and logins go to the registry itself, whatever `capabilities` say, for credentials are shown
//! to nobody else. And `_default`'s `server` does not take every registry's place: it would be shown every registry's
//! passwords.

use std::io;
use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};
use http::{HeaderMap, HeaderName, HeaderValue};
use toml::{Table, Value};

use crate::tls::{HostCerts, Trust};
use crate::url::Url;

/// A longer file is refused.
const FILE_MAX: u64 = 1 << 20;
/// More hosts than this are refused.
const HOSTS_MAX: usize = 64;

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hosts {
    /// It is `_default`'s, which speaks for every registry: its `server` is none of them.
    pub(crate) default: bool,
    pub(crate) server: Option<Listed>,
    pub(crate) hosts: Vec<Listed>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) url: Url,
    pub(crate) pull: bool,
    pub(crate) resolve: bool,
    /// Its path stands for `/v2`.
    pub(crate) override_path: bool,
    pub(crate) trust: Trust,
}

/// The file for this registry, from the first directory that has one.
///
/// # Errors
///
/// Internal, with file and field, when there is one that cannot be used: an administrator's rule about where images come
/// from is not passed over.
pub(crate) fn find(dirs: &[PathBuf], registry: &str) -> Result<Option<Hosts>> {
    // A registry's name becomes that of a directory.
    if registry.contains('/') || registry.starts_with('.') {
        return Ok(None);
    }
    let escaped = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let own = [Some(registry.to_owned()), escaped];
    let own = dirs.iter().flat_map(|dir| own.iter().flatten().map(move |name| dir.join(name)));
    let default = dirs.iter().map(|dir| dir.join("_default"));
    for (directory, default) in own.map(|dir| (dir, false)).chain(default.map(|dir| (dir, true))) {
        let path = directory.join("hosts.toml");
        let bad = |e: Error| Error::internal(format!("{} cannot be used", path.display())).because(e);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > FILE_MAX => {
                return Err(bad(Error::invalid(format!("it has more than {FILE_MAX} bytes"))));
            }
            Ok(_) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(Error::io("reading", &path, e)),
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("reading", &path, e))?;
        let hosts = parse(&text, &directory).map_err(bad)?;
        return Ok(Some(Hosts { default, ..hosts }));
    }
    Ok(None)
}

fn parse(text: &str, directory: &Path) -> Result<Hosts> {
    let mut table: Table = text.parse().map_err(|e| {
        Error::invalid("it is no TOML")
            .because(Box::<dyn std::error::Error + Send + Sync>::from(format!("{e}")))
    })?;
    let listed = match table.remove("host") {
        None => Table::new(),
        Some(Value::Table(hosts)) => hosts,
        Some(_) => return Err(Error::invalid("host: tables [host.\"https://...\"] expected")),
    };
    if listed.len() > HOSTS_MAX {
        return Err(Error::invalid(format!("host: {HOSTS_MAX} at most")));
    }
    let mut hosts = Vec::new();
    for (name, fields) in &listed {
        let Value::Table(fields) = fields else {
            return Err(Error::invalid(format!("host.{name:?}: a table expected")));
        };
        hosts.push(server(name, fields, directory).map_err(|e| e.context(format!("host.{name:?}")))?);
    }
    let own = match table.remove("server") {
        None => None,
        Some(Value::String(url)) => Some(server(&url, &table, directory)?),
        Some(_) => return Err(Error::invalid("server: a URL expected")),
    };
    Ok(Hosts { default: false, server: own, hosts })
}

fn server(name: &str, fields: &Table, directory: &Path) -> Result<Listed> {
    let whole = if name.contains("://") { name.to_owned() } else { format!("https://{name}") };
    let url = Url::parse(&whole)
        .filter(|_| !whole.contains(['?', '#']))
        .ok_or_else(|| Error::invalid(format!("{name:?} is not a URL (https://host[:port][/path])")))?;
    let mut listed = Listed { url, pull: true, resolve: true, override_path: false, trust: Trust::default() };
    let (mut authorities, mut identities) = (Vec::new(), Vec::new());
    for (key, value) in fields {
        let bad = |what: &str| Error::invalid(format!("{key}: {what} expected"));
        let flag = || value.as_bool().ok_or_else(|| bad("true or false"));
        match key.as_str() {
            "capabilities" => {
                let words = strings(value).ok_or_else(|| bad("a list of texts"))?;
                if let Some(other) = words.iter().find(|w| !matches!(w.as_str(), "pull" | "resolve" | "push"))
                {
                    return Err(Error::invalid(format!(
                        "capabilities: {other:?} is none of \"pull\", \"resolve\", \"push\""
                    )));
                }
                listed.pull = words.iter().any(|w| w == "pull");
                listed.resolve = words.iter().any(|w| w == "resolve");
            }
            "override_path" => listed.override_path = flag()?,
            "skip_verify" => listed.trust.insecure = flag()?,
            "ca" => {
                let files = strings(value).ok_or_else(|| bad("a file or a list of files"))?;
                authorities.extend(files.iter().map(|file| directory.join(file)));
            }
            "client" => {
                let pairs = pairs(value).ok_or_else(|| bad("a file, or a list of [certificate, key]"))?;
                if pairs.len() > 1 {
                    let what = format!("one certificate with its key, not {}, is", pairs.len());
                    return Err(bad(&what));
                }
                identities
                    .extend(pairs.iter().map(|(cert, key)| (directory.join(cert), directory.join(key))));
            }
            "header" => {
                let Value::Table(table) = value else { return Err(bad("a table")) };
                listed.trust.headers = headers(table)?;
            }
            // There is one for all: what it bounds is bounded.
            "dial_timeout" => {}
            _ => return Err(Error::invalid(format!("{key:?} is no field of a host"))),
        }
    }
    if !authorities.is_empty() || !identities.is_empty() {
        listed.trust.certs = Some(HostCerts::of(authorities, identities));
    }
    Ok(listed)
}

fn headers(table: &Table) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let bad = || Error::invalid(format!("header {name:?} is not one that can be sent"));
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        for text in strings(value).ok_or_else(bad)? {
            let mut value = HeaderValue::from_str(&text).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.append(key.clone(), value);
        }
    }
    Ok(headers)
}

/// A text, or a list of them.
fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(all) => all.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// `"both.pem"`, `["both.pem", ...]` or `[["cert", "key"], ...]`.
fn pairs(value: &Value) -> Option<Vec<(String, String)>> {
    let twice = |s: &str| (s.to_owned(), s.to_owned());
    match value {
        Value::String(one) => Some(vec![twice(one)]),
        Value::Array(all) => all
            .iter()
            .map(|item| match item {
                Value::String(one) => Some(twice(one)),
                Value::Array(_) => match strings(item)?.as_slice() {
                    [cert, key] if key.is_empty() => Some(twice(cert)),
                    [cert, key] => Some((cert.clone(), key.clone())),
                    [cert] => Some(twice(cert)),
                    _ => None,
                },
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn read(text: &str) -> Result<Hosts> {
        parse(text, Path::new("/certs"))
    }

    #[test]
    fn the_files_order_is_kept() {
        let hosts = read(
            r#"
            server = "https://r.example"
            ca = "ca.pem"
            [host."https://z.example/base"]
              capabilities = ["pull"]
              override_path = true
            [host."http://a.example:5000"]
              skip_verify = true
              client = [["c.cert", "c.key"]]
              [host."http://a.example:5000".header]
                x-one = "1"
                x-two = ["2", "3"]
            [host."bare.example"]
        "#,
        )
        .unwrap();
        let urls: Vec<String> = hosts.hosts.iter().map(|h| h.url.to_string()).collect();
        assert_eq!(urls, ["https://z.example/base", "http://a.example:5000/", "https://bare.example/"]);
        let [z, a, _] = &hosts.hosts[..] else { panic!("{urls:?}") };
        assert!(z.pull && !z.resolve && z.override_path && !z.trust.insecure);
        assert!(a.pull && a.resolve && a.trust.insecure);
        assert_eq!(a.trust.headers.get_all("x-two").iter().count(), 2);
        let certs = HostCerts::of(Vec::new(), vec![("/certs/c.cert".into(), "/certs/c.key".into())]);
        assert_eq!(a.trust.certs, Some(certs));
        let server = hosts.server.unwrap();
        assert_eq!(server.trust.certs, Some(HostCerts::of(vec!["/certs/ca.pem".into()], Vec::new())));
        assert_eq!(read("").unwrap(), Hosts::default());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (text, words) in [
            ("server = 1", "server"),
            ("[host]\nx = 1", "host"),
            ("[host.\"ftp://x\"]", "ftp://x"),
            ("[host.\"x\"]\ncapabilities = [\"fly\"]", "fly"),
            ("[host.\"x\"]\nskip_verify = \"yes\"", "skip_verify"),
            ("[host.\"x\"]\nskip-verify = true", "skip-verify"),
            ("[host.\"x\"]\nclient = [[\"a\", \"b\"], \"c\"]", "client: one certificate"),
            ("[host.\"x\".header]\n\"a b\" = \"c\"", "a b"),
            ("nonsense", "TOML"),
        ] {
            let error = read(text).expect_err(text).chain();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn directories_in_order_and_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("one"), dir.path().join("two")];
        let write = |at: &str, server: &str| {
            let at = dir.path().join(at);
            std::fs::create_dir_all(&at).unwrap();
            std::fs::write(at.join("hosts.toml"), format!("server = \"https://{server}\"")).unwrap();
        };
        let found = |registry: &str| {
            let hosts = find(&dirs, registry).unwrap()?;
            let server = hosts.server.unwrap().url.host.to_string();
            assert_eq!(hosts.default, server == "default");
            Some(server)
        };
        assert_eq!(found("r.example:5000"), None);
        write("one/_default", "default");
        write("two/r.example:5000", "two");
        assert_eq!(found("r.example:5000").as_deref(), Some("two"));
        assert_eq!(found("other").as_deref(), Some("default"));
        write("one/r.example_5000_", "one");
        assert_eq!(found("r.example:5000").as_deref(), Some("one"));
        std::fs::write(dir.path().join("one/r.example_5000_/hosts.toml"), "[[").unwrap();
        let error = find(&dirs, "r.example:5000").unwrap_err().chain();
        assert!(error.contains("one/r.example_5000_/hosts.toml"), "{error}");
    }
}
