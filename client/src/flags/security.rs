// SPDX-License-Identifier: Apache-2.0
//! `--security-opt`: profiles are read here, because they are files of the client's.

use crate::fail::{Fail, Result};

/// Options for the API, and whether system paths are to be unmasked.
pub(crate) fn options(flags: &[String]) -> Result<(Vec<String>, bool)> {
    let mut options = Vec::with_capacity(flags.len());
    let mut unmask = false;
    for flag in flags {
        if flag == "systempaths=unconfined" {
            unmask = true;
            continue;
        }
        let (key, value) = match flag.split_once('=').or_else(|| flag.split_once(':')) {
            Some(parts) => parts,
            None if flag == "no-new-privileges" => (flag.as_str(), ""),
            None => return Err(Fail::new(format!("invalid --security-opt: {flag:?}"))),
        };
        if key == "seccomp" && !matches!(value, "unconfined" | "builtin") {
            let text = std::fs::read(value)
                .map_err(|e| Fail::io(format!("opening seccomp profile ({value}) failed"), &e))?;
            let profile: serde_json::Value = serde_json::from_slice(&text).map_err(|e| {
                Fail::new(format!("compacting json for seccomp profile ({value}) failed: {e}"))
            })?;
            options.push(format!("seccomp={profile}"));
        } else {
            options.push(flag.clone());
        }
    }
    Ok((options, unmask))
}

/// Capabilities to add and to drop in the API's form: `CAP_` in front, each once, and what is added is
/// not dropped as well.
pub(crate) fn capabilities(add: &[String], drop: &[String]) -> (Vec<String>, Vec<String>) {
    let normal = |list: &[String]| {
        let mut all: Vec<String> = list
            .iter()
            .map(|name| name.trim().to_ascii_uppercase())
            .map(|name| if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") })
            .collect();
        all.sort();
        all.dedup();
        if all.iter().any(|name| name == "ALL") { vec!["ALL".to_owned()] } else { all }
    };
    let (add, mut drop) = (normal(add), normal(drop));
    drop.retain(|name| name == "ALL" || !add.contains(name));
    (add, drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn capabilities_have_one_form() {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let check = |add: &[&str], drop: &[&str], expected: [&[&str]; 2]| {
            let got = capabilities(&own(add), &own(drop));
            assert_eq!(got, (own(expected[0]), own(expected[1])), "{add:?} {drop:?}");
        };
        check(&["net_admin", "CAP_NET_ADMIN"], &["all"], [&["CAP_NET_ADMIN"], &["ALL"]]);
        check(&["ALL", "chown"], &["mknod"], [&["ALL"], &["CAP_MKNOD"]]);
        check(&["chown"], &["chown", "kill"], [&["CAP_CHOWN"], &["CAP_KILL"]]);
    }

    #[test]
    fn profiles_are_read_and_system_paths_taken_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n").unwrap();
        let flags = [
            "no-new-privileges".to_owned(),
            "seccomp=unconfined".to_owned(),
            format!("seccomp={}", file.path().display()),
            "systempaths=unconfined".to_owned(),
            "label:disable".to_owned(),
        ];
        let (options, unmask) = options(&flags).unwrap();
        assert!(unmask);
        assert_eq!(
            options,
            [
                "no-new-privileges",
                "seccomp=unconfined",
                "seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}",
                "label:disable"
            ]
        );
        for bad in ["bogus", "seccomp=/no/such/file"] {
            assert!(super::options(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
