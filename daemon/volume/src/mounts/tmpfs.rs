// SPDX-License-Identifier: Apache-2.0
//! Options of a tmpfs: the last of those that contradict each other wins.

use berth_domain::{Error, Result};

/// Flags that exclude each other, a line each.
const FLAGS: &[&[&str]] = &[
    &["ro", "rw"],
    &["suid", "nosuid"],
    &["dev", "nodev"],
    &["exec", "noexec"],
    &["sync", "async"],
    &["dirsync"],
    &["mand", "nomand"],
    &["atime", "noatime"],
    &["diratime", "nodiratime"],
    &["relatime", "norelatime"],
    &["strictatime", "nostrictatime"],
    &["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"],
];

/// Options with a value.
const VALUED: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

/// What a tmpfs has unless told otherwise.
const DEFAULT: [&str; 4] = ["noexec", "nosuid", "nodev", "rprivate"];

/// What two options share if they exclude each other.
fn kind(option: &str) -> Option<&str> {
    if let Some((key, value)) = option.split_once('=') {
        return VALUED.contains(&key).then_some(key).filter(|_| !value.is_empty());
    }
    FLAGS.iter().find(|group| group.contains(&option)).and_then(|group| group.first().copied())
}

/// The defaults and over them what is given.
pub(super) fn merge(given: &[&str]) -> Result<Vec<String>> {
    let mut merged: Vec<String> = Vec::new();
    for option in DEFAULT.iter().chain(given) {
        let Some(own) = kind(option) else {
            return Err(Error::invalid(format!("invalid tmpfs option {given:?}")));
        };
        merged.retain(|other| kind(other) != Some(own));
        merged.push((*option).to_owned());
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_last_word_counts() {
        assert_eq!(merge(&[]).unwrap(), DEFAULT);
        assert_eq!(
            merge(&["exec", "size=1m", "rw", "size=2m", "ro"]).unwrap(),
            ["nosuid", "nodev", "rprivate", "exec", "size=2m", "ro"]
        );
        for bad in ["what", "size", "size=", "what=1", "lowerdir=/"] {
            assert!(merge(&[bad]).is_err(), "{bad}");
        }
    }
}
