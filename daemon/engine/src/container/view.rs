// SPDX-License-Identifier: Apache-2.0
//! A container's files as it sees them, for whoever reads or writes them from outside.
//!
//! A running container's root is that of its init process, with all that is mounted in it. A stopped one's is put
//! together anew: its layers, its own files and its volumes. Reading never mounts the container's own
//! directories for writing; writing does, and keeps starts out meanwhile.

use std::io::{self, Read as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_domain::{Error, IdMap, Result, Status};
use berth_sys::in_root::InRoot;
use berth_sys::view::{self, Bind, Ids, Tree, Upper};
use berth_volume::{Held, MountType};
use rustix::fs::{Mode, OFlags};
use tokio::sync::OwnedMutexGuard;

use crate::Engine;
use crate::files::blocking;
use crate::handle::Handle;
use crate::snapshot::Snapshot;

/// What a view is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
    /// Reading the container's own files, without volumes and whether it runs or not.
    OwnFiles,
}

/// A container's files.
#[derive(Debug)]
pub(crate) struct View {
    inner: Inner,
    ids: Option<Arc<IdMap>>,
    /// Its volumes stay mounted.
    _held: Vec<Held>,
    /// No start comes in between.
    _still: Option<OwnedMutexGuard<()>>,
}

#[derive(Debug)]
enum Inner {
    Running(InRoot),
    Stopped(view::View),
}

impl View {
    /// The container's users, if they are not the host's: those that are seen here.
    pub(crate) fn ids(&self) -> Option<Arc<IdMap>> {
        self.ids.clone()
    }

    pub(crate) fn root(&self) -> &InRoot {
        match &self.inner {
            Inner::Running(root) => root,
            Inner::Stopped(view) => &view.root,
        }
    }
}

impl Engine {
    /// Opens a container's files.
    pub(crate) async fn view(self: &Arc<Self>, handle: &Handle, purpose: Purpose) -> Result<View> {
        let mut still = None;
        if purpose == Purpose::Write && !runs(&handle.now()) {
            // A start that is under way is let through first; the state is looked at again after it.
            still = Some(Arc::clone(&handle.still).lock_owned().await);
        }
        let now = handle.now();
        match now.state.status {
            Status::Removing | Status::Dead => {
                return Err(Error::conflict(format!("container {} is being removed", now.id)));
            }
            _ if runs(&now) => still = None,
            _ => {}
        }
        let engine = Arc::clone(self);
        blocking(move || {
            let mut held = Vec::new();
            let inner = if runs(&now) && purpose != Purpose::OwnFiles {
                Inner::Running(running(&now)?)
            } else {
                Inner::Stopped(engine.stopped(&now, purpose, &mut held)?)
            };
            Ok(View { inner, ids: now.id_map.clone(), _held: held, _still: still })
        })
        .await
    }

    fn stopped(&self, now: &Snapshot, purpose: Purpose, held: &mut Vec<Held>) -> Result<view::View> {
        let mut lower = self.backends.images.layers(&now.image)?;
        lower.push(self.init_layer());
        let upper = if purpose == Purpose::Write {
            Upper::Kept { upper: now.paths.upper.clone(), work: now.paths.work.clone() }
        } else {
            lower.insert(0, now.paths.upper.clone());
            Upper::Scratch
        };
        let binds = if purpose == Purpose::OwnFiles { Vec::new() } else { self.binds(now, held)? };
        let read_only = purpose == Purpose::Write && now.host_config.readonly_rootfs;
        let _room = match purpose {
            Purpose::Write => crate::storage::Room::lend(&now.host_config, &now.paths),
            Purpose::Read | Purpose::OwnFiles => None,
        };
        let ids = match now.id_map.as_deref() {
            None => None,
            Some(map) => {
                let userns = self.user_namespace(map)?.try_clone();
                let userns =
                    userns.map_err(|error| Error::internal("copying a descriptor").because(error))?;
                Some(Ids { userns, owner: map.root() })
            }
        };
        view::assemble(lower, upper, binds, read_only, ids)
            .map_err(|error| Error::internal("mounting the container's files").because(error))
    }
}

