// SPDX-License-Identifier: Apache-2.0
//! Driver options of a local volume: `type`, `o` and `device` as `mount(8)` has them, and `size`.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs as _};

use berth_domain::{Error, Result};
use berth_sys::filesystem::{Attributes, Filesystem, Source};

const KNOWN: [&str; 4] = ["type", "o", "device", "size"];

/// What the options of a volume ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Local {
    /// What is mounted on `_data` while the volume is used.
    pub(crate) mount: Option<Filesystem>,
    /// Bytes that its content may take.
    pub(crate) size: Option<u64>,
}

/// Reads the options.
///
/// # Errors
///
/// Options that do not exist or do not fit together.
pub(crate) fn parse(options: Option<&BTreeMap<String, String>>) -> Result<Local> {
    let Some(options) = options.filter(|o| !o.is_empty()) else { return Ok(Local::default()) };
    if let Some(unknown) = options.keys().find(|k| !KNOWN.contains(&k.as_str())) {
        return Err(Error::invalid(format!("invalid option: {unknown:?}")));
    }
    let get = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    for (key, required) in [("device", "type"), ("type", "device"), ("o", "device"), ("o", "type")] {
        if options.contains_key(key) && !options.contains_key(required) {
            return Err(Error::invalid(format!("missing required option: {required:?}")));
        }
    }
    let mount = if options.contains_key("type") {
        Some(filesystem(get("type"), get("device"), get("o"))?)
    } else {
        None
    };
    let size = options.get("size").map(|text| bytes(text)).transpose()?;
    if size.is_some() && mount.is_some() {
        return Err(Error::invalid(
            "volume option \"size\" is for volumes on the engine's own disk: say what the file system of option \"type\" takes in option \"o\"",
        ));
    }
    Ok(Local { mount, size })
}

/// `10m`, as everywhere: powers of 1024.
///
/// # Errors
///
/// It is no size.
pub fn bytes(text: &str) -> Result<u64> {
    let bad = || Error::invalid(format!("invalid size: '{text}'"));
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[number.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(bad()),
    };
    let number = number.trim();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.is_empty() || text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(bad());
    }
    let whole: u128 = whole.parse().map_err(|_| bad())?;
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let total = whole.checked_mul(1 << shift).and_then(|w| w.checked_add((part << shift) / scale));
    total.and_then(|total| u64::try_from(total).ok()).ok_or_else(bad)
}

fn filesystem(kind: &str, device: &str, options: &str) -> Result<Filesystem> {
    let mut attributes = Attributes::default();
    let mut data = Vec::new();
    let (mut bind, mut idmap) = (None, None);
    for word in options.split(',').filter(|w| !w.is_empty()) {
        match word {
            "bind" => bind = Some(false),
            "rbind" => bind = Some(true),
            word if attributes.take(word) => {}
            word if crate::idmap::is_word(word) => {
                idmap = crate::idmap::word(word)?.map;
                if idmap.is_none() {
                    return Err(Error::invalid(format!(
                        "volume option \"o\": {word:?} needs its ranges, as in idmap=uids=0-1000-1;gids=0-1000-1"
                    )));
                }
            }
            word if word.starts_with("X-mount.idmap=") => {
                idmap = Some(crate::idmap::of_mount(&word["X-mount.idmap=".len()..])?);
            }
            word => {
                let (key, value) = word.split_once('=').map_or((word, None), |(k, v)| (k, Some(v)));
                if key.is_empty() || key.len() > 255 || word.contains('\0') {
                    return Err(Error::invalid(format!("volume option \"o\": {word:?} is no option")));
                }
                data.push((key.to_owned(), value.map(str::to_owned)));
            }
        }
    }
    if device.contains('\0') {
        return Err(Error::invalid("volume option \"device\": it has a NUL byte in it"));
    }
    let source = match bind {
        Some(recursive) => {
            if !device.starts_with('/') {
                return Err(Error::invalid(format!(
                    "volume option \"device\": {device:?} is not an absolute path"
                )));
            }
            if let Some((key, _)) = data.first() {
                return Err(Error::invalid(format!(
                    "volume option \"o\": {key:?} is no option of a bind mount"
                )));
            }
            Source::Directory { path: device.into(), recursive }
        }
        None => {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
            if kind.is_empty() || kind == "none" || !kind.bytes().all(plain) {
                return Err(Error::invalid(format!(
                    "volume option \"type\": {kind:?} is no type of file system; to bind a directory, say \"bind\" in option \"o\""
                )));
            }
            Source::New { kind: kind.to_owned(), device: device.to_owned(), data }
        }
    };
    Ok(Filesystem { source, attributes, idmap })
}

