// SPDX-License-Identifier: Apache-2.0
//! Volumes that have to be mounted before there is anything in them: those of `type`, `o` and `device`, and those of other
//! drivers. Mounted for their first user and unmounted after the last: a container that runs, a copy from an image, a view of
//! a stopped container's files.
//!
//! A mount of ours is on `_data` in the host's mount table, so that it outlives the daemon and is the same for all
//! containers. A new daemon finds it there ([`Volumes::claim`], [`Volumes::adopt`]), and unmounts what nobody uses any more
//! ([`Volumes::unmount_unused`]). Who uses what is not written down.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use berth_domain::{ContainerId, Error, Result};
use berth_sys::filesystem::is_mounted;

use crate::disk::LOCAL;
use crate::mounts::{MountPoint, MountType};
use crate::store::{Volume, Volumes};
use crate::{options, plugin};

/// Who uses a volume's content now, and where it is.
#[derive(Debug, Default)]
pub(crate) struct Mounted {
    users: BTreeSet<String>,
    at: Option<PathBuf>,
}

/// A volume in use until this is dropped.
#[derive(Debug)]
pub struct Held {
    volumes: Volumes,
    name: String,
    user: String,
    path: PathBuf,
}

impl Held {
    /// Its content.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.volumes.unmount(&self.name, &self.user);
    }
}

/// Whether somebody uses it, or its driver is being asked for it: this never waits for a driver.
pub(crate) fn is_used(mounted: &Mutex<Mounted>) -> bool {
    match mounted.try_lock() {
        Ok(mounted) => !mounted.users.is_empty(),
        Err(TryLockError::Poisoned(mounted)) => !mounted.into_inner().users.is_empty(),
        Err(TryLockError::WouldBlock) => true,
    }
}

fn lock(mounted: &Mutex<Mounted>) -> MutexGuard<'_, Mounted> {
    mounted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The mount that a local volume's options ask for.
fn own_mount(volume: &Volume) -> Result<Option<berth_sys::filesystem::Filesystem>> {
    if volume.driver != LOCAL {
        return Ok(None);
    }
    Ok(options::parse(volume.options.as_ref())?.mount)
}

impl Volume {
    /// Whether it is a plain directory, always there.
    pub(crate) fn is_plain(&self) -> Result<bool> {
        Ok(self.driver == LOCAL && own_mount(self)?.is_none())
    }
}

impl Volumes {
    /// Where a volume's content is, for as long as [`Self::unmount`] is not called for the same user. Idempotent.
    ///
    /// # Errors
    ///
    /// No such volume; what it is of cannot be mounted.
    pub fn mount(&self, name: &str, user: &str) -> Result<PathBuf> {
        let (volume, mounted) = self.mountable(name)?;
        if volume.is_plain()? {
            return Ok(volume.mountpoint);
        }
        let mut mounted = lock(&mounted);
        let at = match (&mounted.at, mounted.users.is_empty()) {
            // A driver counts its users itself.
            (Some(at), false) if volume.driver == LOCAL || mounted.users.contains(user) => at.clone(),
            _ => mount(&volume, user)?,
        };
        mounted.users.insert(user.to_owned());
        mounted.at = Some(at.clone());
        Ok(at)
    }

    /// The same until the answer is dropped.
    ///
    /// # Errors
    ///
    /// As [`Self::mount`].
    pub fn hold(&self, name: &str) -> Result<Held> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let user = format!("berthd-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let path = self.mount(name, &user)?;
        Ok(Held { volumes: self.clone(), name: name.to_owned(), user, path })
    }

    /// Undoes [`Self::mount`]. What goes wrong is logged: the user has gone whatever happens.
    pub fn unmount(&self, name: &str, user: &str) {
        let Ok((volume, mounted)) = self.mountable(name) else { return };
        let mut mounted = lock(&mounted);
        if !mounted.users.remove(user) {
            return;
        }
        let last = mounted.users.is_empty();
        if last {
            mounted.at = None;
        }
        let done = if volume.driver != LOCAL {
            plugin::find(&volume.driver).and_then(|plugin| plugin.unmount(name, user))
        } else if last {
            unmount(&volume)
        } else {
            Ok(())
        };
        if let Err(error) = done {
            tracing::error!(volume = name, error = error.chain(), "unmounting a volume");
        }
    }

    /// A container that ran before this daemon still uses its volumes. Waits for nobody: where they are is found out by
    /// [`Self::adopt`].
    pub fn claim(&self, points: &[MountPoint], container: &ContainerId) {
        for point in volumes_of(points) {
            let claimed = self.mountable(&point.name).and_then(|(volume, mounted)| {
                if !volume.is_plain()? {
                    // Whatever its driver says now, it is to hear of it when this user has gone.
                    lock(&mounted).users.insert(container.as_str().to_owned());
                }
                Ok(())
            });
            if let Err(error) = claimed {
                tracing::error!(volume = point.name, error = error.chain(), "taking a mounted volume back");
            }
        }
    }

