// SPDX-License-Identifier: Apache-2.0
//! The daemon's life.
//!
//! ```text
//! lock the data root ─▶ pid file ─▶ listen ─▶ open (recover) ─▶ READY=1 ─▶ serve
//!                                                                   │ SIGHUP: read the file again
//!                                                                   │ SIGTERM, SIGINT:
//!        exit ◀─ sockets and pid file away ◀─ engine at rest ◀─ STOPPING=1, streams end, requests finish
//! ```
//!
//! Containers know nothing of all this: their shims run on.

use std::path::PathBuf;
use std::sync::Arc;

use berth_domain::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use crate::app::App;
use crate::config::{self, Given, Loaded, Settings};
use crate::http::serve;
use crate::listen::Listener;
use crate::logging::Level;
use crate::notify::{notify, reloading};
use crate::pidfile::{PidFile, RootLock};
use crate::{bootstrap, listen};

/// What reloading needs.
#[derive(Debug)]
pub(crate) struct Sources {
    /// What the flags said.
    pub(crate) flags: Given,
    /// The file that was named.
    pub(crate) file: Option<PathBuf>,
    /// The log's level.
    pub(crate) level: Level,
}

/// Runs until told to end.
///
/// # Errors
///
/// It could not begin.
pub(crate) async fn run(loaded: Loaded, sources: Sources) -> Result<()> {
    let settings = loaded.settings;
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    let handler = |kind| signal(kind).map_err(|e| Error::internal("handling signals").because(e));
    let mut ends = Ends { term: handler(SignalKind::terminate())?, int: handler(SignalKind::interrupt())? };
    let mut hangups = handler(SignalKind::hangup())?;

    bootstrap::make_roots(&settings)?;
    let _lock = RootLock::take(&settings.data_root)?;
    let _pid_file = settings.pidfile.as_deref().map(PidFile::write).transpose()?;
    let files = bootstrap::OpenFiles::now();
    if let Err(error) = berth_sys::limits::raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let listeners = listen::open(&settings.hosts, &settings.group)?;
    let (stop, stopping) = watch::channel(false);

    let opened = tokio::select! {
        opened = bootstrap::open(settings, files, stopping.clone()) => opened,
        () = ends.next() => {
            tracing::info!("told to end before all was open");
            listeners.iter().for_each(Listener::remove);
            return Ok(());
        }
    };
    let app = match opened {
        Ok(app) => Arc::new(app),
        Err(e) => {
            listeners.iter().for_each(Listener::remove);
            return Err(e);
        }
    };

    let mut serving = JoinSet::new();
    for listener in listeners {
        tracing::info!(%listener, "listening");
        serving.spawn(serve::listen(Arc::clone(&app), listener, stopping.clone()).in_current_span());
    }
    notify("READY=1");
    tracing::info!(version = crate::VERSION, api = crate::API_VERSION, "ready");

    loop {
        tokio::select! {
            () = ends.next() => break,
            _ = hangups.recv() => {
                reloading();
                reload(&app, &sources);
                notify("READY=1");
            }
        }
    }

    tracing::info!("ending: containers run on");
    notify("STOPPING=1");
    stop.send_replace(true);
    let patience = app.settings().shutdown_timeout;
    let all = async { while serving.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!(seconds = patience.as_secs(), "requests were still under way");
    }
    app.engine.shutdown().await;
    tracing::info!("ended");
    Ok(())
}

struct Ends {
    term: Signal,
    int: Signal,
}

impl Ends {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Reads the file again and puts in force what can be changed while running.
fn reload(app: &App, sources: &Sources) {
    let loaded = match config::load(&sources.flags, sources.file.as_deref()) {
        Ok(loaded) => loaded,
        Err(e) => {
            tracing::error!(error = %e.chain(), "the configuration was not reloaded");
            return;
        }
    };
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    let before = app.settings();
    let after = Settings {
        log_level: loaded.settings.log_level,
        labels: loaded.settings.labels.clone(),
        shutdown_timeout: loaded.settings.shutdown_timeout,
        registry_mirrors: loaded.settings.registry_mirrors.clone(),
        insecure_registries: loaded.settings.insecure_registries.clone(),
        max_concurrent_downloads: loaded.settings.max_concurrent_downloads,
        ..(*before).clone()
    };
    if let Err(e) = bootstrap::reload(app, &after) {
        tracing::error!(error = %e.chain(), "the configuration was not reloaded");
        return;
    }
    if after != loaded.settings {
        tracing::warn!("some changes of the configuration need a restart of the daemon");
    }
    sources.level.set(after.log_level);
    tracing::info!(
        log_level = ?after.log_level,
        labels = ?after.labels,
        registry_mirrors = ?after.registry_mirrors,
        insecure_registries = ?after.insecure_registries,
        max_concurrent_downloads = after.max_concurrent_downloads,
        "configuration reloaded"
    );
    app.set_settings(after);
}
