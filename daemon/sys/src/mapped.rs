// SPDX-License-Identifier: Apache-2.0
//! Files of containers in user namespaces of their own: mounts with mapped ids, and making files as a container's root.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::thread::UnshareFlags;

/// Any directory that every host has and that this code does not look into: the namespace is private.
const PLACE: &str = "/sys";

/// A directory of the host as a detached mount with mapped ids.
///
/// # Errors
///
/// There is no such directory; `EINVAL`: its filesystem, or the kernel, cannot.
pub fn tree(path: &Path, userns: &OwnedFd) -> io::Result<OwnedFd> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags).map_err(|e| named(e.into()))?;
    crate::filesystem::map_owners(&tree, false, userns).map_err(named)?;
    Ok(tree)
}

/// Attaches layers with mapped ids beneath a directory: before Linux 6.15 an overlay takes only attached ones. To be
/// called in a mount namespace that nobody else sees. Answers where they are.
///
/// # Errors
///
/// As [`tree`].
pub(crate) fn attach_layers(lower: &[PathBuf], userns: &OwnedFd, place: &Path) -> io::Result<Vec<PathBuf>> {
    let mut attached = Vec::with_capacity(lower.len());
    for (n, layer) in lower.iter().enumerate() {
        let at = place.join(format!("layer-{n}"));
        std::fs::create_dir(&at)?;
        let tree = tree(layer, userns)?;
        rustix::mount::move_mount(&tree, "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        attached.push(at);
    }
    Ok(attached)
}

/// As [`crate::mount::overlay_read_only`], of layers with mapped ids.
///
/// # Errors
///
/// As [`tree`]; overlayfs refuses.
pub fn overlay_read_only(lower: &[PathBuf], userns: &OwnedFd) -> io::Result<OwnedFd> {
    std::thread::scope(|scope| {
        let body = || {
            enter_private_namespace()?;
            let place = Path::new(PLACE);
            // What lies beneath the place must be reached before it is covered.
            let held: Vec<OwnedFd> = lower.iter().map(|path| hold(path)).collect::<io::Result<_>>()?;
            let lower: Vec<PathBuf> = held.iter().map(through).collect();
            rustix::mount::mount("layers", place, "tmpfs", MountFlags::empty(), Some(c"mode=700"))?;
            crate::mount::overlay_read_only(&attach_layers(&lower, userns, place)?)
        };
        let thread = std::thread::Builder::new().name("layers".into()).spawn_scoped(scope, body)?;
        thread.join().map_err(|_| io::Error::other("the thread that mounts layers panicked"))?
    })
}

fn hold(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| io::Error::new(io::Error::from(e).kind(), format!("{}: {e}", path.display())))
}

fn through(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Gives the calling thread, which must end afterwards, mounts of its own.
#[allow(unsafe_code)]
pub(crate) fn enter_private_namespace() -> io::Result<()> {
    // SAFETY: callers' threads run nothing else and end after it; descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// Does something as somebody to whom new files belong, without losing any right: on a mount with mapped ids the host's
/// root, having no id there, cannot make files at all.
///
/// # Errors
///
/// No thread can be made.
pub fn as_owner<T: Send>(owner: (u32, u32), work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let body = || become_owner(owner).map(|()| work());
        let thread = std::thread::Builder::new().name("files".into()).spawn_scoped(scope, body)?;
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// For the calling thread alone, which must end afterwards.
#[allow(unsafe_code)]
pub(crate) fn become_owner((uid, gid): (u32, u32)) -> io::Result<()> {
    // SAFETY: no memory is involved; both are of this thread alone.
    let set = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        // They answer what was before, whether or not they could.
        (libc::syscall(libc::SYS_setfsuid, -1), libc::syscall(libc::SYS_setfsgid, -1))
    };
    if set != (uid.into(), gid.into()) {
        return Err(io::Error::other(format!("cannot make files as {uid}:{gid}")));
    }
    // The kernel takes the rights over files from a thread that makes them as somebody else than root.
    let mut capabilities = rustix::thread::capabilities(None)?;
    capabilities.effective = capabilities.permitted;
    Ok(rustix::thread::set_capabilities(None, capabilities)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn files_are_made_as_somebody_with_all_rights() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        let made = closed.join("made");
        as_owner((100_000, 100_001), || std::fs::write(&made, "x")).unwrap().unwrap();
        let found = std::fs::metadata(&made).unwrap();
        assert_eq!((found.uid(), found.gid()), (100_000, 100_001));
        let own = dir.path().join("own");
        std::fs::write(&own, "x").unwrap();
        assert_eq!(std::fs::metadata(own).unwrap().uid(), 0, "other threads are what they were");
    }
}
