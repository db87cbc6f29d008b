// SPDX-License-Identifier: Apache-2.0
//! An image's layers and a container's upper directory as one detached overlay mount.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::fs::complaint;
use crate::error::{Error, Result};
use crate::launch::Overlay;

/// The kernel's `OVL_MAX_STACK`.
const MAX_LAYERS: usize = 500;
/// fsconfig takes strings up to 256 bytes, its NUL included.
const MAX_STRING: usize = 255;

pub(crate) fn make_overlay(overlay: &Overlay) -> Result<OwnedFd> {
    if overlay.lower.is_empty() || overlay.lower.len() > MAX_LAYERS {
        return Err(Error::invalid(format!(
            "an overlay has 1 to {MAX_LAYERS} lower directories, not {}",
            overlay.lower.len()
        )));
    }
    clear_volatile_mark(overlay)?;
    match try_overlay(overlay, Layers::OneByOne) {
        // `lowerdir+` is there since Linux 6.5; older kernels do not know the key.
        Err(Failure { errno: Errno::INVAL, at_layers: true, .. }) => {
            try_overlay(overlay, Layers::Joined).map_err(|failure| failure.into_error(overlay))
        }
        other => other.map_err(|failure| failure.into_error(overlay)),
    }
}

/// A volatile mount leaves a mark in its work directory, and the kernel refuses the next mount because
/// an upper directory that was never synced may be damaged after a power cut. A container that is started
/// again on the same boot is not; one that wants syncing must not build on such a directory.
fn clear_volatile_mark(overlay: &Overlay) -> Result<()> {
    let mark = overlay.work.join("work/incompat/volatile");
    let found = match overlay.volatile {
        true => match rustix::fs::unlink(mark.join("dirty")) {
            Ok(()) | Err(Errno::NOENT) => rustix::fs::rmdir(&mark),
            Err(errno) => Err(errno),
        },
        false => rustix::fs::stat(&mark).map(drop),
    };
    match found {
        Err(Errno::NOENT) => Ok(()),
        Ok(()) if overlay.volatile => Ok(()),
        Ok(()) => Err(Error::internal(format!(
            "{}: this container's changes were written without syncing and cannot be trusted",
            overlay.upper.display()
        ))),
        Err(errno) => Err(Error::internal(format!("{}: {errno}", mark.display()))),
    }
}

/// How the lower directories are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layers {
    OneByOne,
    Joined,
}

struct Failure {
    errno: Errno,
    at_layers: bool,
    text: String,
}

impl Failure {
    fn into_error(self, overlay: &Overlay) -> Error {
        Error::internal(format!(
            "overlay of {} layers on {}: {}",
            overlay.lower.len(),
            overlay.upper.display(),
            self.text
        ))
    }
}

/// A path short enough for fsconfig: itself, or one through an open descriptor (kept by the caller).
fn short(path: &Path, keep: &mut Vec<OwnedFd>, always: bool) -> std::result::Result<CString, Errno> {
    let bytes = path.as_os_str().as_bytes();
    if !always && bytes.len() <= MAX_STRING {
        return CString::new(bytes).map_err(|_| Errno::INVAL);
    }
    let fd = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let through = format!("/proc/self/fd/{}", fd.as_raw_fd());
    keep.push(fd);
    CString::new(through).map_err(|_| Errno::INVAL)
}

fn try_overlay(overlay: &Overlay, layers: Layers) -> std::result::Result<OwnedFd, Failure> {
    let plain = |errno: Errno| Failure { errno, at_layers: false, text: errno.to_string() };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(plain)?;
    let said = |errno: Errno| Failure { errno, at_layers: false, text: complaint(&context, errno) };
    let mut keep = Vec::new();
    let set = |key: &str, value: &CString| fsconfig_set_string(&context, key, value.as_c_str());

    match layers {
        Layers::OneByOne => {
            for layer in &overlay.lower {
                let path = short(layer, &mut keep, false).map_err(|errno| Failure {
                    text: format!("{}: {errno}", layer.display()),
                    ..plain(errno)
                })?;
                set("lowerdir+", &path).map_err(|errno| Failure {
                    errno,
                    at_layers: true,
                    text: format!("{}: {}", layer.display(), complaint(&context, errno)),
                })?;
            }
        }
        Layers::Joined => {
            let mut joined = Vec::new();
            for layer in &overlay.lower {
                let path = short(layer, &mut keep, true).map_err(|errno| Failure {
                    text: format!("{}: {errno}", layer.display()),
                    ..plain(errno)
                })?;
                if !joined.is_empty() {
                    joined.push(b':');
                }
                joined.extend_from_slice(path.as_bytes());
            }
            if joined.len() > MAX_STRING {
                return Err(Failure {
                    errno: Errno::TOOBIG,
                    at_layers: false,
                    text: "more layers than a kernel before 6.5 takes in one option".to_owned(),
                });
            }
            let joined = CString::new(joined).map_err(|_| plain(Errno::INVAL))?;
            set("lowerdir", &joined).map_err(said)?;
        }
    }
    let upper = short(&overlay.upper, &mut keep, false).map_err(plain)?;
    let work = short(&overlay.work, &mut keep, false).map_err(plain)?;
    let configure = || {
        set("upperdir", &upper)?;
        set("workdir", &work)?;
        // As Docker's overlay2 has them: layers must stay readable one by one, so nothing may be stored
        // in the upper directory that only makes sense together with these lower ones.
        fsconfig_set_string(&context, "redirect_dir", "off")?;
        fsconfig_set_string(&context, "metacopy", "off")?;
        fsconfig_set_string(&context, "index", "off")?;
        if overlay.volatile {
            fsconfig_set_flag(&context, "volatile")?;
        }
        fsconfig_set_string(&context, "source", "overlay")?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    configure().map_err(said)
}