fn runs(now: &Snapshot) -> bool {
    matches!(now.state.status, Status::Running | Status::Paused)
}

impl Engine {
    /// What is mounted in a container: volumes, binds and images, and the files that the engine writes. Not tmpfs, which is
    /// empty.
    fn binds(&self, now: &Snapshot, held: &mut Vec<Held>) -> Result<Vec<Bind>> {
        let etc = [
            (&now.paths.resolv_conf, "/etc/resolv.conf"),
            (&now.paths.hostname, "/etc/hostname"),
            (&now.paths.hosts, "/etc/hosts"),
        ];
        let mut binds: Vec<Bind> = etc
            .into_iter()
            .filter(|(source, _)| source.exists())
            .map(|(source, target)| Bind {
                source: Tree::Path(source.clone()),
                subpath: PathBuf::new(),
                target: target.into(),
                recursive: false,
                read_only: false,
                idmap: None,
                mapped: true,
            })
            .collect();
        for point in now.mounts.iter() {
            let mut mapped = false;
            let source = match point.r#type {
                MountType::Tmpfs => continue,
                MountType::Bind => Tree::Path(PathBuf::from(&point.source)),
                MountType::Image => {
                    mapped = true;
                    Tree::Layers(self.backends.images.layers(&point.image.parse()?)?)
                }
                MountType::Volume => {
                    let volume = self.backends.volumes.hold(&point.name)?;
                    mapped = point.idmap.is_empty() && self.backends.volumes.is_own_directory(&point.name)?;
                    let path = volume.path().to_owned();
                    held.push(volume);
                    Tree::Path(path)
                }
            };
            // A source that went away is no reason to refuse the rest; at its place is what the container has there itself.
            if matches!(&source, Tree::Path(path) if !path.exists()) {
                continue;
            }
            let asked = point.id_mapped()?;
            // Without a mapping of its own it is that of the container's users.
            mapped |= asked.as_ref().is_some_and(|asked| asked.map.is_none());
            binds.push(Bind {
                source,
                subpath: PathBuf::from(&point.subpath),
                target: PathBuf::from(&point.destination),
                recursive: !point.non_recursive,
                read_only: !point.rw,
                idmap: asked.and_then(|asked| Some((asked.map?, asked.recursive))),
                mapped,
            });
        }
        // What is mounted beneath another mount comes after it.
        binds.sort_by_key(|bind| bind.target.components().count());
        Ok(binds)
    }
}

/// The root of init. Process ids are given again: the process is held by its directory in /proc, and then must be in
/// the container's cgroup, before its root is taken.
fn running(now: &Snapshot) -> Result<InRoot> {
    open_running(now).map_err(|error| {
        Error::conflict(format!("the files of container {} cannot be reached: it is ending", now.id))
            .because(error)
    })
}

fn open_running(now: &Snapshot) -> io::Result<InRoot> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = init_process(now)?;
    Ok(InRoot::from_fd(rustix::fs::openat(&process, "root", directory, Mode::empty())?))
}

/// The directory in /proc of a container's init, of no other process.
pub(crate) fn init_process(now: &Snapshot) -> io::Result<OwnedFd> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = rustix::fs::open(format!("/proc/{}", now.state.pid), directory, Mode::empty())?;
    let read = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut cgroups = String::new();
    std::fs::File::from(rustix::fs::openat(&process, "cgroup", read, Mode::empty())?)
        .read_to_string(&mut cgroups)?;
    if !cgroups.contains(now.id.as_str()) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its init process has gone"));
    }
    Ok(process)
}

/// Opens what an `O_PATH` descriptor of a regular file is of. Nothing is looked up, so nothing can come in between.
pub(crate) fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())?)
}

/// Opens a name in a directory, whatever it is, without following or touching it.
pub(crate) fn pin(directory: BorrowedFd<'_>, name: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name.as_ref(), flags, Mode::empty())?)
}
