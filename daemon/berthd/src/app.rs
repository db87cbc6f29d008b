// SPDX-License-Identifier: Apache-2.0
//! What handlers work with.

use std::sync::{Arc, PoisonError, RwLock};

use berth_engine::Engine;
use berth_image::Images;
use berth_registry::Client;
use berth_volume::Volumes;
use tokio::sync::watch;

use crate::config::Settings;
use crate::host::HostInfo;
use crate::wire::lines::Lines;

/// The engine and everything beside it that requests need.
#[derive(Debug)]
pub(crate) struct App {
    /// Containers.
    pub(crate) engine: Arc<Engine>,
    /// Images.
    pub(crate) images: Images,
    /// Volumes.
    pub(crate) volumes: Volumes,
    /// Registries, for what is asked of them directly.
    pub(crate) registry: Client,
    /// What the host is.
    pub(crate) host: HostInfo,
    /// This engine's id, kept in the data root.
    pub(crate) id: String,
    /// Turns true when the daemon is to end.
    pub(crate) shutdown: watch::Receiver<bool>,
    /// Lines of the list of containers, as text.
    pub(crate) lines: Lines,
    settings: RwLock<Arc<Settings>>,
}

/// The parts of an [`App`].
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) engine: Arc<Engine>,
    pub(crate) images: Images,
    pub(crate) volumes: Volumes,
    pub(crate) registry: Client,
    pub(crate) host: HostInfo,
    pub(crate) id: String,
}

impl App {
    pub(crate) fn new(parts: Parts, settings: Settings, shutdown: watch::Receiver<bool>) -> Self {
        let Parts { engine, images, volumes, registry, host, id } = parts;
        let settings = RwLock::new(Arc::new(settings));
        let lines = Lines::default();
        Self { engine, images, volumes, registry, host, id, shutdown, lines, settings }
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts others in force.
    pub(crate) fn set_settings(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}
