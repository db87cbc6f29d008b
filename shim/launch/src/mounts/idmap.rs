// SPDX-License-Identifier: Apache-2.0
//! Mounts that show their files' owners as others (`idmap` and `ridmap` of the OCI runtime spec).
//!
//! The kernel takes such a mapping as a user namespace. One is made for a moment: whoever lives in it does nothing but
//! wait to be ended, and the descriptor of the namespace, then the mount, keep it there.

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::{LinuxIdMapping, Mount, Spec};
use rustix::fs::{Mode, OFlags, open};

use super::options::{IdMapped, Options};
use crate::error::{Context as _, Error, Result};
use crate::launch::Child;
use crate::namespaces::{map_lines, write_maps};
use crate::sys::{self, ATTR_IDMAP, CLONE_NEWUSER, Cloned, MountAttr, mount_setattr};

/// What a mount's owners are mapped by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IdMap {
    uids: String,
    gids: String,
    /// For the mounts beneath it too.
    recursive: bool,
}

impl IdMap {
    /// The mapping that a mount asks for: its own, or else the container's.
    pub(super) fn of(mount: &Mount, options: &Options, spec: &Spec) -> Result<Option<Self>> {
        let name = mount.destination().display().to_string();
        let own = (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
        let asked = match (options.id_mapped, own) {
            (None, (None, None)) => return Ok(None),
            // The mappings alone ask for it as well.
            (None, _) => IdMapped::Alone,
            (Some(asked), _) => asked,
        };
        let is_some = |list: Option<&[LinuxIdMapping]>| list.is_some_and(|list| !list.is_empty());
        let (uids, gids) = if is_some(own.0) || is_some(own.1) {
            own
        } else {
            let linux = spec.linux().as_ref();
            let (uids, gids) = (
                linux.and_then(|linux| linux.uid_mappings().as_deref()),
                linux.and_then(|linux| linux.gid_mappings().as_deref()),
            );
            if !is_some(uids) || !is_some(gids) {
                return Err(Error::invalid(format!(
                    "mount {name}: idmap without mappings takes those of the container's user namespace, and it has none: name them"
                )));
            }
            (uids, gids)
        };
        Ok(Some(Self {
            uids: map_lines(uids, &format!("mount {name}: uidMappings"))?,
            gids: map_lines(gids, &format!("mount {name}: gidMappings"))?,
            recursive: asked == IdMapped::Recursive,
        }))
    }

    /// Maps the owners of a detached mount.
    pub(super) fn apply(&self, mount: &OwnedFd) -> Result<()> {
        let namespace = self.namespace()?;
        let attr = MountAttr {
            set: ATTR_IDMAP,
            userns_fd: u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&namespace)).unwrap_or_default(),
            ..MountAttr::default()
        };
        mount_setattr(mount, self.recursive, &attr).map_err(|errno| {
            Error::invalid(format!(
                "idmap: {errno} (the file system, or one mounted beneath it, cannot map owners, or does already)"
            ))
        })
    }

    fn namespace(&self) -> Result<OwnedFd> {
        let (here, there) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .context(|| "a pipe to a user namespace")?;
        let child = match sys::clone3(CLONE_NEWUSER, None).context(|| "a user namespace for idmap")? {
            Cloned::Child => {
                drop(there);
                // Until its parent ends it, or ends.
                rustix::io::read(here.as_fd(), &mut [0; 1]).ok();
                sys::exit(0)
            }
            Cloned::Parent { pid, pidfd } => (pid, Child::new(pid, pidfd)),
        };
        write_maps(child.0, &self.uids, &self.gids)?;
        let path = format!("/proc/{}/ns/user", child.0);
        open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(|| path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::options::parse;
    use super::*;

    fn of(mount: &str, linux: &str) -> Result<Option<IdMap>> {
        let spec: Spec =
            serde_json::from_str(&format!(r#"{{"ociVersion":"1.2.0","linux":{linux}}}"#)).unwrap();
        let text = format!(r#"{{"destination":"/m","type":"bind","source":"/srv"{mount}}}"#);
        let mount: Mount = serde_json::from_str(&text).unwrap();
        let options = parse("/m", mount.options().as_deref().unwrap_or_default()).unwrap();
        IdMap::of(&mount, &options, &spec)
    }

    #[test]
    fn a_mounts_own_mapping_goes_before_the_containers() {
        let both = |host: u32| {
            format!(
                r#""uidMappings":[{{"containerID":0,"hostID":{host},"size":1}}],"gidMappings":[{{"containerID":0,"hostID":{host},"size":2}}]"#
            )
        };
        let container = format!("{{{}}}", both(100));
        assert_eq!(of("", &container).unwrap(), None);
        let own = of(&format!(r#","options":["ridmap"],{}"#, both(7)), &container).unwrap().unwrap();
        assert_eq!((&*own.uids, &*own.gids, own.recursive), ("0 7 1\n", "0 7 2\n", true));
        let theirs = of(r#","options":["idmap"]"#, &container).unwrap().unwrap();
        assert_eq!((&*theirs.uids, theirs.recursive), ("0 100 1\n", false));
        assert!(!of(&format!(",{}", both(7)), "{}").unwrap().unwrap().recursive, "the mappings alone");
        let error = of(r#","options":["idmap"]"#, "{}").unwrap_err();
        assert!(error.message.contains("has none"), "{}", error.message);
    }
}
