// SPDX-License-Identifier: Apache-2.0
//! `--mount`, `-v` and `--tmpfs`.

use std::collections::BTreeMap;
use std::path::Path;

use berth_api::types::container_create::{
    BindOptions, DriverConfig, Empty, ImageOptions, Mount, TmpfsOptions, VolumeOptions,
};

use super::{boolean, csv, size};
use crate::fail::{Fail, Result};

/// `-v`: binds and named volumes, and anonymous volumes.
pub(crate) fn volumes(flags: &[String], cwd: &Path) -> Result<(Vec<String>, BTreeMap<String, Empty>)> {
    let mut binds = Vec::new();
    let mut anonymous = BTreeMap::new();
    for flag in flags {
        let parts: Vec<&str> = flag.split(':').collect();
        match parts.as_slice() {
            [path] if path.starts_with('/') => {
                anonymous.insert((*path).to_owned(), Empty {});
            }
            [source, target, rest @ ..] if !source.is_empty() && !target.is_empty() && rest.len() < 2 => {
                // Relative paths are the client's: the daemon's own directory is elsewhere.
                let relative = *source == "."
                    || *source == ".."
                    || source.starts_with("./")
                    || source.starts_with("../");
                if relative {
                    let absolute = lexical(&cwd.join(source));
                    binds.push(format!("{absolute}{}", &flag[source.len()..]));
                } else {
                    binds.push(flag.clone());
                }
            }
            _ => return Err(Fail::new(format!("invalid volume specification: '{flag}'"))),
        }
    }
    Ok((binds, anonymous))
}

/// Without `.` and `..`, by their text alone.
fn lexical(path: &Path) -> String {
    let mut clean = std::path::PathBuf::from("/");
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean.display().to_string()
}

/// `--tmpfs /path[:options]`.
pub(crate) fn tmpfs(flags: &[String]) -> Option<BTreeMap<String, String>> {
    (!flags.is_empty()).then(|| {
        flags
            .iter()
            .map(|flag| {
                let (path, options) = flag.split_once(':').unwrap_or((flag, ""));
                (path.to_owned(), options.to_owned())
            })
            .collect()
    })
}

