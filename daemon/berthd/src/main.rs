// SPDX-License-Identifier: Apache-2.0
//! `berthd`: the daemon. It owns images and networks, supervises containers through their shims, and speaks the
//! Docker Engine API.
//!
//! | module | what it knows |
//! |---|---|
//! | `config` | flags and `daemon.json` |
//! | `daemon`, `bootstrap` | beginning, reloading, ending; the one place where all is wired |
//! | `listen`, `notify`, `pidfile`, `logging` | sockets, the service manager, the lock, the log |
//! | `router` | the way of a request; which operation is whose |
//! | `http` | bodies, errors, takeover of connections, progress streams |
//! | `versions` | what older versions of the API look like |
//! | `api` | handlers, one file a noun |
//! | `wire` | from the engine's words to the API's |
//! | `host` | what the host is |
#![forbid(unsafe_code)]

mod api;
mod app;
mod bootstrap;
mod config;
mod daemon;
mod host;
mod http;
mod listen;
mod logging;
mod notify;
mod pidfile;
mod remap;
mod router;
mod versions;
mod wire;

use std::process::ExitCode;

use berth_domain::{Error, Result};
use clap::Parser as _;

use crate::config::{Action, Flags};

/// Berth's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The newest API version, as headers and answers have it.
pub(crate) const API_VERSION: &str = "1.55";
/// Clients take the operating system out of a header of this shape (`Docker/<version> (<os>)`) and some compare the
/// version with the Docker release whose behaviour they need: it is the one that ours is measured against.
pub(crate) const SERVER_HEADER: &str = "Docker/28.5.2 (linux)";
/// Set by the release build.
pub(crate) const GIT_COMMIT: &str = match option_env!("BERTH_GIT_COMMIT") {
    Some(commit) => commit,
    None => "",
};
/// Set by the release build, RFC 3339.
pub(crate) const BUILD_TIME: &str = match option_env!("BERTH_BUILD_TIME") {
    Some(time) => time,
    None => "",
};
/// Clients show it; there is no Go here.
pub(crate) const GO_VERSION: &str = concat!("none (Rust ", env!("CARGO_PKG_RUST_VERSION"), ")");

/// Request handling needs few threads; more would only cost memory.
const MAX_WORKERS: usize = 8;

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Before the log begins there is only stderr; afterwards it does no harm.
            eprintln!("berthd: {}", e.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<()> {
    let action = flags.action();
    if action == Action::Version {
        println!(
            "Berth version {VERSION}, build {}",
            if GIT_COMMIT.is_empty() { "unknown" } else { GIT_COMMIT }
        );
        return Ok(());
    }
    let given = flags.given()?;
    let loaded = config::load(&given, flags.config_file())?;
    if action == Action::Validate {
        println!("configuration OK");
        return Ok(());
    }
    let level = logging::start(loaded.settings.log_level, loaded.settings.log_format)?;
    if action == Action::RebuildIndex {
        return bootstrap::rebuild_index(&loaded.settings);
    }
    let workers =
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get).clamp(2, MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("berthd")
        .enable_all()
        .build()
        .map_err(|e| Error::internal("starting the runtime").because(e))?;
    let sources =
        daemon::Sources { flags: given, file: flags.config_file().map(std::path::Path::to_path_buf), level };
    let ended = runtime.block_on(daemon::run(loaded, sources));
    // What still blocks on the disk must not hold up the end.
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_newest_version() {
        assert_eq!(API_VERSION, berth_api::ApiVersion::NEWEST.to_string());
    }
}
