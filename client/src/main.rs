// SPDX-License-Identifier: Apache-2.0
//! `berth`: the docker-compatible command line.
//!
//! Thin on purpose: flags become one request's body, answers become tables. How long `berth run` takes
//! beside the container itself is a figure that users feel, so only the verb that is asked for is set
//! up, on a single-threaded runtime, with connections made by hand.
#![forbid(unsafe_code)]
#![allow(missing_docs)] // A program: nothing of it is anybody's library.

mod api;
mod cli;
mod config;
mod fail;
mod flags;
mod pull;
mod show;
mod term;
mod verbs;

use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build().map_or_else(
        |e| Err(fail::Fail::io("starting", &e)),
        |runtime| {
            let outcome = runtime.block_on(cli::dispatch(std::env::args_os().skip(1).collect()));
            // Threads that still read standard input must not be waited for.
            runtime.shutdown_background();
            outcome
        },
    );
    term::raw::restore();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(fail) => {
            if !fail.message.is_empty() {
                eprintln!("{fail}");
            }
            ExitCode::from(fail.code)
        }
    }
}
