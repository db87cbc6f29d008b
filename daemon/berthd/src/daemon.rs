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

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use berth_domain::{Error, EventKind, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use crate::app::App;
use crate::config::{self, Given, Loaded, LogLevel, Settings};
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
    tracing::info!(version = crate::VERSION, api = crate::API_VERSION, "ready");
    notify("READY=1");

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

/// Reads the file again and puts in force what can be changed while running: the log's level, labels, the shutdown
/// timeout, mirrors, insecure registries, how many downloads and uploads there are at once and how often they are tried.
///
/// All else needs a restart of the daemon, `runtimes` and `default-runtime` among it: what a container asked for
/// is checked against them at its create and at the daemon's start, and both go by the same ones.
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
        max_concurrent_uploads: loaded.settings.max_concurrent_uploads,
        max_download_attempts: loaded.settings.max_download_attempts,
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
        max_concurrent_uploads = after.max_concurrent_uploads,
        max_download_attempts = after.max_download_attempts,
        "configuration reloaded"
    );
    let attributes = in_force(&after, &app.host.name);
    app.set_settings(after);
    app.engine.publish(EventKind::Daemon, "reload", &app.id, attributes);
}

/// What a reload's event says of the settings, in the reference's names and forms. Those that need a restart are as
/// they were.
fn in_force(settings: &Settings, host: &str) -> BTreeMap<String, String> {
    let list = |values: &[String]| serde_json::Value::from(values).to_string();
    let runtimes = settings.runtimes.iter().map(|(name, r)| format!("{name}:{}", r.path.display()));
    let attributes = [
        ("name", host.to_owned()),
        ("debug", matches!(settings.log_level, LogLevel::Debug | LogLevel::Trace).to_string()),
        ("labels", list(&settings.labels)),
        ("insecure-registries", list(&settings.insecure_registries)),
        ("registry-mirrors", list(&settings.registry_mirrors)),
        ("max-concurrent-downloads", settings.max_concurrent_downloads.to_string()),
        ("max-concurrent-uploads", settings.max_concurrent_uploads.to_string()),
        ("max-download-attempts", settings.max_download_attempts.to_string()),
        ("shutdown-timeout", settings.shutdown_timeout.as_secs().to_string()),
        ("runtimes", runtimes.collect::<Vec<_>>().join(" ")),
        ("default-runtime", settings.default_runtime.clone()),
        ("default-shm-size", settings.default_shm_size.to_string()),
        ("default-ipc-mode", settings.default_ipc_mode.clone()),
        ("default-cgroupns-mode", settings.default_cgroupns_mode.clone()),
        // Containers run on whatever becomes of the daemon.
        ("live-restore", true.to_string()),
    ];
    attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn an_event_says_what_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("daemon.json");
        std::fs::write(
            &file,
            r#"{"debug":true,"labels":["a=1"],"max-download-attempts":2,"runtimes":{"x":{"path":"/bin/true"}}}"#,
        )
        .unwrap();
        let settings = config::load(&Given::default(), Some(&file)).unwrap().settings;
        let said = in_force(&settings, "here");
        for (key, value) in [
            ("name", "here"),
            ("debug", "true"),
            ("labels", "[\"a=1\"]"),
            ("registry-mirrors", "[]"),
            ("max-download-attempts", "2"),
            ("live-restore", "true"),
        ] {
            assert_eq!(said.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(said["runtimes"].contains("x:/bin/true"), "{}", said["runtimes"]);
    }
}
