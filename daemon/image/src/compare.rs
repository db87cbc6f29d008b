// SPDX-License-Identifier: Apache-2.0
//! Whether two directory trees are the same: names, kinds, modes, owners, times, extended attributes, contents.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

/// Deeper trees are none of ours.
const DEPTH_MAX: usize = 4096;

/// Whether times count. Those of directories that were made for an image tell only when that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    Count,
    DoNot,
}

/// The first difference found, in words with its path; `None` when there is none.
pub(crate) fn difference(a: &Path, b: &Path, times: Times) -> io::Result<Option<String>> {
    let (a, b): (OwnedFd, OwnedFd) = (File::open(a)?.into(), File::open(b)?.into());
    let (mut at_a, mut at_b) = (rustix::fs::fstat(&a)?, rustix::fs::fstat(&b)?);
    // The root itself: its time changes with the store's own business.
    at_a.st_mtime = 0;
    at_a.st_mtime_nsec = 0;
    at_b.st_mtime = 0;
    at_b.st_mtime_nsec = 0;
    if let Some(what) = attributes(&at_a, &at_b, times) {
        return Ok(Some(format!("/: {what}")));
    }
    directories(&a, &b, &mut String::new(), 0, times)
}

fn directories(
    a: &OwnedFd,
    b: &OwnedFd,
    path: &mut String,
    depth: usize,
    times: Times,
) -> io::Result<Option<String>> {
    if depth > DEPTH_MAX {
        return Ok(Some(format!("{path}: too deep")));
    }
    if xattrs(a)? != xattrs(b)? {
        return Ok(Some(format!("{path}/: another extended attribute")));
    }
    let (names_a, names_b) = (names(a)?, names(b)?);
    if names_a != names_b {
        let odd =
            names_a.iter().find(|n| !names_b.contains(n)).or(names_b.iter().find(|n| !names_a.contains(n)));
        let odd = odd.map(|n| String::from_utf8_lossy(n).into_owned()).unwrap_or_default();
        return Ok(Some(format!("{path}/{odd}: only on one side")));
    }
    for name in names_a {
        let length = path.len();
        path.push('/');
        path.push_str(&String::from_utf8_lossy(&name));
        let found = entries(a, b, &name, path, depth, times)?;
        if found.is_some() {
            return Ok(found);
        }
        path.truncate(length);
    }
    Ok(None)
}

fn entries(
    a: &OwnedFd,
    b: &OwnedFd,
    name: &[u8],
    path: &mut String,
    depth: usize,
    times: Times,
) -> io::Result<Option<String>> {
    let stat = |dir: &OwnedFd| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    let (at_a, at_b) = (stat(a)?, stat(b)?);
    if let Some(what) = attributes(&at_a, &at_b, times) {
        return Ok(Some(format!("{path}: {what}")));
    }
    let open = |dir: &OwnedFd, flags: OFlags| {
        rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    match FileType::from_raw_mode(at_a.st_mode) {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            directories(&open(a, flags)?, &open(b, flags)?, path, depth + 1, times)
        }
        FileType::Symlink => {
            let link = |dir: &OwnedFd| rustix::fs::readlinkat(dir, name, Vec::new());
            Ok((link(a)? != link(b)?).then(|| format!("{path}: another target")))
        }
        FileType::RegularFile => {
            let (file_a, file_b) = (open(a, OFlags::RDONLY)?, open(b, OFlags::RDONLY)?);
            if xattrs(&file_a)? != xattrs(&file_b)? {
                return Ok(Some(format!("{path}: another extended attribute")));
            }
            Ok((!same_bytes(File::from(file_a), File::from(file_b))?)
                .then(|| format!("{path}: other content")))
        }
        _ => Ok(None),
    }
}

fn attributes(a: &Stat, b: &Stat, times: Times) -> Option<&'static str> {
    // A whiteout is only ever not there: its time means nothing, and is not set.
    let whiteout = FileType::from_raw_mode(a.st_mode) == FileType::CharacterDevice && a.st_rdev == 0;
    let file = FileType::from_raw_mode(a.st_mode) == FileType::RegularFile;
    if FileType::from_raw_mode(a.st_mode) != FileType::from_raw_mode(b.st_mode) {
        Some("another kind of file")
    } else if a.st_mode != b.st_mode {
        Some("another mode")
    } else if (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid) {
        Some("another owner")
    } else if a.st_rdev != b.st_rdev {
        Some("another device")
    } else if file && a.st_size != b.st_size {
        Some("another size")
    } else if file && a.st_nlink != b.st_nlink {
        Some("another number of links")
    } else if times == Times::Count
        && !whiteout
        && (a.st_mtime, a.st_mtime_nsec) != (b.st_mtime, b.st_mtime_nsec)
    {
        Some("another time")
    } else {
        None
    }
}

fn names(dir: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir.as_fd())? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Names and values, sorted. A filesystem without any has none.
fn xattrs(file: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; 64 << 10];
    let n = match rustix::fs::flistxattr(file, &mut list) {
        Ok(n) => n,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in list[..n].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let n = rustix::fs::fgetxattr(file, name, &mut value)?;
        value.truncate(n);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

fn same_bytes(mut a: File, mut b: File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    loop {
        let n = a.read(&mut left)?;
        if n == 0 {
            return Ok(b.read(&mut right[..1])? == 0);
        }
        if let Err(e) = b.read_exact(&mut right[..n]) {
            return if e.kind() == io::ErrorKind::UnexpectedEof { Ok(false) } else { Err(e) };
        }
        if left[..n] != right[..n] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_differs_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir_all(a.join("d")).unwrap();
        std::fs::write(a.join("d/f"), "text").unwrap();
        std::os::unix::fs::symlink("t", a.join("l")).unwrap();
        let again = || {
            drop(std::fs::remove_dir_all(&b));
            assert!(std::process::Command::new("cp").arg("-a").arg(&a).arg(&b).status().unwrap().success());
        };
        again();
        assert_eq!(difference(&a, &b, Times::Count).unwrap(), None);
        let check = |spoil: &dyn Fn(), words: &str| {
            again();
            spoil();
            let found = difference(&a, &b, Times::Count).unwrap();
            assert!(found.as_deref().is_some_and(|f| f.contains(words)), "{words}: {found:?}");
        };
        let time = std::fs::metadata(a.join("d/f")).unwrap().modified().unwrap();
        let keep_time =
            || File::options().write(true).open(b.join("d/f")).unwrap().set_modified(time).unwrap();
        check(
            &|| {
                std::fs::write(b.join("d/f"), "tixt").unwrap();
                keep_time();
            },
            "/d/f: other content",
        );
        check(&|| std::fs::write(b.join("d/f"), "").unwrap(), "/d/f: another size");
        check(
            &|| std::fs::set_permissions(b.join("d/f"), std::fs::Permissions::from_mode(0o4755)).unwrap(),
            "/d/f: another mode",
        );
        check(&|| std::fs::remove_file(b.join("l")).unwrap(), "/l: only on one side");
        check(&|| std::fs::write(b.join("d/x"), "").unwrap(), "/d");
    }
}
