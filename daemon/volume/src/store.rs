// SPDX-License-Identifier: Apache-2.0
//! The volumes of the `local` driver, and who uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use berth_domain::{ContainerId, Error, Result};

use crate::disk::{self, LOCAL};
use crate::mounted::{self, Mountable, Mounted};
use crate::options;
use crate::plugin;
use crate::usage::Measured;

/// Marks a volume that was made without a name.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// `local`, or the name of a plugin.
    pub driver: String,
    /// Its content on the host; empty for a plugin's while it is not known.
    pub mountpoint: PathBuf,
    /// RFC 3339, UTC; empty where a plugin does not tell.
    pub created_at: String,
    /// `local` or `global`.
    pub scope: String,
    /// What a plugin says of it.
    pub status: Option<BTreeMap<String, serde_json::Value>>,
    /// The project that a quota is on.
    pub project: Option<u32>,
    /// Labels; `None` where the client sent none.
    pub labels: Option<BTreeMap<String, String>>,
    /// Driver options, likewise.
    pub options: Option<BTreeMap<String, String>>,
}

impl Volume {
    /// Whether it was made without a name.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.labels.as_ref().is_some_and(|labels| labels.contains_key(ANONYMOUS))
    }
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names.
    pub removed: Vec<String>,
    /// Bytes.
    pub reclaimed: u64,
}

#[derive(Debug)]
enum Slot {
    /// Somebody makes or removes it: its name is taken, and whoever wants it waits.
    Changing,
    There(Box<Entry>),
}

#[derive(Debug)]
struct Entry {
    volume: Volume,
    users: BTreeSet<ContainerId>,
    /// Held while the volume is filled.
    filling: Arc<Mutex<()>>,
    mounted: Arc<Mutex<Mounted>>,
    measured: Option<Measured>,
}

impl Entry {
    fn new(volume: Volume) -> Self {
        Self {
            volume,
            users: BTreeSet::new(),
            filling: Arc::default(),
            mounted: Arc::default(),
            measured: None,
        }
    }
}

type Slots = BTreeMap<String, Slot>;

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    recursive_read_only: bool,
    slots: Mutex<Slots>,
    changed: Condvar,
}

/// All volumes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Volumes(Arc<Inner>);

/// A volume just asked for.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) volume: Volume,
    /// It was not there before.
    pub(crate) new: bool,
}

impl Volumes {
    /// Opens `root` (`<data-root>/volumes`), making it if needed, and reads what is there.
    ///
    /// # Errors
    ///
    /// The directory cannot be made or read. A single damaged volume is logged and left alone.
    pub fn open(root: &Path) -> Result<Self> {
        disk::open_root(root)?;
        let slots = disk::read_all(root)?
            .into_iter()
            .map(|volume| (volume.name.clone(), Slot::There(Box::new(Entry::new(volume)))))
            .collect();
        Ok(Self(Arc::new(Inner {
            root: root.to_owned(),
            recursive_read_only: recursive_read_only(),
            slots: Mutex::new(slots),
            changed: Condvar::new(),
        })))
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slots once nobody changes the volume of this name.
    fn settled(&self, name: &str) -> MutexGuard<'_, Slots> {
        let changing = |slots: &mut Slots| matches!(slots.get(name), Some(Slot::Changing));
        self.0.changed.wait_while(self.slots(), changing).unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, name: &str, slot: Option<Slot>) {
        let mut slots = self.slots();
        match slot {
            Some(slot) => drop(slots.insert(name.to_owned(), slot)),
            None => drop(slots.remove(name)),
        }
        self.0.changed.notify_all();
    }

    pub(crate) fn recursive_read_only(&self) -> bool {
        self.0.recursive_read_only
    }

    /// Makes a volume, or answers the one of that name. Durable when it returns. `None` or an empty name makes an anonymous one.
    ///
    /// # Errors
    ///
    /// A name or option that cannot be; a driver that does not exist.
    pub fn create(
        &self,
        name: Option<&str>,
        driver: &str,
        options: Option<BTreeMap<String, String>>,
        labels: Option<BTreeMap<String, String>>,
    ) -> Result<Volume> {
        self.create_for(None, name, driver, options, labels).map(|created| created.volume)
    }

