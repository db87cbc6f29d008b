// SPDX-License-Identifier: Apache-2.0
//! Walking a layer's directories without ever leaving it.
//!
//! Directories are held open, keyed by their canonical path from the root (no symlink, no `.`, no `..`), so that a file usually
//! costs one `openat` in a directory at hand. A component that is a symlink of the same layer is resolved here, not by
//! the kernel: absolute targets start at the layer's root, `..` stops there.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::entry::{PATH_MAX, join};
use crate::tar::bad;

/// Directories held open at once; several layers unpack side by side.
const HELD_MAX: usize = 128;
/// The kernel's bound.
const SYMLINKS_MAX: u32 = 40;

#[derive(Debug)]
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    held: HashMap<Vec<u8>, Rc<OwnedFd>>,
}

fn open_directory(at: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = if path.is_empty() { b"." } else { path };
    rustix::fs::openat2(at, path, flags, Mode::empty(), resolve)
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root: Rc::new(root), held: HashMap::new() }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    fn hold(&mut self, path: &[u8], fd: OwnedFd) -> Rc<OwnedFd> {
        if self.held.len() >= HELD_MAX {
            self.held.clear();
        }
        let fd = Rc::new(fd);
        self.held.insert(path.to_vec(), Rc::clone(&fd));
        fd
    }

    /// The directory at a canonical path.
    pub(super) fn held(&mut self, canonical: &[u8]) -> io::Result<Rc<OwnedFd>> {
        if canonical.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(fd) = self.held.get(canonical) {
            return Ok(Rc::clone(fd));
        }
        let fd = open_directory(&self.root, canonical)?;
        Ok(self.hold(canonical, fd))
    }

    /// The directory that `path` (clean, from the root) leads to, through symlinks of this layer. With `make`,
    /// missing ones are made, and their canonical paths added to `made`.
    pub(super) fn directory(
        &mut self,
        path: &[u8],
        make: bool,
        made: &mut Vec<Vec<u8>>,
    ) -> io::Result<(Vec<u8>, Rc<OwnedFd>)> {
        if path.is_empty() || self.held.contains_key(path) {
            return Ok((path.to_vec(), self.held(path)?));
        }
        let mut todo: VecDeque<Vec<u8>> = path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut fd = Rc::clone(&self.root);
        let mut symlinks = 0;
        while let Some(part) = todo.pop_front() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.truncate(at.iter().rposition(|b| *b == b'/').unwrap_or(0));
                    fd = self.held(&at)?;
                    continue;
                }
                _ => {}
            }
            let next = join(&at, &part)?;
            if let Some(held) = self.held.get(&next) {
                (at, fd) = (next, Rc::clone(held));
                continue;
            }
            match open_directory(&fd, &part) {
                Ok(opened) => {
                    fd = self.hold(&next, opened);
                    at = next;
                }
                Err(Errno::NOENT) if make => {
                    rustix::fs::mkdirat(&fd, part.as_slice(), Mode::from_raw_mode(0o700))?;
                    let opened = open_directory(&fd, &part)?;
                    fd = self.hold(&next, opened);
                    made.push(next.clone());
                    at = next;
                }
                Err(Errno::LOOP | Errno::NOTDIR) => match node(&fd, &part)? {
                    Node::Symlink(target) => {
                        symlinks += 1;
                        if symlinks > SYMLINKS_MAX || target.len() > PATH_MAX {
                            return Err(Errno::LOOP.into());
                        }
                        if target.first() == Some(&b'/') {
                            at.clear();
                            fd = Rc::clone(&self.root);
                        }
                        for part in target.split(|b| *b == b'/').rev() {
                            todo.push_front(part.to_vec());
                        }
                    }
                    // Gone from below, and now a directory of this layer.
                    Node::Whiteout if make => {
                        rustix::fs::unlinkat(&fd, part.as_slice(), AtFlags::empty())?;
                        todo.push_front(part);
                    }
                    Node::Whiteout => return Err(Errno::NOENT.into()),
                    Node::Other => return Err(bad("a parent of it is not a directory")),
                },
                Err(e) => return Err(e.into()),
            }
        }
        Ok((at, fd))
    }

    /// Makes the directory `name`, keeping it if it is one, replacing it if it is something else. Whether it was made.
    pub(super) fn make_directory(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        canonical: &[u8],
    ) -> io::Result<bool> {
        let mode = Mode::from_raw_mode(0o700);
        match rustix::fs::mkdirat(parent, name, mode) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(false);
        }
        self.remove(parent, name, canonical)?;
        rustix::fs::mkdirat(parent, name, mode)?;
        Ok(true)
    }

    /// Removes `name`, with all that is in it.
    pub(super) fn remove(&mut self, parent: &OwnedFd, name: &[u8], canonical: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(e) => return Err(e.into()),
        }
        self.held.retain(|path, _| {
            !(path.starts_with(canonical) && matches!(path.get(canonical.len()), None | Some(b'/')))
        });
        remove_tree(parent, name)
    }
}

enum Node {
    Symlink(Vec<u8>),
    Whiteout,
    Other,
}

fn node(parent: &OwnedFd, name: &[u8]) -> io::Result<Node> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Node::Symlink(rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes()),
        FileType::CharacterDevice if stat.st_rdev == 0 => Node::Whiteout,
        _ => Node::Other,
    })
}

/// Removes the directory `name` and all below it, however deep, following nothing and holding few descriptors.
pub(crate) fn remove_tree(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    let parent = parent.as_fd();
    // Each directory is opened when it is met and again when its children have gone; a path can be longer than the kernel
    // takes, so directories too deep for one path are first moved up beside the top.
    let top = open_directory(parent, name)?;
    let mut pending: Vec<(Vec<u8>, bool)> = vec![(Vec::new(), false)];
    let mut moved = 0_u64;
    while let Some((path, emptied)) = pending.pop() {
        if emptied {
            if !path.is_empty() {
                rustix::fs::unlinkat(&top, path.as_slice(), AtFlags::REMOVEDIR)?;
            }
            continue;
        }
        let dir = open_directory(&top, &path)?;
        pending.push((path.clone(), true));
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let child = entry.file_name().to_bytes();
            if child == b"." || child == b".." {
                continue;
            }
            if entry.file_type() != FileType::Directory {
                match rustix::fs::unlinkat(&dir, child, AtFlags::empty()) {
                    Ok(()) => continue,
                    // Filesystems that do not tell the type in listings.
                    Err(Errno::ISDIR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(child);
            if below.len() > PATH_MAX - 300 {
                below = loop {
                    moved += 1;
                    let flat = format!(".deep-{moved}").into_bytes();
                    match rustix::fs::renameat_with(
                        &dir,
                        child,
                        &top,
                        flat.as_slice(),
                        rustix::fs::RenameFlags::NOREPLACE,
                    ) {
                        Ok(()) => break flat,
                        Err(Errno::EXIST) => {}
                        Err(e) => return Err(e.into()),
                    }
                };
            }
            pending.push((below, false));
        }
    }
    drop(top);
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}