/// Gives a network file system the address that its kernel part needs: names are not for the kernel to look up.
/// Asked at each mount, as addresses change.
///
/// # Errors
///
/// A name that has no address.
pub(crate) fn resolved(mut filesystem: Filesystem) -> Result<Filesystem> {
    let Source::New { kind, device, data } = &mut filesystem.source else { return Ok(filesystem) };
    let nfs = matches!(&**kind, "nfs" | "nfs4");
    // mount(2) takes the version from the type's name; the newer calls take it for 3, whatever the type.
    let versions = ["vers", "nfsvers", "v4", "v4.0", "v4.1", "v4.2"];
    if kind == "nfs4" && !data.iter().any(|(key, _)| versions.contains(&&**key)) {
        data.push(("vers".to_owned(), Some("4".to_owned())));
    }
    if !nfs && !matches!(&**kind, "cifs" | "smb3") {
        return Ok(filesystem);
    }
    let at = data.iter().position(|(key, value)| matches!(&**key, "addr" | "ip") && value.is_some());
    let host = match at.and_then(|at| data[at].1.clone()) {
        Some(host) => host,
        // `//host/share` and `host:/path`.
        None if nfs => device.split(":/").next().unwrap_or_default().to_owned(),
        None => {
            device.trim_start_matches(['/', '\\']).split(['/', '\\']).next().unwrap_or_default().to_owned()
        }
    };
    let host = host.trim_matches(['[', ']']);
    if host.is_empty() {
        return Err(Error::invalid(format!(
            "a volume of type {kind:?} needs its server: in option \"o\" as \"addr=server\""
        )));
    }
    let address = match host.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => (host, 0)
            .to_socket_addrs()
            .map_err(|e| Error::internal(format!("looking up the server {host:?} of a volume")).because(e))?
            .next()
            .ok_or_else(|| Error::not_found(format!("the server {host:?} of a volume has no address")))?
            .ip(),
    };
    data.retain(|(key, _)| !matches!(&**key, "addr" | "ip"));
    data.push((if nfs { "addr" } else { "ip" }.to_owned(), Some(address.to_string())));
    Ok(filesystem)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use berth_domain::Meaning;

    fn check(given: &[(&str, &str)]) -> Result<Local> {
        parse(Some(&given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()))
    }

    #[test]
    fn binds_and_file_systems_are_told_apart() {
        assert_eq!(parse(None).unwrap(), Local::default());
        assert_eq!(check(&[]).unwrap(), Local::default());
        let source = |given: &[(&str, &str)]| check(given).unwrap().mount.unwrap().source;
        assert_eq!(
            source(&[("type", "none"), ("o", "rbind,ro"), ("device", "/srv")]),
            Source::Directory { path: "/srv".into(), recursive: true }
        );
        let Source::New { kind, device, data } =
            source(&[("type", "tmpfs"), ("o", "size=1m,noexec,uid=5"), ("device", "tmpfs")])
        else {
            panic!("a bind")
        };
        assert_eq!((&*kind, &*device, data.len()), ("tmpfs", "tmpfs", 2));
        assert_eq!(check(&[("size", "10m")]).unwrap().size, Some(10 << 20));
        let mapped =
            |o: &str| check(&[("type", "none"), ("o", o), ("device", "/srv")]).unwrap().mount.unwrap().idmap;
        let (ours, theirs) = ("bind,idmap=uids=0-9-1;gids=0-9-1", "X-mount.idmap=b:0:9:1,bind");
        assert!(mapped("bind").is_none() && mapped(ours).is_some() && mapped(ours) == mapped(theirs));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let bad = |given: &[(&str, &str)]| {
            let error = check(given).unwrap_err();
            assert_eq!(error.meaning(), Meaning::InvalidInput);
            error.to_string()
        };
        assert_eq!(bad(&[("foo", "x")]), "invalid option: \"foo\"");
        assert_eq!(bad(&[("type", "none")]), "missing required option: \"device\"");
        bad(&[("type", "none"), ("o", "bind"), ("device", "srv")]);
        bad(&[("type", "none"), ("o", "bind,what"), ("device", "/srv")]);
        bad(&[("type", "none"), ("device", "/srv")]);
        bad(&[("type", "../x"), ("device", "/srv")]);
        bad(&[("size", "ten")]);
        bad(&[("type", "none"), ("o", "bind,idmap"), ("device", "/srv")]);
        bad(&[("type", "none"), ("o", "bind,X-mount.idmap=x:0:1:1"), ("device", "/srv")]);
        bad(&[("type", "tmpfs"), ("device", "tmpfs"), ("size", "1m")]);
    }

    #[test]
    fn servers_are_given_by_address() {
        let data = |given: &[(&str, &str)]| {
            let Source::New { data, .. } = resolved(check(given).unwrap().mount.unwrap()).unwrap().source
            else {
                panic!("a bind")
            };
            data.into_iter().find(|(k, _)| k == "addr" || k == "ip").and_then(|(_, v)| v).unwrap()
        };
        assert_eq!(data(&[("type", "nfs"), ("o", "addr=10.0.0.1,rw"), ("device", ":/x")]), "10.0.0.1");
        assert_eq!(data(&[("type", "nfs4"), ("device", "127.0.0.1:/x")]), "127.0.0.1");
        let version = |o: &str| {
            let asked =
                check(&[("type", "nfs4"), ("o", o), ("device", "127.0.0.1:/x")]).unwrap().mount.unwrap();
            let Source::New { data, .. } = resolved(asked).unwrap().source else { panic!("a bind") };
            data.into_iter()
                .filter(|(key, _)| key == "vers" || key.starts_with('v'))
                .map(|(_, v)| v)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (version("rw"), version("vers=4.2"), version("v4.1")),
            (vec![Some("4".into())], vec![Some("4.2".into())], vec![None])
        );
        assert_eq!(data(&[("type", "cifs"), ("o", "username=u"), ("device", "//127.0.0.2/s")]), "127.0.0.2");
        let nobody = check(&[("type", "nfs"), ("device", ":/x")]).unwrap().mount.unwrap();
        assert!(resolved(nobody).unwrap_err().to_string().contains("addr=server"));
    }

    #[test]
    fn sizes_are_in_powers_of_1024() {
        for (text, size) in [
            ("1", 1),
            ("10k", 10 << 10),
            ("1.5M", 3 << 19),
            ("2GiB", 2 << 30),
            ("1gb", 1 << 30),
            ("3 t", 3 << 40),
        ] {
            assert_eq!(bytes(text).unwrap(), size, "{text}");
        }
        for bad in ["", "k", "-1", "1x", "99999999999p", "1e3"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
