// SPDX-License-Identifier: Apache-2.0
//! `--device host[:container[:rwm]]`.

use berth_api::types::container_create::DeviceMapping;

use crate::fail::{Fail, Result};

pub(crate) fn device(flag: &str) -> Result<DeviceMapping> {
    let bad = || Fail::new(format!("invalid device specification: {flag}"));
    let is_mode = |s: &str| !s.is_empty() && s.len() <= 3 && s.bytes().all(|b| b"rwm".contains(&b));
    let parts: Vec<&str> = flag.split(':').collect();
    let (host, container, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, mode] if is_mode(mode) => (*host, *host, *mode),
        [host, container] => (*host, *container, "rwm"),
        [host, container, mode] if is_mode(mode) => (*host, *container, *mode),
        [_, _, mode] => return Err(Fail::new(format!("bad mode specified: {mode}"))),
        _ => return Err(bad()),
    };
    if host.is_empty() || !container.starts_with('/') {
        return Err(bad());
    }
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: container.to_owned(),
        cgroup_permissions: permissions.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn devices() {
        let check = |flag: &str, expected: [&str; 3]| {
            let d = device(flag).unwrap();
            assert_eq!([d.path_on_host, d.path_in_container, d.cgroup_permissions], expected, "{flag}");
        };
        check("/dev/fuse", ["/dev/fuse", "/dev/fuse", "rwm"]);
        check("/dev/fuse:rw", ["/dev/fuse", "/dev/fuse", "rw"]);
        check("/dev/a:/dev/b", ["/dev/a", "/dev/b", "rwm"]);
        check("/dev/a:/dev/b:r", ["/dev/a", "/dev/b", "r"]);
        for bad in ["", "/dev/a:/dev/b:x", "a:b:c:d", "/dev/a:b"] {
            assert!(device(bad).is_err(), "{bad:?}");
        }
    }
}