/// `--mount type=...,...`.
pub(crate) fn mount(flag: &str) -> Result<Mount> {
    let mut mount = Mount { r#type: "volume".into(), ..Mount::default() };
    let mut bind = None::<BindOptions>;
    let mut volume = None::<VolumeOptions>;
    let mut tmpfs = None::<TmpfsOptions>;
    let mut image = None::<ImageOptions>;
    for field in csv(flag)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let truth = || match value {
            None => Ok(true),
            Some(text) => boolean(text).ok_or_else(|| Fail::new(format!("invalid value for {key}: {text}"))),
        };
        // Switches may stand alone.
        match key.as_str() {
            "readonly" | "ro" => {
                mount.read_only = truth()?;
                continue;
            }
            "volume-nocopy" => {
                volume.get_or_insert_default().no_copy = truth()?;
                continue;
            }
            "bind-nonrecursive" => {
                bind.get_or_insert_default().non_recursive = truth()?;
                continue;
            }
            "bind-create-src" => {
                bind.get_or_insert_default().create_mountpoint = truth()?;
                continue;
            }
            _ => {}
        }
        let value = value
            .ok_or_else(|| Fail::new(format!("invalid field '{field}' must be a key=value pair")))?
            .to_owned();
        match key.as_str() {
            "type" => mount.r#type = value.to_ascii_lowercase(),
            "source" | "src" => mount.source = value,
            "target" | "dst" | "destination" => mount.target = value,
            "consistency" => mount.consistency = value,
            "bind-propagation" => bind.get_or_insert_default().propagation = value,
            "bind-recursive" => recursive(bind.get_or_insert_default(), &value)?,
            "volume-subpath" => volume.get_or_insert_default().subpath = value,
            "volume-driver" => driver(&mut volume).name = value,
            "volume-opt" => {
                let (name, value) = value.split_once('=').unwrap_or((&value, ""));
                driver(&mut volume).options.insert(name.to_owned(), value.to_owned());
            }
            "volume-label" => {
                let (name, value) = value.split_once('=').unwrap_or((&value, ""));
                let labels = &mut volume.get_or_insert_default().labels;
                labels.get_or_insert_default().insert(name.to_owned(), value.to_owned());
            }
            "image-subpath" => image.get_or_insert_default().subpath = value,
            "tmpfs-size" => tmpfs.get_or_insert_default().size_bytes = size::bytes(&value, "mount")?,
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(&value, 8)
                    .map_err(|_| Fail::new(format!("invalid value for {key}: {value}")))?;
                tmpfs.get_or_insert_default().mode = Some(mode);
            }
            _ => return Err(Fail::new(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    for (given, kind) in [
        (bind.is_some(), "bind"),
        (volume.is_some(), "volume"),
        (tmpfs.is_some(), "tmpfs"),
        (image.is_some(), "image"),
    ] {
        if given && mount.r#type != kind {
            return Err(Fail::new(format!(
                "cannot mix '{kind}-*' options with mount type '{}'",
                mount.r#type
            )));
        }
    }
    if mount.target.is_empty() {
        return Err(Fail::new("target is required"));
    }
    let deep = bind.as_ref().is_some_and(|b| b.read_only_non_recursive || b.read_only_force_recursive);
    if deep && !mount.read_only {
        return Err(Fail::new(
            "option 'bind-recursive=writable' or '=readonly' requires 'readonly' to be specified",
        ));
    }
    mount.bind_options = bind;
    mount.volume_options = volume;
    mount.tmpfs_options = tmpfs;
    mount.image_options = image;
    Ok(mount)
}

fn driver(volume: &mut Option<VolumeOptions>) -> &mut DriverConfig {
    volume.get_or_insert_default().driver_config.get_or_insert_default()
}

fn recursive(bind: &mut BindOptions, value: &str) -> Result<()> {
    match value {
        "enabled" => {}
        "disabled" => bind.non_recursive = true,
        "writable" => bind.read_only_non_recursive = true,
        "readonly" => bind.read_only_force_recursive = true,
        _ => {
            return Err(Fail::new(format!(
                "invalid value for bind-recursive: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn mounts() {
        let bind = mount("type=bind,source=/a,target=/b,readonly,bind-propagation=rslave").unwrap();
        assert_eq!((bind.r#type.as_str(), bind.source.as_str(), bind.target.as_str()), ("bind", "/a", "/b"));
        assert!(bind.read_only);
        assert_eq!(bind.bind_options.unwrap().propagation, "rslave");

        let volume =
            mount("src=v,dst=/d,volume-nocopy=true,volume-opt=type=nfs,\"volume-opt=o=a,b\",volume-label=x")
                .unwrap();
        let options = volume.volume_options.unwrap();
        assert!(options.no_copy);
        assert_eq!(options.driver_config.unwrap().options["o"], "a,b");
        assert_eq!(options.labels.unwrap()["x"], "");

        let tmpfs =
            mount("type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap().tmpfs_options.unwrap();
        assert_eq!((tmpfs.size_bytes, tmpfs.mode), (1 << 20, Some(0o1770)));

        for (bad, why) in [
            ("type=bind,source=/a", "target is required"),
            ("target=/x,bogus=1", "unexpected key 'bogus'"),
            ("target", "must be a key=value pair"),
            ("type=bind,target=/x,volume-nocopy", "cannot mix 'volume-*'"),
            ("target=/x,readonly=maybe", "invalid value for readonly"),
            ("type=bind,target=/x,bind-recursive=often", "invalid value for bind-recursive"),
            ("type=bind,target=/x,bind-recursive=readonly", "requires 'readonly'"),
        ] {
            let message = mount(bad).unwrap_err().message;
            assert!(message.contains(why), "{bad}: {message}");
        }
    }

    #[test]
    fn volume_flags() {
        let parse = |flags: &[&str]| {
            volumes(&flags.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>(), Path::new("/home/me"))
        };
        let (binds, anonymous) =
            parse(&["/data", "v:/x:ro", "/a:/b", ".:/c", "./d/../e:/f:rw", "../g:/h"]).unwrap();
        assert_eq!(binds, ["v:/x:ro", "/a:/b", "/home/me:/c", "/home/me/e:/f:rw", "/home/g:/h"]);
        assert_eq!(anonymous.keys().collect::<Vec<_>>(), ["/data"]);
        for bad in ["", ":", "a:", ":/b", "a:b:c:d", "relative"] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
    }
}
