// SPDX-License-Identifier: Apache-2.0
//! `ContainerCreate`: from what a client asks to a record on disk.
//!
//! Everything is checked before anything is made. The record is written last, so that after a crash there is a whole
//! container or none.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use berth_api::types::container_create::{ContainerConfig, ContainerCreateBody, HostConfig};
use berth_domain::{ContainerId, Error, EventKind, ImageId, Platform, Result, Status, container};
use berth_runtime::spec;
use berth_volume::{MountPlan, MountPoint, MountType, PlanInput};
use jiff::Timestamp;

use crate::Engine;
use crate::asked::{self, Asked, IpcChoice, NamespaceChoice};
use crate::files::blocking;
use crate::index::NameGuard;
use crate::record::{self, CONFIG_FILE, ConfigRecord, SCHEMA, UNWANTED_FILE};
use crate::seam::ImageFacts;
use crate::snapshot::{Paths, Snapshot, State};
use crate::task::Task;
use crate::{merge, names};

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// What was asked and will not be as asked.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Makes a container.
    ///
    /// # Errors
    ///
    /// The name is taken or breaks the rules; no such image; something asked for cannot be.
    pub async fn container_create(
        self: &Arc<Self>,
        name: Option<String>,
        platform: Option<Platform>,
        body: ContainerCreateBody,
    ) -> Result<Created> {
        if self.closing.is_raised() {
            return Err(Error::unavailable("the engine is shutting down"));
        }
        let engine = Arc::clone(self);
        // Its own task: a client that hangs up does not leave half a container.
        let made = tokio::spawn(async move { engine.create(name, platform.as_ref(), body).await });
        made.await.map_err(|error| Error::internal("creating a container ended early").because(error))?
    }

    async fn create(
        self: &Arc<Self>,
        name: Option<String>,
        platform: Option<&Platform>,
        body: ContainerCreateBody,
    ) -> Result<Created> {
        let ContainerCreateBody { mut config, mut host_config, networking_config: networking } = body;
        let name = name.map(|name| name.strip_prefix('/').map(str::to_owned).unwrap_or(name));
        let name = name.filter(|name| !name.is_empty());
        if let Some(name) = &name {
            container::check_name(name)?;
        }
        let image_name = config.image.clone();
        asked::normalise(&self.config, &config, &mut host_config);
        let mut warnings = spec::normalise(&mut host_config, &self.defaults, &self.backends.facts)?;
        // Once before the image is looked for: a client that gets 404 pulls it.
        crate::devices::check(&self.config, &host_config)?;
        let wanted = asked::derive(&self.config, &config, &host_config, &networking)?;
        wanted.log.check()?;
        self.check_lenders(&wanted)?;
        let id_map = self.id_map_for(&host_config)?;
        self.fix_links(&mut host_config)?;

        let (image, facts) = self.find_image(&image_name, platform, &mut warnings)?;
        let _lease = self.backends.images.lease(&image)?;
        merge::merge(&mut config, &facts.config);
        spec::normalise_config(&mut config)?;
        let derived = asked::derive(&self.config, &config, &host_config, &networking)?;
        let args = spec::args(&config)?;
        let plans = self.plan_mounts(&config, &host_config)?;
        let _mounted = self.lease_images(&plans)?;

        let id = new_id()?;
        if config.hostname.is_empty() {
            config.hostname = default_hostname(&host_config, &id);
        }
        let (name, guard) = self.take_name(name, &id)?;
        let mut now =
            self.snapshot(&id, name, Timestamp::now(), (config, host_config, networking), &derived, args);
        now.id_map = id_map;
        now.image = image;
        now.image_name = image_name;
        now.platform = facts.platform;
        let made = self.make(now.clone(), plans).await?;
        now.mounts = made.into();

        let (task, handle) = Task::new(Arc::clone(self), derived, now, false);
        self.index.insert(handle);
        guard.keep();
        task.event("create", &[]);
        self.own(task);
        Ok(Created { id, warnings })
    }

    /// Containers whose IPC or processes are to be shared must be there. (Whose network is shared, only at start.)
    fn check_lenders(&self, asked: &Asked) -> Result<()> {
        let mut lenders = Vec::new();
        if let IpcChoice::Container(name) = &asked.ipc {
            lenders.push(name);
        }
        if let NamespaceChoice::Container(name) = &asked.pid {
            lenders.push(name);
        }
        for name in lenders {
            self.index.resolve(name).map_err(|error| Error::invalid(error.to_string()))?;
        }
        Ok(())
    }

    fn find_image(
        &self,
        name: &str,
        platform: Option<&Platform>,
        warnings: &mut Vec<String>,
    ) -> Result<(ImageId, ImageFacts)> {
        if name.is_empty() {
            return Err(Error::invalid("no image was named: the field Image is empty"));
        }
        let image = self.backends.images.resolve(name)?;
        let facts = self.backends.images.facts(&image)?;
        match platform {
            Some(wanted) if !wanted.accepts(&facts.platform) => Err(Error::not_found(format!(
                "image with reference {name} was found but does not provide the specified platform ({wanted})"
            ))),
            Some(_) => Ok((image, facts)),
            None => {
                let host = Platform::host();
                if !host.accepts(&facts.platform) {
                    warnings.push(format!(
                        "The requested image's platform ({}) does not match the detected host platform ({host}) and no specific platform was requested",
                        facts.platform
                    ));
                }
                Ok((image, facts))
            }
        }
    }

    fn plan_mounts(&self, config: &ContainerConfig, host: &HostConfig) -> Result<Vec<MountPlan>> {
        let volumes: Vec<String> = config.volumes.iter().flatten().map(|(path, _)| path.clone()).collect();
        let mut from = Vec::new();
        for entry in host.volumes_from.iter().flatten() {
            let (name, mode) = entry.split_once(':').unwrap_or((entry, "rw"));
            if name.is_empty() {
                return Err(Error::invalid(format!("invalid volumes-from specification: {entry:?}")));
            }
            let donor = self.index.resolve(name).map_err(|error| Error::invalid(error.to_string()))?.now();
            from.push((donor.mounts.to_vec(), mode.to_owned()));
        }
        let mut plans = berth_volume::plan(&PlanInput { host, volumes: &volumes, volumes_from: &from })?;
        for point in plans.iter_mut().map(|plan| &mut plan.point) {
            if point.r#type == MountType::Image && point.image.is_empty() {
                point.image = self.backends.images.resolve(&point.name)?.to_string();
                point.source.clone_from(&point.image);
            }
        }
        Ok(plans)
    }

    /// Keeps images that are to be mounted until the container is on record, which keeps them from then on.
    fn lease_images(&self, plans: &[MountPlan]) -> Result<Vec<Box<dyn std::any::Any + Send + Sync>>> {
        let images = plans.iter().filter(|plan| plan.point.r#type == MountType::Image);
        images.map(|plan| self.backends.images.lease(&plan.point.image.parse()?)).collect()
    }

    fn take_name(self: &Arc<Self>, name: Option<String>, id: &ContainerId) -> Result<(String, NameGuard)> {
        if let Some(name) = name {
            let guard = self.index.reserve(&name, id)?;
            return Ok((name, guard));
        }
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| Error::internal(format!("no random bytes: {error}")))?;
        names::candidates(u64::from_le_bytes(seed))
            .take(1000)
            .find_map(|name| self.index.reserve(&name, id).ok().map(|guard| (name, guard)))
            .ok_or_else(|| Error::internal("no free name was found"))
    }

    /// A container that was just made or is being read back.
    pub(crate) fn snapshot(
        &self,
        id: &ContainerId,
        name: String,
        created_at: Timestamp,
        (config, host, networking): (
            ContainerConfig,
            HostConfig,
            berth_api::types::container_create::NetworkingConfig,
        ),
        derived: &Asked,
        args: Vec<String>,
    ) -> Snapshot {
        let paths = Paths::of(&self.config, id);
        if host.links.as_ref().is_some_and(|links| !links.is_empty()) {
            self.has_links.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        let log_path = derived.log.shown_path(&paths, id);
        let mut args = args.into_iter();
        Snapshot {
            id: id.clone(),
            name,
            created_at,
            config: Arc::new(config),
            host_config: Arc::new(host),
            networking: Arc::new(networking),
            image: ImageId::from_sha256([0; 32]),
            image_name: String::new(),
            platform: Platform::host(),
            path: args.next().unwrap_or_default(),
            args: args.collect(),
            state: State {
                status: Status::Created,
                pid: 0,
                exit_code: 0,
                error: String::new(),
                oom_killed: false,
                started_at: None,
                finished_at: None,
                restart_count: 0,
                exits: 0,
                up_since: None,
                removed: false,
                health: None,
            },
            sandbox: None,
            mounts: Arc::new([]),
            log_path,
            cgroup: None,
            id_map: None,
            paths: Arc::new(paths),
        }
    }

    /// Makes the directory, the volumes and at last the record; or nothing.
    async fn make(self: &Arc<Self>, now: Snapshot, plans: Vec<MountPlan>) -> Result<Vec<MountPoint>> {
        let engine = Arc::clone(self);
        blocking(move || {
            let dir = now.paths.dir.clone();
            let made = engine.make_all(now, plans);
            if made.is_err() {
                crate::undo::discard(&dir);
            }
            made
        })
        .await
    }

    fn make_all(&self, mut now: Snapshot, mut plans: Vec<MountPlan>) -> Result<Vec<MountPoint>> {
        make_dir(&now.paths.dir, 0o710)?;
        make_dir(&now.paths.upper, 0o755)?;
        make_dir(&now.paths.work, 0o700)?;
        if let Some(map) = &now.id_map {
            // What the container sees as its root directory.
            let (uid, gid) = map.root();
            std::os::unix::fs::chown(&now.paths.upper, Some(uid), Some(gid))
                .map_err(|error| Error::io("giving away", &now.paths.upper, error))?;
        }
        if let Some(size) = crate::storage::size(&now.host_config)? {
            crate::storage::bound(&now.paths, size)?;
        }
        self.fault("create: directories")?;
        name_volumes(&mut plans)?;
        record::note_unwanted(&now.paths.dir, plans.iter().map(|plan| &plan.point))?;
        let new: Vec<String> = plans
            .iter()
            .filter(|plan| plan.point.r#type == MountType::Volume)
            .filter(|plan| self.backends.volumes.known(&plan.point.name).is_err())
            .map(|plan| plan.point.name.clone())
            .collect();
        let has_volume = plans.iter().any(|plan| plan.point.r#type == MountType::Volume);
        let root = if has_volume { Some(self.image_view(&now.image)?) } else { None };
        let mounts = self.backends.volumes.realise(plans, &now.id, root.as_ref().map(|fd| fd.as_fd()))?;
        now.mounts = mounts.clone().into();
        let recorded = self.fault("create: record").and_then(|()| self.write_config(&now));
        if let Err(error) = recorded {
            if let Err(also) = self.backends.volumes.release_all(&mounts, &now.id, true) {
                tracing::error!(container = %now.id, error = also.chain(), "giving volumes back");
            }
            return Err(error);
        }
        for name in new {
            self.volume_event("create", &name);
        }
        let noted = now.paths.dir.join(UNWANTED_FILE);
        match std::fs::remove_file(&noted) {
            // Beside a record it means nothing.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %noted.display(), %error, "removing a note");
            }
            _ => {}
        }
        Ok(mounts)
    }

    pub(crate) fn volume_event(&self, action: &str, name: &str) {
        let driver = self.backends.volumes.known(name).map_or_else(|_| "local".to_owned(), |v| v.driver);
        let driver = BTreeMap::from([("driver".to_owned(), driver)]);
        self.bus.publish(EventKind::Volume, action, name, driver);
    }

    /// The image's root filesystem, read-only.
    fn image_view(&self, image: &ImageId) -> Result<OwnedFd> {
        let mut lower = self.backends.images.layers(image)?;
        lower.push(self.init_layer());
        berth_sys::mount::overlay_read_only(&lower)
            .map_err(|error| Error::internal("mounting the image's layers").because(error))
    }

    /// Writes the record. Blocking.
    pub(crate) fn write_config(&self, now: &Snapshot) -> Result<()> {
        let record = ConfigRecord {
            schema: SCHEMA,
            id: now.id.to_string(),
            name: now.name.clone(),
            created_at: now.created_at,
            image: now.image.to_string(),
            image_name: now.image_name.clone(),
            platform: now.platform.to_string(),
            config: (*now.config).clone(),
            host_config: (*now.host_config).clone(),
            networking: (*now.networking).clone(),
            mounts: now.mounts.to_vec(),
            id_map: now.id_map.as_deref().map(Into::into),
        };
        let path = now.paths.dir.join(CONFIG_FILE);
        record::write(&path, &record)?;
        if !now.host_config.auto_remove {
            self.syncer.soon(path);
            self.syncer.soon(now.paths.dir.clone());
        }
        Ok(())
    }
}

impl Task {
    /// Writes the record anew.
    pub(crate) async fn record_config(&mut self) -> Result<()> {
        let (engine, now) = (Arc::clone(&self.engine), self.now.clone());
        blocking(move || engine.write_config(&now)).await
    }
}

/// Marks a volume that was made without a name of its own.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// Gives anonymous volumes their names before they are made, so that a note of them can be made first.
fn name_volumes(plans: &mut [MountPlan]) -> Result<()> {
    for plan in plans {
        let point = &mut plan.point;
        if point.r#type == MountType::Volume && point.anonymous && point.name.is_empty() {
            point.name = new_id()?.to_string();
            plan.labels.get_or_insert_default().insert(ANONYMOUS.to_owned(), String::new());
        }
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(mode).create(path).map_err(|error| Error::io("making", path, error))
}

fn new_id() -> Result<ContainerId> {
    let mut bytes = [0; 32];
    loop {
        getrandom::fill(&mut bytes).map_err(|error| Error::internal(format!("no random bytes: {error}")))?;
        let id = ContainerId::from_bytes(bytes);
        // A short id of digits alone could be taken for a number.
        if !id.short().bytes().all(|b| b.is_ascii_digit()) {
            return Ok(id);
        }
    }
}

fn default_hostname(host: &HostConfig, id: &ContainerId) -> String {
    if host.network_mode == "host" || host.uts_mode == "host" {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if !name.is_empty() {
            return name;
        }
    }
    id.short().to_owned()
}