    /// The same, acquired in one step: a prune cannot come in between.
    pub(crate) fn create_for(
        &self,
        user: Option<&ContainerId>,
        name: Option<&str>,
        driver: &str,
        options: Option<BTreeMap<String, String>>,
        labels: Option<BTreeMap<String, String>>,
    ) -> Result<Created> {
        let local = driver.is_empty() || driver == LOCAL;
        let asked = if local { options::parse(options.as_ref())? } else { options::Local::default() };
        let (name, labels) = match name.filter(|n| !n.is_empty()) {
            Some(name) => {
                check_name(name)?;
                (name.to_owned(), labels)
            }
            None => {
                let mut labels = labels.unwrap_or_default();
                labels.insert(ANONYMOUS.to_owned(), String::new());
                (random_name()?, Some(labels))
            }
        };
        let mut slots = self.settled(&name);
        if let Some(Slot::There(entry)) = slots.get_mut(&name) {
            if !driver.is_empty() && driver != entry.volume.driver {
                return Err(Error::conflict(format!(
                    "a volume named {name} already exists with the {} driver",
                    entry.volume.driver
                )));
            }
            entry.users.extend(user.cloned());
            return Ok(Created { volume: entry.volume.clone(), new: false });
        }
        slots.insert(name.clone(), Slot::Changing);
        drop(slots);
        let options = options.filter(|o| !o.is_empty());
        let made = if local {
            disk::make(&self.0.root, &name, &disk::Made { driver: LOCAL, size: asked.size }, options, labels)
        } else {
            self.make_elsewhere(&name, driver, options, labels)
        };
        match made {
            Ok(volume) => {
                let mut entry = Entry::new(volume.clone());
                entry.users.extend(user.cloned());
                self.settle(&name, Some(Slot::There(Box::new(entry))));
                tracing::info!(volume = name, "volume created");
                Ok(Created { volume, new: true })
            }
            Err(error) => {
                self.settle(&name, None);
                Err(error.context(format!("create {name}")))
            }
        }
    }

    /// A volume of another driver: it is told first, and then it is written down what was asked.
    fn make_elsewhere(
        &self,
        name: &str,
        driver: &str,
        options: Option<BTreeMap<String, String>>,
        labels: Option<BTreeMap<String, String>>,
    ) -> Result<Volume> {
        let plugin = plugin::find(driver)?;
        plugin.create(name, options.as_ref())?;
        let made = disk::make(&self.0.root, name, &disk::Made { driver, size: None }, options, labels);
        if made.is_err() {
            if let Err(error) = plugin.remove(name) {
                tracing::error!(volume = name, error = error.chain(), "undoing a plugin's volume");
            }
        }
        made
    }

