// SPDX-License-Identifier: Apache-2.0
//! `userns-remap`: whose subordinate ids (`subuid(5)`, `subgid(5)`) containers get.
//!
//! The forms are the reference's: `default`, `USER`, `UID`, each with `:GROUP` or `:GID`. As there, all ranges of the user
//! make up the map, in the files' order, for users and for groups alike; a group has to exist and means nothing else. For
//! `default` the name is `dockremap`. Where it has no ranges the reference adds a user and the ranges by running
//! `useradd`; here only the ranges are added, for no process ever runs under that name.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use berth_domain::{Error, Extent, IdMap, Result};
use berth_sys::atomic::{self, Durability};

const DEFAULT: &str = "default";
const DEFAULT_USER: &str = "dockremap";
/// As `useradd` has them (`SUB_UID_MIN`, `SUB_UID_COUNT` of login.defs(5)).
const FIRST: u32 = 100_000;
const COUNT: u32 = 65_536;

/// The files; in tests, elsewhere.
fn etc() -> PathBuf {
    std::env::var_os("BERTH_ETC").map_or_else(|| "/etc".into(), Into::into)
}

/// The map that a setting stands for; `None` where it changes nothing.
///
/// # Errors
///
/// Invalid: no such user or group; it has no ranges, or bad ones; the files cannot be read.
pub(crate) fn resolve(setting: Option<&str>) -> Result<Option<IdMap>> {
    let Some(setting) = setting.filter(|setting| !setting.is_empty()) else { return Ok(None) };
    let map = Files { etc: etc() }.resolve(setting)?;
    if map.is_none() {
        tracing::warn!("User namespaces: root cannot be remapped with itself; user namespaces are OFF");
    }
    Ok(map)
}

struct Files {
    etc: PathBuf,
}

fn bad(setting: &str, why: &str) -> Error {
    Error::invalid(format!("invalid userns-remap {setting:?}: {why}"))
}

impl Files {
    fn resolve(&self, setting: &str) -> Result<Option<IdMap>> {
        let mut parts = setting.split(':');
        let (user, group) = (parts.next().unwrap_or_default(), parts.next());
        if parts.next().is_some() || user.is_empty() || group == Some("") {
            return Err(bad(setting, "USER, USER:GROUP or \"default\" expected"));
        }
        if let Some(group) = group {
            if self.find("group", group)?.is_none() {
                return Err(bad(setting, &format!("there is no group {group} in /etc/group")));
            }
        }
        let name = if user == DEFAULT { DEFAULT_USER } else { user };
        let found = self.find("passwd", name)?;
        let (name, id) = match found {
            Some((name, id)) => (name, Some(id)),
            None if user == DEFAULT => (DEFAULT_USER.to_owned(), None),
            None => return Err(bad(setting, &format!("there is no user {user} in /etc/passwd"))),
        };
        if name == "root" {
            return Ok(None);
        }
        if user == DEFAULT {
            for file in ["subuid", "subgid"] {
                if self.ranges(file, &name, id.as_deref())?.is_empty() {
                    self.add(file, &name)?;
                }
            }
        }
        let extents = |file: &str| {
            let ranges = self.ranges(file, &name, id.as_deref())?;
            if ranges.is_empty() {
                let remedy = format!("usermod --add-{file}s {FIRST}-{} {name}", FIRST + COUNT - 1);
                return Err(bad(
                    setting,
                    &format!("no {file} ranges found for user {name:?} (try: {remedy})"),
                ));
            }
            Extent::stack(&ranges).map_err(|e| bad(setting, &format!("/etc/{file}: {e}")))
        };
        Ok(Some(IdMap { uids: extents("subuid")?, gids: extents("subgid")? }))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.etc.join(file);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(Error::io("reading", path, error)),
        }
    }

    /// Name and number of a line of passwd or group; a number is a number.
    fn find(&self, file: &str, wanted: &str) -> Result<Option<(String, String)>> {
        let text = self.read(file)?;
        let numeric = wanted.bytes().all(|b| b.is_ascii_digit());
        let lines = text.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, id) = (fields.next()?, fields.nth(1)?);
            id.parse::<u32>().ok()?;
            Some((name.to_owned(), id.to_owned()))
        });
        let mut lines = lines;
        Ok(lines.find(|(name, id)| if numeric { id == wanted } else { name == wanted }))
    }

    /// First ids and counts of a user's lines, which name it or have its number.
    fn ranges(&self, file: &str, name: &str, id: Option<&str>) -> Result<Vec<(u32, u32)>> {
        let text = self.read(file)?;
        let mut ranges = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut fields = line.split(':');
            let owner = fields.next();
            if owner != Some(name) && (id.is_none() || owner != id) {
                continue;
            }
            let mut number = || fields.next().and_then(|field| field.trim().parse().ok());
            match (number(), number()) {
                (Some(first), Some(count)) => ranges.push((first, count)),
                _ => return Err(Error::invalid(format!("/etc/{file}: cannot read the line {line:?}"))),
            }
        }
        Ok(ranges)
    }

    /// Adds a range that nobody has.
    fn add(&self, file: &str, name: &str) -> Result<()> {
        let path = self.etc.join(file);
        // As the tools of shadow(5) lock it.
        let lock = self.etc.join(format!("{file}.lock"));
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock).map_err(|error| {
            Error::io("locking (is somebody changing users? then try again)", &lock, error)
        })?;
        let added = self.read(file).and_then(|text| {
            let first = free(&text).ok_or_else(|| bad(DEFAULT, &format!("/etc/{file} leaves no room")))?;
            let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            let text = format!("{text}{newline}{name}:{first}:{COUNT}\n");
            atomic::write(&path, text.as_bytes(), 0o644, Durability::Disk)
                .map_err(|error| Error::io("writing", &path, error))?;
            tracing::info!(file = %path.display(), first, count = COUNT, user = name, "added subordinate ids");
            Ok(())
        });
        std::fs::remove_file(&lock).map_err(|error| Error::io("unlocking", &lock, error))?;
        added
    }
}