    /// Finds out where a claimed volume's content is, of which a driver or a file system may have to be asked: it may take
    /// as long as these take. Nothing to do when its user has gone meanwhile.
    pub fn adopt(&self, name: &str, container: &ContainerId) {
        let adopted = self.mountable(name).and_then(|(volume, mounted)| {
            if volume.is_plain()? {
                return Ok(());
            }
            if volume.driver != LOCAL {
                // Asked without the lock, which the container's end needs.
                let at = plugin::find(&volume.driver)?.path(&volume.name)?;
                let mut mounted = lock(&mounted);
                if !mounted.users.is_empty() {
                    mounted.at.get_or_insert(at);
                }
                return Ok(());
            }
            let mut mounted = lock(&mounted);
            if mounted.users.contains(container.as_str()) {
                let there = is_mounted(&volume.mountpoint).unwrap_or(false);
                // Gone with the last daemon's own mount namespace; others who start get it again.
                let at = if there { volume.mountpoint.clone() } else { mount(&volume, container.as_str())? };
                mounted.at = Some(at);
            }
            Ok(())
        });
        if let Err(error) = adopted {
            tracing::error!(volume = name, error = error.chain(), "taking a mounted volume back");
        }
    }

    /// Unmounts local volumes that nobody uses: what an earlier daemon mounted for containers that have ended.
    pub fn unmount_unused(&self) {
        for volume in self.list() {
            let Ok((volume, mounted)) = self.mountable(&volume.name) else { continue };
            if volume.driver != LOCAL || volume.is_plain().unwrap_or(true) {
                continue;
            }
            let mounted = lock(&mounted);
            if mounted.users.is_empty() {
                if let Err(error) = unmount(&volume) {
                    tracing::warn!(volume = volume.name, error = error.chain(), "unmounting a volume");
                }
            }
        }
    }

    /// A container's run has ended.
    pub fn unmount_all(&self, points: &[MountPoint], container: &ContainerId) {
        for point in volumes_of(points) {
            self.unmount(&point.name, container.as_str());
        }
    }
}

fn volumes_of(points: &[MountPoint]) -> impl Iterator<Item = &MountPoint> {
    points.iter().filter(|point| point.r#type == MountType::Volume)
}

fn mount(volume: &Volume, user: &str) -> Result<PathBuf> {
    if volume.driver != LOCAL {
        return plugin::find(&volume.driver)?.mount(&volume.name, user);
    }
    if let Some(filesystem) = own_mount(volume)? {
        if !is_mounted(&volume.mountpoint).map_err(|e| Error::io("stat", &volume.mountpoint, e))? {
            options::resolved(filesystem)?.mount(&volume.mountpoint).map_err(|error| {
                let device = volume.options.iter().flatten().find(|(k, _)| *k == "device");
                let device = device.map_or("", |(_, device)| device.as_str());
                Error::internal(format!(
                    "error while mounting volume '{}': failed to mount local volume: mount {device}:{}",
                    volume.mountpoint.display(),
                    volume.mountpoint.display()
                ))
                .because(error)
            })?;
        }
    }
    Ok(volume.mountpoint.clone())
}

/// Takes what is mounted on a local volume's directory away, all of it.
pub(crate) fn unmount(volume: &Volume) -> Result<()> {
    let failed = |error| Error::io("unmounting", &volume.mountpoint, error);
    while is_mounted(&volume.mountpoint).or_else(missing).map_err(failed)? {
        if !berth_sys::mount::detach(&volume.mountpoint).map_err(failed)? {
            break;
        }
    }
    Ok(())
}

fn missing(error: std::io::Error) -> std::io::Result<bool> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(false) } else { Err(error) }
}

/// The part of an entry that mounting needs.
pub(crate) type Mountable = (Volume, Arc<Mutex<Mounted>>);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_tmpfs_is_there_from_the_first_user_to_the_last_and_across_daemons() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volumes");
        let volumes = Volumes::open(&root).unwrap();
        let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,mode=750")];
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let volume = volumes.create(Some("ram"), "local", Some(options), None).unwrap();
        assert!(!is_mounted(&volume.mountpoint).unwrap());
        let first = volumes.mount("ram", "one").unwrap();
        assert_eq!(first, volume.mountpoint);
        std::fs::write(first.join("f"), "x").unwrap();
        let second = volumes.hold("ram").unwrap();
        volumes.unmount("ram", "one");
        volumes.unmount("ram", "never");
        assert!(second.path().join("f").exists());
        assert!(volumes.remove("ram", false).is_err(), "it is in use");

        let later = Volumes::open(&root).unwrap();
        let mut point = MountPoint::new(MountType::Volume, "/x".into());
        point.name = "ram".into();
        let container = ContainerId::from_bytes([1; 32]);
        later.claim(std::slice::from_ref(&point), &container);
        later.adopt(&point.name, &container);
        later.unmount_unused();
        assert!(volume.mountpoint.join("f").exists());
        later.unmount_all(&[point], &container);
        assert!(!is_mounted(&volume.mountpoint).unwrap());
        drop(second);
        later.remove("ram", false).unwrap();
        assert!(!root.join("ram").exists());
    }

    #[test]
    fn what_cannot_be_mounted_says_why_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(&dir.path().join("volumes")).unwrap();
        let options = [("type", "nosuchfs"), ("device", "x")];
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        volumes.create(Some("none"), "local", Some(options), None).unwrap();
        let error = volumes.mount("none", "one").unwrap_err().chain();
        assert!(error.contains("nosuchfs") && error.contains("failed to mount local volume"), "{error}");
        volumes.remove("none", false).unwrap();
    }
}