    /// All volumes that were made here, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Volume> {
        let slots = self.slots();
        let there = slots.values().filter_map(|slot| match slot {
            Slot::There(entry) => Some(entry.volume.clone()),
            Slot::Changing => None,
        });
        there.collect()
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Entry) -> T) -> Result<T> {
        match self.settled(name).get_mut(name) {
            Some(Slot::There(entry)) => Ok(act(entry)),
            _ => Err(Error::not_found(format!("get {name}: no such volume"))),
        }
    }

    /// One volume that was made here.
    ///
    /// # Errors
    ///
    /// `get NAME: no such volume`.
    pub fn known(&self, name: &str) -> Result<Volume> {
        self.with(name, |entry| entry.volume.clone())
    }

    pub(crate) fn mountable(&self, name: &str) -> Result<Mountable> {
        self.with(name, |entry| (entry.volume.clone(), Arc::clone(&entry.mounted)))
    }

    pub(crate) fn measured(&self, name: &str) -> Result<Option<Measured>> {
        self.with(name, |entry| entry.measured)
    }

    pub(crate) fn set_measured(&self, name: &str, measured: Measured) {
        // It may have gone meanwhile.
        self.with(name, |entry| entry.measured = Some(measured)).ok();
    }

    pub(crate) fn filling(&self, name: &str) -> Result<Arc<Mutex<()>>> {
        self.with(name, |entry| entry.filling.clone())
    }

    /// Removes a volume; `force` makes a missing one no error. Durable when it returns.
    ///
    /// # Errors
    ///
    /// Conflict while in use; not found.
    pub fn remove(&self, name: &str, force: bool) -> Result<()> {
        let mut slots = self.settled(name);
        match slots.get(name) {
            Some(Slot::There(entry)) if entry.users.is_empty() && !mounted::is_used(&entry.mounted) => {}
            Some(Slot::There(entry)) if entry.users.is_empty() => {
                return Err(Error::conflict(format!(
                    "remove {name}: volume is in use: its content is being read or written"
                )));
            }
            Some(Slot::There(entry)) => {
                let users: Vec<&str> = entry.users.iter().map(ContainerId::as_str).collect();
                return Err(Error::conflict(format!(
                    "remove {name}: volume is in use - [{}]",
                    users.join(", ")
                )));
            }
            _ if force => return Ok(()),
            _ => return Err(Error::not_found(format!("get {name}: no such volume"))),
        }
        let kept = slots.insert(name.to_owned(), Slot::Changing);
        drop(slots);
        let volume = match &kept {
            Some(Slot::There(entry)) => Some(&entry.volume),
            _ => None,
        };
        let removed = volume.map_or(Ok(()), |volume| let_go(volume, force));
        match removed.and_then(|()| disk::take_away(&self.0.root, name)) {
            Ok(away) => {
                if let Some(volume) = volume {
                    disk::lift_quota(&self.0.root, volume);
                }
                self.settle(name, None);
                tracing::info!(volume = name, "volume removed");
                disk::discard(&away);
                Ok(())
            }
            Err(error) => {
                self.settle(name, kept);
                Err(error.context(format!("remove {name}")))
            }
        }
    }

    /// Removes unused volumes that `select` chooses: only anonymous ones unless `all`.
    ///
    /// # Errors
    ///
    /// The first failure; what was removed stays removed.
    pub fn prune(&self, all: bool, select: impl Fn(&Volume) -> bool) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for volume in self.list() {
            let wanted = (all || volume.is_anonymous()) && volume.driver == LOCAL && select(&volume);
            if !wanted || !self.users(&volume.name).is_empty() {
                continue;
            }
            // What is elsewhere is not freed by removing the volume.
            let size = self.size(&volume.name).ok().flatten().unwrap_or(0);
            match self.remove(&volume.name, false) {
                Ok(()) => {
                    pruned.removed.push(volume.name);
                    pruned.reclaimed = pruned.reclaimed.saturating_add(size);
                }
                // A container or another prune was faster.
                Err(e)
                    if matches!(
                        e.meaning(),
                        berth_domain::Meaning::Conflict | berth_domain::Meaning::NotFound
                    ) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(pruned)
    }

    /// Marks a volume as used by a container. Idempotent; kept in memory: the engine repeats it at start from its records.
    ///
    /// # Errors
    ///
    /// No such volume.
    pub fn acquire(&self, name: &str, container: &ContainerId) -> Result<()> {
        self.with(name, |entry| {
            entry.users.insert(container.clone());
        })
    }

    /// Undoes [`Self::acquire`].
    pub fn release(&self, name: &str, container: &ContainerId) {
        if let Some(Slot::There(entry)) = self.settled(name).get_mut(name) {
            entry.users.remove(container);
        }
    }

    /// Containers that use a volume.
    #[must_use]
    pub fn users(&self, name: &str) -> Vec<ContainerId> {
        match self.slots().get(name) {
            Some(Slot::There(entry)) => entry.users.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }
}

/// Docker's rule: two characters at least, of a set that makes one plain directory name.
fn check_name(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(Error::invalid(
            "volume name is too short, names should be at least two alphanumeric characters",
        ));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let good = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && name.bytes().all(plain);
    if !good {
        return Err(Error::invalid(format!(
            "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    if name.len() > 255 {
        return Err(Error::invalid(format!(
            "volume name is too long: {} characters, at most 255",
            name.len()
        )));
    }
    Ok(())
}

/// Has whoever keeps a volume's content let go of it.
fn let_go(volume: &Volume, force: bool) -> Result<()> {
    if volume.driver == LOCAL {
        return mounted::unmount(volume);
    }
    match plugin::find(&volume.driver).and_then(|plugin| plugin.remove(&volume.name)) {
        // Its driver has gone, or does not know it: there is nothing left but what is written down here.
        Err(error) if force => {
            tracing::warn!(
                volume = volume.name,
                error = error.chain(),
                "a volume's driver did not remove it"
            );
            Ok(())
        }
        other => other,
    }
}

fn random_name() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal(format!("no random bytes: {e}")))?;
    Ok(ContainerId::from_bytes(bytes).as_str().to_owned())
}

/// Since Linux 5.12 a mount and all beneath it can be made read-only in one step.
fn recursive_read_only() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or_default());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    version >= (5, 12)
}

#[cfg(test)]
mod tests;
