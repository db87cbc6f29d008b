// SPDX-License-Identifier: Apache-2.0
//! Driver options of a local volume: those of `mount(8)`. A bind of a host directory is supported.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_domain::{Error, Result};

const KNOWN: [&str; 4] = ["type", "o", "device", "size"];

/// The host directory that stands in for `_data`, if the options ask for one.
///
/// # Errors
///
/// Options that do not exist, do not fit together, or are not supported.
pub(crate) fn bound_directory(options: Option<&BTreeMap<String, String>>) -> Result<Option<PathBuf>> {
    let Some(options) = options.filter(|o| !o.is_empty()) else { return Ok(None) };
    if let Some(unknown) = options.keys().find(|k| !KNOWN.contains(&k.as_str())) {
        return Err(Error::invalid(format!("invalid option: {unknown:?}")));
    }
    let get = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    for (key, required) in [("device", "type"), ("type", "device"), ("o", "device"), ("o", "type")] {
        if options.contains_key(key) && !options.contains_key(required) {
            return Err(Error::invalid(format!("missing required option: {required:?}")));
        }
    }
    if options.contains_key("size") {
        return Err(Error::not_implemented("volume option \"size\": quotas are not supported"));
    }
    let words: Vec<&str> = get("o").split(',').filter(|w| !w.is_empty()).collect();
    let binds = words.iter().any(|w| matches!(*w, "bind" | "rbind"));
    let others = words.iter().find(|w| !matches!(**w, "bind" | "rbind" | "rw"));
    match (get("type"), binds, others) {
        ("none" | "", true, None) => {}
        ("none" | "", true, Some(other)) => {
            return Err(Error::not_implemented(format!("volume option \"o\": {other:?} is not supported")));
        }
        (kind, ..) => {
            return Err(Error::not_implemented(format!(
                "volumes of type {kind:?} are not supported, only type \"none\" with o \"bind\""
            )));
        }
    }
    let device = get("device");
    if !device.starts_with('/') || device.contains('\0') {
        return Err(Error::invalid(format!("volume option \"device\": {device:?} is not an absolute path")));
    }
    Ok(Some(PathBuf::from(device)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use berth_domain::Meaning;

    fn check(given: &[(&str, &str)]) -> Result<Option<PathBuf>> {
        let options = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        bound_directory(Some(&options))
    }

    #[test]
    fn a_bind_is_understood_and_the_rest_refused_by_name() {
        assert_eq!(bound_directory(None).unwrap(), None);
        assert_eq!(check(&[]).unwrap(), None);
        let bind = check(&[("type", "none"), ("o", "bind,rw"), ("device", "/srv")]).unwrap();
        assert_eq!(bind, Some(PathBuf::from("/srv")));
        let meaning = |given: &[(&str, &str)]| check(given).unwrap_err().meaning();
        assert_eq!(
            meaning(&[("type", "nfs"), ("o", "addr=1.2.3.4"), ("device", ":/x")]),
            Meaning::NotImplemented
        );
        assert_eq!(meaning(&[("type", "tmpfs"), ("device", "tmpfs")]), Meaning::NotImplemented);
        assert_eq!(
            meaning(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv")]),
            Meaning::NotImplemented
        );
        assert_eq!(meaning(&[("type", "none"), ("o", "bind"), ("device", "srv")]), Meaning::InvalidInput);
        assert_eq!(check(&[("foo", "x")]).unwrap_err().to_string(), "invalid option: \"foo\"");
        assert_eq!(
            check(&[("type", "none")]).unwrap_err().to_string(),
            "missing required option: \"device\""
        );
    }
}
