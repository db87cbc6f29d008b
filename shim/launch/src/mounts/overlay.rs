// SPDX-License-Identifier: Apache-2.0
//! An image's layers and a container's upper directory as one detached overlay mount.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::fs::{complaint, make_fs};
use super::options::Options;
use crate::channel::{Channel, Message};
use crate::child;
use crate::error::{Context as _, Error, Result};
use crate::launch::{Child, Overlay};
use crate::sys::{self, ATTR_IDMAP, Cloned, MS_PRIVATE, MountAttr, mount_setattr, mount_setattr_at};

/// The kernel's `OVL_MAX_STACK`.
const MAX_LAYERS: usize = 500;
/// fsconfig takes strings up to 256 bytes, its NUL included.
const MAX_STRING: usize = 255;

/// `userns` is the one that maps the ids of [`Overlay::mapped`] lower directories.
pub(crate) fn make_overlay(overlay: &Overlay, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    if overlay.lower.is_empty() || overlay.lower.len() > MAX_LAYERS {
        return Err(Error::invalid(format!(
            "an overlay has 1 to {MAX_LAYERS} lower directories, not {}",
            overlay.lower.len()
        )));
    }
    clear_volatile_mark(overlay)?;
    if overlay.mapped {
        let userns = userns.ok_or_else(|| Error::invalid("mapped layers need a user namespace"))?;
        return in_child(|| mount_mapped_in_child(overlay, userns));
    }
    let layers = if takes_layers_one_by_one() { Layers::OneByOne } else { Layers::Joined };
    match try_overlay(overlay, layers) {
        Err(Failure { errno: Errno::TOOBIG, .. }) => overlay_by_mount(overlay),
        other => other.map_err(|failure| failure.into_error(overlay)),
    }
}

/// `lowerdir+` is there since Linux 6.5. Kernels before it take any key and complain, in no words, only
/// when the mount is made; so the version has to be asked.
fn takes_layers_one_by_one() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 5)
}

/// Through mount(2), whose options may fill a page where a string of fsconfig ends at 255 bytes: for
/// kernels before 6.5 and more layers than that holds. It can only mount at a path, so a child does it in
/// a mount namespace of its own, and hands over a detached copy.
pub(crate) fn overlay_by_mount(overlay: &Overlay) -> Result<OwnedFd> {
    in_child(|| mount_in_child(overlay))
}

