// SPDX-License-Identifier: Apache-2.0
//! The log: to stderr, as text or JSON, at a level that SIGHUP can change.

use std::io::IsTerminal as _;

use berth_domain::{Error, Result};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};

/// Changes the level.
#[derive(Debug, Clone)]
pub(crate) struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// From now on.
    pub(crate) fn set(&self, level: LogLevel) {
        if let Err(error) = self.0.reload(EnvFilter::new(level.directive())) {
            tracing::error!(%error, "the log level stays as it is");
        }
    }
}

/// Begins to log.
///
/// # Errors
///
/// It began before.
pub(crate) fn start(level: LogLevel, format: LogFormat) -> Result<Level> {
    let (filter, handle) = reload::Layer::new(EnvFilter::new(level.directive()));
    let lines = match format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        LogFormat::Text => {
            let text = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
            // The journal has times of its own.
            if std::env::var_os("JOURNAL_STREAM").is_some() {
                text.without_time().boxed()
            } else {
                text.boxed()
            }
        }
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|e| Error::internal("starting the log").because(e))?;
    Ok(Level(handle))
}
