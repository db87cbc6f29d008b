// SPDX-License-Identifier: Apache-2.0
//! The process: arguments, environment, working directory, resource limits of the shell kind.

use std::path::{Component, Path, PathBuf};

use berth_api::types::container_create::{ContainerConfig, StrSlice, Ulimit};
use berth_domain::{Error, Result};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Program and arguments as `inspect` shows them: entrypoint then command.
///
/// # Errors
///
/// `no command specified` when both are empty.
pub fn args(config: &ContainerConfig) -> Result<Vec<String>> {
    let list = |given: &Option<StrSlice>| given.as_ref().map(StrSlice::to_vec).unwrap_or_default();
    let mut all = list(&config.entrypoint);
    // `--entrypoint ""` comes as one empty string and means none.
    if all == [""] {
        all.clear();
    }
    all.extend(list(&config.cmd));
    if all.is_empty() { Err(Error::invalid("no command specified")) } else { Ok(all) }
}

/// The environment: the defaults, and over them what the user says, each variable in the place where it first came. An entry without `=` takes a
/// variable away.
pub(super) fn environment(hostname: &str, tty: bool, given: &[&[String]]) -> Vec<String> {
    let mut all = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        all.push("TERM=xterm".to_owned());
    }
    for entry in given.iter().copied().flatten() {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        let place = all.iter().position(|e| e.split_once('=').is_some_and(|(n, _)| n == name));
        match (place, entry.contains('=')) {
            (Some(place), true) => all[place].clone_from(entry),
            (Some(place), false) => drop(all.remove(place)),
            (None, true) => all.push(entry.clone()),
            (None, false) => {}
        }
    }
    all
}

/// Refuses entries without a name.
pub(super) fn check_environment(given: &[String]) -> Result<()> {
    for entry in given {
        if entry.is_empty() || entry.starts_with('=') {
            return Err(Error::invalid(format!("invalid environment variable: {entry}")));
        }
        if entry.contains('\0') {
            return Err(Error::invalid("invalid environment variable: a NUL byte"));
        }
    }
    Ok(())
}

/// The working directory without `.`, `..` and doubled slashes; `/` for an empty one.
pub(super) fn working_directory(given: &str) -> Result<PathBuf> {
    if given.is_empty() {
        return Ok(PathBuf::from("/"));
    }
    if !given.starts_with('/') || given.contains('\0') {
        return Err(Error::invalid(format!(
            "the working directory '{given}' is invalid, it needs to be an absolute path"
        )));
    }
    let mut clean = PathBuf::from("/");
    for component in Path::new(given).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            // The parent of `/` is `/`.
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

fn rlimit_type(name: &str) -> Option<PosixRlimitType> {
    Some(match name {
        "as" => PosixRlimitType::RlimitAs,
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        _ => return None,
    })
}

/// The container's ulimits, and the daemon's for what it does not name. `-1` is no limit.
pub(super) fn rlimits(own: &[Ulimit], defaults: &[Ulimit]) -> Result<Vec<PosixRlimit>> {
    let more = defaults.iter().filter(|d| own.iter().all(|o| o.name != d.name));
    let mut all: Vec<PosixRlimit> = Vec::new();
    for limit in own.iter().chain(more) {
        let name = limit.name.to_ascii_lowercase();
        let kind = rlimit_type(&name)
            .ok_or_else(|| Error::invalid(format!("invalid ulimit type: {}", limit.name)))?;
        let value = |n: i64| if n < 0 { u64::MAX } else { n.unsigned_abs() };
        let (soft, hard) = (value(limit.soft), value(limit.hard));
        if soft > hard {
            return Err(Error::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {}={}:{}",
                limit.name, limit.soft, limit.hard
            )));
        }
        if all.iter().any(|l| l.typ() == kind) {
            return Err(Error::invalid(format!("duplicate ulimit {}", limit.name)));
        }
        let built = PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build();
        all.push(built.map_err(|e| super::broken(&e))?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn list(given: &[&str]) -> Vec<String> {
        given.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn the_users_environment_wins_in_place() {
        let image = list(&["LANG=C", "PATH=/bin", "HOSTNAME"]);
        let user = list(&["LANG=de", "A=b=c", "NOT_THERE"]);
        let all = environment("box", true, &[&image, &user]);
        assert_eq!(all, ["PATH=/bin", "TERM=xterm", "LANG=de", "A=b=c"]);
        assert_eq!(environment("box", false, &[]), [DEFAULT_PATH, "HOSTNAME=box"]);
        for bad in ["", "=x"] {
            assert!(check_environment(&list(&[bad])).is_err());
        }
    }

    #[test]
    fn entrypoint_and_command_join() {
        let config = |entrypoint: &[&str], cmd: &[&str]| ContainerConfig {
            entrypoint: Some(StrSlice::Many(list(entrypoint))),
            cmd: Some(StrSlice::Many(list(cmd))),
            ..ContainerConfig::default()
        };
        assert_eq!(args(&config(&["/e", "-x"], &["a"])).unwrap(), ["/e", "-x", "a"]);
        assert_eq!(args(&config(&[""], &["sh"])).unwrap(), ["sh"]);
        assert_eq!(args(&ContainerConfig::default()).unwrap_err().to_string(), "no command specified");
    }

    #[test]
    fn working_directories_are_cleaned() {
        let check = |given: &str, expected: &str| {
            assert_eq!(working_directory(given).unwrap(), Path::new(expected));
        };
        check("", "/");
        check("/a//b/./../c/", "/a/c");
        check("/../..", "/");
        assert_eq!(
            working_directory("a").unwrap_err().to_string(),
            "the working directory 'a' is invalid, it needs to be an absolute path"
        );
    }

    #[test]
    fn ulimits_merge_with_the_daemons() {
        let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), hard, soft };
        let all =
            rlimits(&[limit("nofile", 1024, 2048)], &[limit("nofile", 1, 1), limit("core", -1, -1)]).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].soft(), all[0].hard()), (1024, 2048));
        assert_eq!((all[1].typ(), all[1].hard()), (PosixRlimitType::RlimitCore, u64::MAX));
        for bad in [limit("what", 1, 1), limit("nofile", 2, 1), limit("nofile", -1, 1)] {
            assert!(rlimits(&[bad], &[]).is_err());
        }
    }
}
