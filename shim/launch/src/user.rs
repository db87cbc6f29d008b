// SPDX-License-Identifier: Apache-2.0
//! Who a process runs as: `--user` and `--group-add` resolved inside the container's root.
//!
//! A number is a number, whatever the image's /etc/passwd says: a line whose *name* is `1000` must not
//! make uid 1000 something else, nor may a number that does not fit wrap to 0 or be taken for a name
//! (CVE-2016-3697, CVE-2024-40635, CVE-2026-46680). The files are the image's, so they are opened in the
//! container's root without magic links, and bounded.

use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};
use crate::path::open_in_root;

/// Most bytes read of a container's /etc/passwd or /etc/group.
const MAX_FILE: u64 = 16 << 20;
/// Most additional groups; the kernel's `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65_536;

/// A user as `--user` or the image's `USER` gives it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserRequest<'a> {
    /// `""`, `name`, `uid`, `name:group`, `uid:gid`, ... Numbers are numbers, never names.
    pub user: &'a str,
    /// Additional groups: names (looked up in the container's /etc/group) or numbers.
    pub groups: &'a [String],
}

/// A user as the kernel takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, the primary one first: without it a set-group-id program could shed the
    /// primary group and with it what the group is denied (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// Home directory of the uid's first line in /etc/passwd.
    pub home: Option<String>,
}

/// Resolves a user inside a container's root.
///
/// # Errors
///
/// [`crate::Kind::InvalidInput`] for a name that is not there and a number outside 0 to 2^31-1.
pub fn resolve(root: impl AsFd, request: &UserRequest<'_>) -> Result<Identity> {
    let passwd = read(&root, "etc/passwd")?;
    let group = read(&root, "etc/group")?;
    resolve_in(&passwd, &group, request)
}

/// The home directory of a uid, `None` if the container's /etc/passwd does not have it.
pub(crate) fn home_of(root: impl AsFd, uid: u32) -> Result<Option<String>> {
    Ok(users(&read(root, "etc/passwd")?).find(|user| user.uid == uid).map(|user| user.home.to_owned()))
}

fn read(root: impl AsFd, path: &str) -> Result<String> {
    let what = || format!("the container's /{path}");
    // O_NONBLOCK: a FIFO in its place must not hold us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match open_in_root(root, Path::new(path), flags) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(Error::invalid(format!("{}: {errno}", what()))),
    };
    let stat = fstat(&fd).context(what)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid(format!("{} is not a regular file", what())));
    }
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(fd).take(MAX_FILE + 1);
    file.read_to_end(&mut bytes).context(what)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(Error::invalid(format!("{} is larger than {MAX_FILE} bytes", what())));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct UserLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Lines of /etc/passwd that make sense; others are skipped as the C library does.
fn users(text: &str) -> impl Iterator<Item = UserLine<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        Some(UserLine { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn groups(text: &str) -> impl Iterator<Item = GroupLine<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = id(fields.nth(1)?)?;
        Some(GroupLine { name, gid, members: fields.next().unwrap_or_default() })
    })
}

/// A number that is an id.
fn id(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|id| i32::try_from(*id).is_ok())
}

/// What a word means: `Ok(Some)` for a number that is an id, `Ok(None)` for a name.
fn number(word: &str, what: &str) -> Result<Option<u32>> {
    let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match id(word).filter(|_| digits.len() == word.len()) {
        Some(id) => Ok(Some(id)),
        None => Err(Error::invalid(format!("{what} {word} is not between 0 and 2147483647"))),
    }
}

fn resolve_in(passwd: &str, group: &str, request: &UserRequest<'_>) -> Result<Identity> {
    let (user, primary) = match request.user.split_once(':') {
        Some((user, primary)) => (user, Some(primary)),
        None => (request.user, None),
    };
    let uid = if user.is_empty() { Some(0) } else { number(user, "uid")? };
    let line = match uid {
        Some(uid) => users(passwd).find(|line| line.uid == uid),
        None => Some(users(passwd).find(|line| line.name == user).ok_or_else(|| {
            Error::invalid(format!("unable to find user {user}: no matching entries in passwd file"))
        })?),
    };
    let mut identity = Identity {
        uid: uid.or(line.as_ref().map(|line| line.uid)).unwrap_or(0),
        gid: line.as_ref().map_or(0, |line| line.gid),
        groups: Vec::new(),
        home: line.as_ref().map(|line| line.home.to_owned()).filter(|home| !home.is_empty()),
    };
    match primary.filter(|primary| !primary.is_empty()) {
        Some(primary) => identity.gid = group_id(group, primary)?,
        // Memberships of /etc/group count only if no group was asked for.
        None => {
            if let Some(line) = &line {
                let member = |group: &GroupLine<'_>| group.members.split(',').any(|name| name == line.name);
                identity.groups = groups(group).filter(member).map(|group| group.gid).collect();
            }
        }
    }
    for name in request.groups {
        identity.groups.push(group_id(group, name)?);
    }
    identity.groups.insert(0, identity.gid);
    let mut seen = std::collections::BTreeSet::new();
    identity.groups.retain(|gid| seen.insert(*gid));
    if identity.groups.len() > MAX_GROUPS {
        return Err(Error::invalid(format!("more than {MAX_GROUPS} groups")));
    }
    Ok(identity)
}

fn group_id(group: &str, name: &str) -> Result<u32> {
    match number(name, "gid")? {
        Some(gid) => Ok(gid),
        None => groups(group).find(|line| line.name == name).map(|line| line.gid).ok_or_else(|| {
            Error::invalid(format!("unable to find group {name}: no matching entries in group file"))
        }),
    }
}

#[cfg(test)]
#[path = "user_tests.rs"]
mod tests;
