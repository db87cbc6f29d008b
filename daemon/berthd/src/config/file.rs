// SPDX-License-Identifier: Apache-2.0
//! Reading `daemon.json`.

use std::path::Path;

use berth_domain::{Error, Result};
use serde_json::{Map, Value};

use super::Given;
use super::keys::{Support, support};

/// The largest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// Why there is nothing to go on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is no such file.
    Missing,
    /// It cannot be used.
    Bad(Error),
}

/// Reads a file; an empty one says nothing.
pub(super) fn read(path: &Path, notes: &mut Vec<String>) -> Result<Given, Trouble> {
    let bad = |e: std::io::Error| Trouble::Bad(Error::invalid("it cannot be read").because(e));
    let size = match std::fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Trouble::Missing),
        Err(e) => return Err(bad(e)),
    };
    if size > MAX_FILE {
        return Err(Trouble::Bad(Error::invalid(format!("it is longer than {MAX_FILE} bytes"))));
    }
    parse(&std::fs::read_to_string(path).map_err(bad)?, notes).map_err(Trouble::Bad)
}

/// Reads the text of a file.
pub(super) fn parse(text: &str, notes: &mut Vec<String>) -> Result<Given> {
    // A byte order mark is an editor's, not the administrator's.
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Ok(Given::default());
    }
    let mut map: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| Error::invalid("it is not a JSON object").because(e))?;
    let unknown: Vec<&str> = map.keys().filter(|k| support(k).is_none()).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(Error::invalid(format!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        )));
    }
    let not_yet: Vec<&str> =
        map.keys().filter(|k| support(k) == Some(Support::NotYet)).map(String::as_str).collect();
    if !not_yet.is_empty() {
        return Err(Error::invalid(format!(
            "the following directives are not supported by this version of Berth: {}",
            not_yet.join(", ")
        )));
    }
    for (key, value) in &map {
        match support(key) {
            Some(Support::Only(wanted, why)) if *value != wanted.value() => {
                let wanted = wanted.value();
                return Err(Error::invalid(format!(
                    "invalid {key} {value}: only {wanted} is possible, as {why}"
                )));
            }
            _ => {}
        }
    }
    map.retain(|key, _| match support(key) {
        Some(Support::Only(..)) => false,
        Some(Support::NoEffect(why)) => {
            notes.push(format!("{key} has no effect: {why}"));
            false
        }
        _ => true,
    });
    // Field by field, so that the message names the key.
    for (key, value) in &map {
        let one: Map<String, Value> = [(key.clone(), value.clone())].into_iter().collect();
        serde_json::from_value::<Given>(Value::Object(one))
            .map_err(|e| Error::invalid(format!("{key} is not as it should be")).because(e))?;
    }
    serde_json::from_value(Value::Object(map)).map_err(|e| Error::invalid("it cannot be used").because(e))
}