/// Makes a mount in a child with a mount namespace of its own, private.
fn in_child(make: impl FnOnce() -> Result<OwnedFd>) -> Result<OwnedFd> {
    let (here, there) = Channel::pair()?;
    let (pid, pidfd) = match sys::clone3(sys::CLONE_NEWNS, None).context(|| "clone3")? {
        Cloned::Child => {
            drop(here);
            child::run(&there, || match be_private().and_then(|()| make()) {
                Ok(mount) => match there.send(&Message::Go(vec![mount])) {
                    Ok(()) => sys::exit(0),
                    Err(error) => error,
                },
                Err(error) => error,
            })
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    let _reaped_when_dropped = Child::new(pid, pidfd);
    drop(there);
    match here.receive()? {
        Some(Message::Go(mut fds)) if fds.len() == 1 => {
            fds.pop().ok_or_else(|| Error::internal("the overlay got lost"))
        }
        Some(Message::Failed(error)) => Err(error),
        _ => Err(Error::internal("the process that mounts an overlay died")),
    }
}

fn be_private() -> Result<()> {
    let private = MountAttr { propagation: MS_PRIVATE, ..MountAttr::default() };
    mount_setattr_at(CWD, c"/", 0, true, &private).context(|| "make the mounts private")
}

/// Lower directories become mounts with mapped ids. Kernels before 6.15 take only attached ones for an
/// overlay, hence the child; nobody else sees its namespace, and the overlay keeps what it was made of.
fn mount_mapped_in_child(overlay: &Overlay, userns: BorrowedFd<'_>) -> Result<OwnedFd> {
    let place = Path::new("/sys");
    let (upper, work) = (hold(&overlay.upper)?, hold(&overlay.work)?);
    let trees = overlay.lower.iter().map(|path| mapped_tree(path, userns)).collect::<Result<Vec<_>>>()?;
    let data = vec![("mode".to_owned(), Some("0700".to_owned()))];
    let options = Options { data, ..Options::default() };
    let stage = make_fs("tmpfs", None, &options)?;
    move_mount(&stage, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context(|| "attach a place for the layers")?;
    let mut lower = Vec::with_capacity(trees.len());
    for (n, tree) in trees.iter().enumerate() {
        let path = place.join(n.to_string());
        let what = || path.display().to_string();
        mkdirat(CWD, &path, Mode::RWXU).context(what)?;
        move_mount(tree, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context(what)?;
        lower.push(path);
    }
    // By descriptor: they may lie below what the stage covers.
    let through = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let overlay =
        Overlay { lower, upper: through(&upper), work: through(&work), mapped: false, ..overlay.clone() };
    let layers = if takes_layers_one_by_one() { Layers::OneByOne } else { Layers::Joined };
    match try_overlay(&overlay, layers) {
        Err(Failure { errno: Errno::TOOBIG, .. }) => mount_in_child(&overlay),
        other => other.map_err(|failure| failure.into_error(&overlay)),
    }
}

fn hold(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).context(|| path.display().to_string())
}

fn mapped_tree(path: &Path, userns: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags).context(|| path.display().to_string())?;
    let userns_fd = u64::try_from(userns.as_raw_fd()).unwrap_or_default();
    let attr = MountAttr { set: ATTR_IDMAP, userns_fd, ..MountAttr::default() };
    mount_setattr(&tree, false, &attr).map_err(|errno| {
        Error::invalid(format!(
            "{}: its file system cannot be mounted with mapped ids ({errno})",
            path.display()
        ))
    })?;
    Ok(tree)
}

fn mount_in_child(overlay: &Overlay) -> Result<OwnedFd> {
    const PAGE: usize = 4096;
    // All options have to fit a page. A descriptor's number is the shortest name that a directory can have, in the
    // directory of all descriptors: so this process, which does nothing else, goes there.
    rustix::process::chdir("/proc/self/fd").context(|| "/proc/self/fd")?;
    let mut keep = Vec::new();
    let mut through = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty()).context(|| path.display().to_string())?;
        let name = fd.as_raw_fd().to_string();
        keep.push(fd);
        Ok::<_, Error>(name)
    };
    let lower = overlay.lower.iter().map(|path| through(path)).collect::<Result<Vec<_>>>()?.join(":");
    let (upper, work) = (through(&overlay.upper)?, through(&overlay.work)?);
    let volatile = if overlay.volatile { ",volatile" } else { "" };
    let options = format!(
        "lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off,metacopy=off,index=off{volatile}"
    );
    if options.len() >= PAGE {
        return Err(Error::invalid(format!(
            "{} layers are more than this kernel takes (6.5 takes {MAX_LAYERS})",
            overlay.lower.len()
        )));
    }
    let options = CString::new(options).map_err(|_| Error::internal("NUL in overlay options"))?;
    // Any directory will do: nobody else sees this namespace.
    rustix::mount::mount("overlay", "/sys", "overlay", MountFlags::empty(), Some(options.as_c_str()))
        .context(|| format!("overlay of {} layers on {}", overlay.lower.len(), overlay.upper.display()))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, "/sys", flags).context(|| "detach the overlay")
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
    let plain = |errno: Errno| Failure { errno, text: errno.to_string() };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(plain)?;
    let said = |errno: Errno| Failure { errno, text: complaint(&context, errno) };
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
                return Err(Failure { errno: Errno::TOOBIG, text: "too many layers".to_owned() });
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn layers_joined_for_old_kernels() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let lower = vec![at("one"), at("two")];
        std::fs::write(lower[0].join("f"), "top").unwrap();
        std::fs::write(lower[1].join("f"), "bottom").unwrap();
        let overlay = Overlay { lower, upper: at("upper"), work: at("work"), volatile: true, mapped: false };
        let mount =
            try_overlay(&overlay, Layers::Joined).unwrap_or_else(|failure| panic!("{}", failure.text));
        let fd = rustix::fs::openat(&mount, "f", OFlags::RDONLY, Mode::empty()).unwrap();
        let mut text = [0; 8];
        let length = rustix::io::read(&fd, &mut text).unwrap();
        assert_eq!(&text[..length], b"top");
        let many = Overlay { lower: vec![overlay.upper.clone(); 20], ..overlay };
        assert_eq!(
            try_overlay(&many, Layers::Joined).map_err(|failure| failure.errno).unwrap_err(),
            Errno::TOOBIG
        );
    }
}
