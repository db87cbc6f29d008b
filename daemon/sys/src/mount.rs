// SPDX-License-Identifier: Apache-2.0
//! Mounts that never show in the host's mount table, and the few that must.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use rustix::thread::UnshareFlags;

/// A read-only view of stacked layers (topmost first, two or more: overlayfs takes no fewer without an upper one), as a
/// descriptor of its root. It is unmounted when the descriptor is closed.
///
/// # Errors
///
/// A layer is missing; overlayfs is.
pub fn overlay_read_only(lower: &[PathBuf]) -> io::Result<OwnedFd> {
    // Paths go by descriptor: no escaping of `:` and `,`, and a constant length.
    let layers = opened(lower)?;
    let paths: Vec<String> = layers.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for path in &paths {
        match fsconfig_set_string(&context, "lowerdir+", path.as_str()) {
            Ok(()) => {}
            // Layers come in one string there, which fsconfig cuts off at 256 bytes.
            Err(Errno::INVAL) => return overlay_by_mount(lower),
            Err(e) => return Err(e.into()),
        }
    }
    fsconfig_set_flag(&context, "ro")?;
    match fsconfig_create(&context) {
        Ok(()) => {}
        // Before Linux 6.5 overlayfs takes any key and complains only now.
        Err(Errno::INVAL) => return overlay_by_mount(lower),
        Err(e) => return Err(e.into()),
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// The same for older kernels: mounted by a thread in a mount namespace of its own, and cloned.
fn overlay_by_mount(lower: &[PathBuf]) -> io::Result<OwnedFd> {
    let lower = lower.to_vec();
    let thread =
        std::thread::Builder::new().name("overlay".into()).spawn(move || overlay_in_thread(&lower))?;
    thread.join().map_err(|_| io::Error::other("the thread that mounts layers panicked"))?
}

#[allow(unsafe_code)]
fn overlay_in_thread(lower: &[PathBuf]) -> io::Result<OwnedFd> {
    // Any directory that every host has and that this code does not look into: the namespace is private.
    const PLACE: &str = "/sys";
    // SAFETY: this thread runs nothing else and ends after this function; descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // All options have to fit a page. A descriptor's number is the shortest name that a directory can have, in the
    // directory of all descriptors. They are opened here, so that they are of this namespace.
    let layers = opened(lower)?;
    std::env::set_current_dir("/proc/self/fd")?;
    let names: Vec<String> = layers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let options = std::ffi::CString::new(format!("lowerdir={}", names.join(":")))
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("overlay", PLACE, "overlay", flags, options.as_c_str())?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(rustix::mount::open_tree(CWD, PLACE, clone)?)
}

fn opened(lower: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &PathBuf| rustix::fs::open(path, flags, Mode::empty());
    Ok(lower.iter().map(open).collect::<Result<Vec<_>, _>>()?)
}

/// Mounts a tmpfs at a directory (the `/dev/shm` that containers share).
///
/// # Errors
///
/// Not permitted; no such directory.
pub fn tmpfs(at: &Path, bytes: u64, mode: u32) -> io::Result<()> {
    let options = std::ffi::CString::new(format!("mode={mode:o},size={bytes}"))
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("shm", at, "tmpfs", flags, options.as_c_str())?)
}

/// Takes a mount away, now or as soon as nobody uses it; false if there was none.
///
/// # Errors
///
/// Not permitted.
pub fn detach(at: &Path) -> io::Result<bool> {
    match rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::in_root::InRoot;
    use std::io::Read;

    fn read(root: &InRoot, path: &str) -> String {
        let mut text = String::new();
        let fd = root.open(Path::new(path), OFlags::RDONLY, Mode::empty()).unwrap();
        std::fs::File::from(fd).read_to_string(&mut text).unwrap();
        text
    }

    fn check_view(make: impl Fn(&[PathBuf]) -> io::Result<OwnedFd>) {
        let dir = tempfile::tempdir().unwrap();
        let (top, low) = (dir.path().join("a:b,c"), dir.path().join("low"));
        for layer in [&top, &low] {
            std::fs::create_dir(layer).unwrap();
        }
        std::fs::write(top.join("f"), "top").unwrap();
        std::fs::write(low.join("f"), "low").unwrap();
        std::fs::write(low.join("g"), "g").unwrap();
        let view = make(&[top, low]).unwrap();
        let root = InRoot::from_fd(view);
        assert_eq!(read(&root, "f"), "top");
        assert_eq!(read(&root, "g"), "g");
        let refused = root.open(Path::new("n"), OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    }

    #[test]
    fn layers_are_seen_through_a_descriptor() {
        check_view(overlay_read_only);
        assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains("a:b"));
    }

    #[test]
    fn older_kernels_get_the_same_view() {
        check_view(overlay_by_mount);
        let dir = tempfile::tempdir().unwrap();
        let many: Vec<PathBuf> = (0..500)
            .map(|n| {
                let layer = dir.path().join(n.to_string());
                std::fs::create_dir(&layer).unwrap();
                std::fs::write(layer.join("f"), n.to_string()).unwrap();
                layer
            })
            .collect();
        assert_eq!(read(&InRoot::from_fd(overlay_by_mount(&many).unwrap()), "f"), "0");
    }

    #[test]
    fn a_tmpfs_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        tmpfs(dir.path(), 1 << 20, 0o1777).unwrap();
        assert!(detach(dir.path()).unwrap());
        assert!(!detach(dir.path()).unwrap());
    }
}