/// The first place for a range, beyond all that there are: names there may stand for anybody.
fn free(text: &str) -> Option<u32> {
    let ends = text.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(1).map(|field| field.trim().parse::<u32>().ok());
        fields.next()??.checked_add(fields.next()??)
    });
    let first = ends.max().unwrap_or(0).max(FIRST);
    first.checked_add(COUNT).map(|_| first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn files(subuid: &str) -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n1234:x:1001:1::/:/bin/sh\n";
        std::fs::write(dir.path().join("passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("group"), "root:x:0:\nstaff:x:50:alice\n").unwrap();
        for file in ["subuid", "subgid"] {
            std::fs::write(dir.path().join(file), subuid).unwrap();
        }
        let files = Files { etc: dir.path().to_owned() };
        (dir, files)
    }

    #[test]
    fn users_by_name_and_number() {
        let (_dir, files) = files("alice:100000:1000\nbob:1:1\n1000:300000:65536\n");
        for setting in ["alice", "1000", "alice:staff", "1000:50"] {
            let map = files.resolve(setting).unwrap().unwrap();
            assert_eq!(map.uids, Extent::stack(&[(100_000, 1000), (300_000, 65_536)]).unwrap(), "{setting}");
        }
        assert_eq!(files.resolve("root").unwrap(), None);
        assert_eq!(files.resolve("0:0").unwrap(), None);
    }

    #[test]
    fn mistakes_are_named() {
        let (_dir, files) = files("alice:100000:1000\nalice:100500:10\n");
        for (setting, why) in [
            ("bob", "no user bob"),
            // A number is a number, whatever names look like.
            ("1234", "no user 1234"),
            ("alice:nobody", "no group nobody"),
            ("a:b:c", "USER:GROUP"),
            (":x", "USER:GROUP"),
            ("alice", "overlaps"),
        ] {
            let error = files.resolve(setting).unwrap_err().to_string();
            assert!(error.contains(why), "{setting}: {error}");
        }
        std::fs::write(files.etc.join("subuid"), "").unwrap();
        assert!(files.resolve("alice").unwrap_err().to_string().contains("usermod --add-subuids"));
        std::fs::write(files.etc.join("subuid"), "alice:x:1\n").unwrap();
        assert!(files.resolve("alice").unwrap_err().to_string().contains("cannot read the line"));
    }

    #[test]
    fn the_default_gets_ranges_once() {
        let (dir, files) = files("alice:100000:65536");
        let map = files.resolve("default").unwrap().unwrap();
        assert_eq!(map.root(), (165_536, 165_536));
        let text = std::fs::read_to_string(dir.path().join("subuid")).unwrap();
        assert_eq!(text, "alice:100000:65536\ndockremap:165536:65536\n");
        assert_eq!(files.resolve("default").unwrap().unwrap(), map);
        assert_eq!(std::fs::read_to_string(dir.path().join("subuid")).unwrap(), text);
        assert!(!dir.path().join("subuid.lock").exists());
        assert_eq!(free("a:4294900000:67295\n"), None);
    }
}
