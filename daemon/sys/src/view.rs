// SPDX-License-Identifier: Apache-2.0
//! A container's root filesystem with its volumes, put together where nobody else sees it: in a mount namespace that
//! only a descriptor keeps alive. Nothing of it is in the host's mount table, whatever happens to the daemon.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags};

use crate::idmap::OwnerMap;
use crate::in_root::InRoot;
use crate::mapped;

/// Where writes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upper {
    /// To these upper and work directories, which nobody else has mounted.
    Kept {
        /// The upper directory.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// Nowhere: what is made in the view (mount points) goes with it.
    Scratch,
}

/// What is mounted in a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    /// A directory or file of the host.
    Path(PathBuf),
    /// An image's layers, topmost first.
    Layers(Vec<PathBuf>),
}

/// A directory or file, at a path of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Where it comes from.
    pub source: Tree,
    /// The part of that which is meant; it never leads out of it. Empty for all.
    pub subpath: PathBuf,
    /// Path in the view; made where it is missing.
    pub target: PathBuf,
    /// With the mounts beneath it.
    pub recursive: bool,
    /// Not to be written to, nor those beneath it.
    pub read_only: bool,
    /// How its owners are mapped, and whether those of the mounts beneath it are, too.
    pub idmap: Option<(OwnerMap, bool)>,
    /// Ids are mapped, if the view's are.
    pub mapped: bool,
}

/// How a view's ids are those of a container in a user namespace of its own.
#[derive(Debug)]
pub struct Ids {
    /// It maps the ids of layers and of binds that say so.
    pub userns: OwnedFd,
    /// The host's ids of its root, to whom belongs what is made.
    pub owner: (u32, u32),
}

/// A root filesystem that goes away with this.
#[derive(Debug)]
pub struct View {
    /// Its root.
    pub root: InRoot,
    /// The volumes are mounted as long as their namespace is there.
    _namespace: OwnedFd,
}

/// Any directory that every host has and that this code does not look into: the namespace is private.
const PLACE: &str = "/sys";

/// Puts a view together of layers (topmost first) and binds, in their order.
///
/// # Errors
///
/// A layer or a bind's source is missing; a target cannot be made; not permitted.
pub fn assemble(
    lower: Vec<PathBuf>,
    upper: Upper,
    binds: Vec<Bind>,
    read_only: bool,
    ids: Option<Ids>,
) -> io::Result<View> {
    let thread = std::thread::Builder::new()
        .name("view".into())
        .spawn(move || build(&lower, &upper, &binds, read_only, ids.as_ref()))?;
    thread.join().map_err(|_| io::Error::other("the thread that mounts a view panicked"))?
}

fn build(
    lower: &[PathBuf],
    upper: &Upper,
    binds: &[Bind],
    read_only: bool,
    ids: Option<&Ids>,
) -> io::Result<View> {
    mapped::enter_private_namespace()?;
    let place = Path::new(PLACE);
    rustix::mount::mount("view", place, "tmpfs", MountFlags::empty(), Some(c"mode=700"))?;
    let scratch = (place.join("upper"), place.join("work"));
    let root = place.join("root");
    for dir in [&scratch.0, &scratch.1, &root] {
        std::fs::create_dir(dir)?;
    }
    let (upper, work) = match upper {
        Upper::Kept { upper, work } => (upper, work),
        Upper::Scratch => {
            // The root directory of the view is this one.
            let top = lower.first().ok_or(io::ErrorKind::InvalidInput)?;
            let top = std::fs::metadata(top)?;
            std::fs::set_permissions(&scratch.0, top.permissions())?;
            if ids.is_some() {
                std::os::unix::fs::chown(&scratch.0, Some(top.uid()), Some(top.gid()))?;
            }
            (&scratch.0, &scratch.1)
        }
    };
    match ids {
        None => overlay(lower, upper, work, &root)?,
        Some(ids) => {
            // A container's own directory is not mapped: its files are stored with the host's ids.
            let (own, layers) = lower.split_at(usize::from(upper == &scratch.0));
            let mut all = own.to_vec();
            all.extend(mapped::attach_layers(layers, &ids.userns, place)?);
            overlay(&all, upper, work, &root)?;
            // Mount points that are made are the container's.
            mapped::become_owner(ids.owner)?;
        }
    }
    let view = InRoot::open_root(&root)?;
    for (n, bind) in binds.iter().enumerate() {
        let image = place.join(format!("image-{n}"));
        mount_bind(&view, bind, &image, ids).map_err(|error| {
            io::Error::new(error.kind(), format!("{:?} at {}: {error}", bind.source, bind.target.display()))
        })?;
    }
    if read_only {
        rustix::mount::mount_remount(&root, MountFlags::BIND | MountFlags::RDONLY, c"")?;
    }
    let namespace = File::open("/proc/thread-self/ns/mnt")?.into();
    Ok(View { root: view, _namespace: namespace })
}

