// SPDX-License-Identifier: Apache-2.0
//! Mount options of the OCI runtime spec (the words of fstab and some more) as what the mount API takes.

use crate::error::{Error, Result};
use crate::sys::{
    ATTR_ATIME, ATTR_NOATIME, ATTR_NODEV, ATTR_NODIRATIME, ATTR_NOEXEC, ATTR_NOSUID, ATTR_NOSYMFOLLOW,
    ATTR_RDONLY, ATTR_STRICTATIME, MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE, MountAttr,
};

/// Whose owners are to be shown as others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdMapped {
    /// Those of the mount itself.
    Alone,
    /// Those of the mounts beneath it too.
    Recursive,
}

/// Options of one mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `Some(recursive)` for `bind` and `rbind`.
    pub(crate) bind: Option<bool>,
    /// For the mount itself.
    pub(crate) attr: MountAttr,
    /// For the mount and those below it.
    pub(crate) recursive: MountAttr,
    /// `idmap` and `ridmap`.
    pub(crate) id_mapped: Option<IdMapped>,
    /// For the file system: `key` or `key=value`.
    pub(crate) data: Vec<(String, Option<String>)>,
}

impl Options {
    /// Whether writing is refused through this mount.
    pub(crate) fn is_read_only(&self) -> bool {
        (self.attr.set | self.recursive.set) & ATTR_RDONLY != 0
    }
}

/// What a word does to a mount: sets or clears a flag.
fn flag(word: &str) -> Option<(u64, bool)> {
    Some(match word {
        "ro" => (ATTR_RDONLY, true),
        "rw" => (ATTR_RDONLY, false),
        "nosuid" => (ATTR_NOSUID, true),
        "suid" => (ATTR_NOSUID, false),
        "nodev" => (ATTR_NODEV, true),
        "dev" => (ATTR_NODEV, false),
        "noexec" => (ATTR_NOEXEC, true),
        "exec" => (ATTR_NOEXEC, false),
        "nodiratime" => (ATTR_NODIRATIME, true),
        "diratime" => (ATTR_NODIRATIME, false),
        "nosymfollow" => (ATTR_NOSYMFOLLOW, true),
        "symfollow" => (ATTR_NOSYMFOLLOW, false),
        _ => return None,
    })
}

/// What a word does to the time stamps of access; they are one field rather than flags.
fn atime(word: &str) -> Option<u64> {
    Some(match word {
        "relatime" | "atime" | "nostrictatime" => 0,
        "noatime" | "norelatime" => ATTR_NOATIME,
        "strictatime" => ATTR_STRICTATIME,
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<u64> {
    Some(match word {
        "private" => MS_PRIVATE,
        "slave" => MS_SLAVE,
        "shared" => MS_SHARED,
        "unbindable" => MS_UNBINDABLE,
        _ => return None,
    })
}

fn apply(attr: &mut MountAttr, word: &str) -> bool {
    if let Some((bit, set)) = flag(word) {
        let (on, off) = if set { (bit, 0) } else { (0, bit) };
        attr.set = attr.set & !bit | on;
        attr.clear = attr.clear & !bit | off;
    } else if let Some(value) = atime(word) {
        attr.set = attr.set & !ATTR_ATIME | value;
        attr.clear |= ATTR_ATIME;
    } else if let Some(kind) = propagation(word) {
        attr.propagation = kind;
    } else {
        return false;
    }
    true
}

/// Parses the options of the mount at `destination`.
pub(crate) fn parse(destination: &str, words: &[String]) -> Result<Options> {
    let mut options = Options::default();
    for word in words {
        match word.as_str() {
            "" | "defaults" | "loud" | "silent" | "async" | "nomand" | "noiversion" | "nolazytime" => {}
            "bind" => options.bind = Some(options.bind.unwrap_or(false)),
            "rbind" => options.bind = Some(true),
            "idmap" => options.id_mapped = Some(options.id_mapped.unwrap_or(IdMapped::Alone)),
            "ridmap" => options.id_mapped = Some(IdMapped::Recursive),
            "remount" | "tmpcopyup" => {
                return Err(Error::invalid(format!("mount {destination}: option {word:?} is not supported")));
            }
            word if apply(&mut options.attr, word) => {}
            word if word.strip_prefix('r').is_some_and(|rest| apply(&mut options.recursive, rest)) => {}
            word => options.data.push(match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (word.to_owned(), None),
            }),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(words: &[&str]) -> Options {
        parse("/x", &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn tmpfs_words() {
        let options = check(&["nosuid", "strictatime", "mode=755", "size=65536k", "noswap"]);
        assert_eq!(options.attr.set, ATTR_NOSUID | ATTR_STRICTATIME);
        assert_eq!(options.attr.clear, ATTR_ATIME);
        assert_eq!(
            options.data,
            [
                ("mode".into(), Some("755".into())),
                ("size".into(), Some("65536k".into())),
                ("noswap".into(), None)
            ]
        );
        assert_eq!(options.bind, None);
    }

    #[test]
    fn bind_words() {
        let options = check(&["rbind", "rro", "rprivate", "nosuid"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.recursive.set, ATTR_RDONLY);
        assert_eq!(options.recursive.propagation, MS_PRIVATE);
        assert_eq!(options.attr.set, ATTR_NOSUID);
        assert!(options.is_read_only());
    }

    #[test]
    fn the_last_word_wins() {
        let options = check(&["ro", "rw", "noatime", "relatime"]);
        assert_eq!((options.attr.set, options.attr.clear), (0, ATTR_RDONLY | ATTR_ATIME));
        assert!(!options.is_read_only());
    }

    #[test]
    fn words_that_begin_with_r() {
        let options = check(&["relatime", "rw", "ro", "rnoexec", "rrelatime", "rslave"]);
        assert_eq!(options.attr.set, ATTR_RDONLY);
        assert_eq!(options.recursive.set, ATTR_NOEXEC);
        assert_eq!(options.recursive.propagation, MS_SLAVE);
        assert!(options.data.is_empty());
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        assert!(parse("/x", &["tmpcopyup".to_owned()]).is_err());
        assert!(parse("/x", &["remount".to_owned()]).is_err());
    }
}
