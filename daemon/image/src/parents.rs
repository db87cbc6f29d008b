// SPDX-License-Identifier: Apache-2.0
//! Directories that a layer only implies.
//!
//! A layer that has `tmp/x` and no entry for `tmp` is unpacked with a `tmp` of 0755. overlayfs shows a merged directory
//! with the attributes of its topmost instance, so that this one would hide the 1777 of the layer below. Layers are
//! shared between images and do not know what is below them; an image does. So an image whose merged view would be wrong gets
//! one more directory on top of its layers, `layers/<image hex>.parents/fs`, which holds just those directories with
//! the attributes of the topmost layer that states them. Most images need none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use berth_domain::{Digest, Error, ImageId, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use crate::layer::Meta;
use crate::layout::{Layout, io_error, make_new_dir};
use crate::unpack::OPAQUE;

/// More implied directories than this in one image are left as they are.
const IMPLIED_MAX: usize = 200_000;

/// A directory to be shown, and the layer (index from the bottom) whose attributes it has.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    path: Vec<u8>,
    like: usize,
}

/// Makes the extra directory of this image in staging if it needs one. Its layers are in place.
pub(crate) fn prepare(
    layout: &Layout,
    image: &ImageId,
    diff_ids: &[Digest],
) -> Result<Option<std::path::PathBuf>> {
    let mut implied = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let paths: BTreeSet<Vec<u8>> = Meta::read(&layout.layer(diff_id))?.implied().into_iter().collect();
        implied.push(paths);
    }
    if implied.iter().skip(1).all(BTreeSet::is_empty) {
        return Ok(None);
    }
    if implied.iter().map(BTreeSet::len).sum::<usize>() > IMPLIED_MAX {
        tracing::warn!(image = %image.short(), "too many directories without entries of their own");
        return Ok(None);
    }
    let roots = diff_ids.iter().map(|id| open(&layout.layer_fs(id))).collect::<Result<Vec<_>>>()?;
    let shown =
        plan(&roots, &implied).map_err(|e| Error::internal("comparing the image's layers").because(e))?;
    if shown.is_empty() {
        return Ok(None);
    }
    let dir = layout.fresh("parents");
    make_new_dir(&dir, 0o710)?;
    let fs = dir.join("fs");
    make_new_dir(&fs, 0o755)?;
    for Shown { path, like } in &shown {
        make_like(&roots[*like], &fs, path)
            .map_err(|e| io_error("making", fs.join(std::ffi::OsStr::from_bytes(path)), e))?;
    }
    Ok(Some(dir))
}

fn open(path: &Path) -> Result<OwnedFd> {
    File::open(path).map(Into::into).map_err(|e| Error::io("opening", path, e))
}

/// Which directories must be shown by the image itself: those whose topmost instance is implied and differs from
/// the topmost one that is not, and what leads to them.
fn plan(roots: &[OwnedFd], implied: &[BTreeSet<Vec<u8>>]) -> io::Result<Vec<Shown>> {
    // Parents sort before their children.
    let mut paths: BTreeSet<&[u8]> = BTreeSet::new();
    for path in implied.iter().flatten() {
        let mut end = path.len();
        loop {
            paths.insert(&path[..end]);
            match path[..end].iter().rposition(|b| *b == b'/') {
                Some(slash) => end = slash,
                None => break,
            }
        }
    }
    // Layers whose directory at a path is part of the merged one, topmost first.
    let mut merged: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    let mut like: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut wrong: BTreeSet<&[u8]> = BTreeSet::new();
    for path in paths {
        let parent = path.iter().rposition(|b| *b == b'/').map(|slash| &path[..slash]);
        let within = match parent {
            None => (0..roots.len()).rev().collect(),
            Some(parent) => merged.get(parent).cloned().unwrap_or_default(),
        };
        let instances = instances(roots, &within, path)?;
        let Some(top) = instances.first().copied() else { continue };
        let stated = instances.iter().copied().find(|layer| !implied[*layer].contains(path));
        let right = stated.unwrap_or(top);
        if right != top && differs(&roots[top], &roots[right], path)? {
            wrong.insert(path);
        }
        like.insert(path, right);
        merged.insert(path, instances);
    }
    let mut shown: BTreeSet<&[u8]> = BTreeSet::new();
    for path in wrong {
        let mut end = path.len();
        loop {
            shown.insert(&path[..end]);
            match path[..end].iter().rposition(|b| *b == b'/') {
                Some(slash) => end = slash,
                None => break,
            }
        }
    }
    Ok(shown.into_iter().map(|path| Shown { path: path.to_vec(), like: like[path] }).collect())
}

/// What overlayfs merges at `path`, given what it merges at the parent (all of them directories).
fn instances(roots: &[OwnedFd], within: &[usize], path: &[u8]) -> io::Result<Vec<usize>> {
    let mut found = Vec::new();
    for layer in within {
        let stat = match rustix::fs::statat(&roots[*layer], path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        // A whiteout, or a file that hides what is below it.
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            break;
        }
        found.push(*layer);
        if is_opaque(&open_at(&roots[*layer], path)?)? {
            break;
        }
    }
    Ok(found)
}

fn open_at(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?)
}

fn is_opaque(dir: &OwnedFd) -> io::Result<bool> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value[..]) {
        Ok(n) => Ok(n == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(Errno::RANGE) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn differs(top: &OwnedFd, stated: &OwnedFd, path: &[u8]) -> io::Result<bool> {
    let (top, stated) = (open_at(top, path)?, open_at(stated, path)?);
    let look = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    let (a, b) = (rustix::fs::fstat(&top)?, rustix::fs::fstat(&stated)?);
    Ok(look(&a) != look(&b) || xattrs(&top)? != xattrs(&stated)?)
}

/// A directory's attributes, without overlayfs's own.
fn xattrs(dir: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 64 << 10];
    let n = match rustix::fs::flistxattr(dir, &mut names[..]) {
        Ok(n) => n,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut all = Vec::new();
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty() && !n.starts_with(b"trusted.overlay."))
    {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::fgetxattr(dir, name, &mut value[..])?;
        value.truncate(len);
        all.push((name.to_vec(), value));
    }
    all.sort();
    Ok(all)
}

fn make_like(root: &OwnedFd, fs: &Path, path: &[u8]) -> io::Result<()> {
    let model = open_at(root, path)?;
    let stat = rustix::fs::fstat(&model)?;
    let fs: OwnedFd = File::open(fs)?.into();
    rustix::fs::mkdirat(&fs, path, Mode::from_raw_mode(0o700))?;
    let made = open_at(&fs, path)?;
    rustix::fs::fchown(&made, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for (name, value) in xattrs(&model)? {
        rustix::fs::fsetxattr(&made, name.as_slice(), &value, XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