fn overlay(lower: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> io::Result<()> {
    let mut held = Vec::new();
    let mut short = |path: &Path| -> io::Result<String> {
        // By descriptor: no escaping. Opened here, so that they are of this namespace.
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| io::Error::new(io::Error::from(e).kind(), format!("{}: {e}", path.display())))?;
        let name = fd.as_raw_fd().to_string();
        held.push(fd);
        Ok(name)
    };
    // All options have to fit a page, for 500 layers too. A descriptor's number is the shortest name that a directory can
    // have, in the directory of all descriptors; the working directory is this thread's own by now.
    std::env::set_current_dir("/proc/self/fd")?;
    let layers = lower.iter().map(|path| short(path)).collect::<io::Result<Vec<_>>>()?;
    let (upper, work) = (short(upper)?, short(work)?);
    let options = format!(
        "lowerdir={},upperdir={upper},workdir={work},redirect_dir=off,metacopy=off,index=off",
        layers.join(":")
    );
    let options = std::ffi::CString::new(options).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), Some(options.as_c_str()))?)
}

fn mount_bind(view: &InRoot, bind: &Bind, image: &Path, ids: Option<&Ids>) -> io::Result<()> {
    let ids = ids.filter(|_| bind.mapped);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if bind.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let source = match &bind.source {
        Tree::Path(path) => path.as_path(),
        Tree::Layers(layers) => match (layers.as_slice(), ids) {
            ([only], _) => only.as_path(),
            (layers, Some(ids)) if !layers.is_empty() => {
                std::fs::create_dir(image)?;
                let mount = mapped::overlay_read_only(layers, &ids.userns)?;
                crate::filesystem::attach(&mount, image)?;
                image
            }
            (layers, _) => {
                std::fs::create_dir(image)?;
                if !layers.is_empty() {
                    crate::filesystem::attach(&crate::mount::overlay_read_only(layers)?, image)?;
                }
                image
            }
        },
    };
    let tree = if bind.subpath.as_os_str().is_empty() {
        rustix::mount::open_tree(CWD, source, flags)?
    } else {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let root =
            rustix::fs::open(source, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let part = crate::in_root::openat2(root.as_fd(), &bind.subpath, OFlags::PATH, Mode::empty(), how)?;
        rustix::mount::open_tree(&part, "", flags | OpenTreeFlags::AT_EMPTY_PATH)?
    };
    if let Some((idmap, recursive)) = &bind.idmap {
        idmap.apply(&tree, *recursive)?;
    }
    let ready = matches!(&bind.source, Tree::Layers(layers) if layers.len() > 1);
    if let Some(ids) = ids.filter(|_| !ready) {
        crate::filesystem::map_owners(&tree, false, &ids.userns)?;
    }
    if bind.read_only {
        crate::filesystem::make_read_only(&tree, bind.recursive)?;
    }
    let is_dir = FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode) == FileType::Directory;
    let target = match view.resolve(&bind.target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && is_dir => {
            view.create_dir_all(&bind.target, Mode::from_raw_mode(0o755))?
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = bind.target.parent().ok_or(io::ErrorKind::InvalidInput)?;
            let name = bind.target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            let parent = view.create_dir_all(parent, Mode::from_raw_mode(0o755))?;
            let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, name, new, Mode::from_raw_mode(0o644))?
        }
        other => other?,
    };
    let by_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree.as_fd(), "", target.as_fd(), "", by_fd)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn write(view: &View, path: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        view.root.open(Path::new(path), flags, Mode::from_raw_mode(0o644)).map(drop)
    }

    #[test]
    fn volumes_are_in_the_view_and_not_in_the_hosts_table() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (layer, upper, work, volume, fixed) =
            (at("layer"), at("upper"), at("work"), at("volume"), at("fixed"));
        // A link in the image that would lead out.
        std::os::unix::fs::symlink("/", layer.join("link")).unwrap();
        let bind = |source: &Path, target: &str, read_only| Bind {
            source: Tree::Path(source.to_owned()),
            subpath: PathBuf::new(),
            target: target.into(),
            recursive: true,
            read_only,
            idmap: None,
            mapped: false,
        };
        let binds = vec![bind(&volume, "/link/vol/deep", false), bind(&fixed, "/fixed", true)];
        let kept = Upper::Kept { upper: upper.clone(), work };
        let view = assemble(vec![layer.clone()], kept, binds.clone(), false, None).unwrap();
        write(&view, "/vol/deep/f").unwrap();
        write(&view, "/own").unwrap();
        assert!(write(&view, "/fixed/f").is_err());
        assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains("workdir="));
        drop(view);
        assert!(volume.join("f").exists() && upper.join("own").exists());

        let view = assemble(vec![upper.clone(), layer], Upper::Scratch, binds, true, None).unwrap();
        view.root.resolve(Path::new("/link/own")).unwrap();
        view.root.resolve(Path::new("/vol/deep/f")).unwrap();
        assert!(write(&view, "/new").is_err(), "read-only");
        assert!(!upper.join("new").exists());
    }
}
