// SPDX-License-Identifier: Apache-2.0
//! What `run`, `start` and `attach` share: being there while a container runs.
//!
//! The order on the wire is attach, wait, start: the container must not say a word before somebody
//! listens, nor end before somebody counts.

use std::io;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;

use crate::api::{Api, Ask};
use crate::fail::{Fail, Result};
use crate::term::pump::{Ended, Pump, Streams};
use crate::term::raw::Raw;
use crate::term::signals::{Caught, follow_size};
use crate::term::{is_terminal, size};

/// What of a container's inspection matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Inspected {
    pub(super) id: String,
    pub(super) config: Config,
    pub(super) state: State,
    pub(super) host_config: HostConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    pub(super) tty: bool,
    pub(super) open_stdin: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    pub(super) running: bool,
    pub(super) paused: bool,
    pub(super) restarting: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HostConfig {
    pub(super) auto_remove: bool,
}

impl Inspected {
    pub(super) async fn get(api: &Api, name: &str) -> Result<Self> {
        api.decoded(Ask::get(format!("/containers/{name}/json"))).await
    }
}

/// How a container is attended.
#[derive(Debug, Clone)]
pub(super) struct Attendance {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
    /// Signals that we get go on to the container.
    pub(super) sig_proxy: bool,
    /// As the user wrote them; empty for the default.
    pub(super) detach_keys: String,
}

impl Attendance {
    /// Refuses a terminal for the container where there is none here.
    pub(super) fn check_terminal(&self) -> Result<()> {
        if self.stdin && self.tty && !is_terminal(io::stdin()) {
            return Err(Fail::new("the input device is not a TTY"));
        }
        Ok(())
    }

    /// Asks for the streams of a container and takes over the terminal.
    pub(super) async fn attach(&self, api: &Api, id: &str) -> Result<Attached> {
        let keys = berth_api::detach::parse(&self.detach_keys).map_err(|e| Fail::new(e.to_string()))?;
        let ask = Ask::post(format!("/containers/{id}/attach"))
            .maybe("detachKeys", Some(&self.detach_keys))
            .flag("stderr", self.stderr)
            .flag("stdin", self.stdin)
            .flag("stdout", self.stdout)
            .with("stream", "1");
        let hijacked = api.hijack(ask).await?;
        self.take_over(hijacked, keys)
    }

    /// Starts moving bytes between an upgraded connection and our own streams.
    pub(super) fn take_over(
        &self,
        hijacked: crate::api::hijack::Hijacked,
        keys: Vec<u8>,
    ) -> Result<Attached> {
        let signals = if self.sig_proxy && !self.tty { Caught::all() } else { Caught::deadly() };
        let signals = signals.map_err(|e| Fail::io("catching signals", &e))?;
        let raw = if self.stdin && self.tty && is_terminal(io::stdin()) {
            Some(Raw::enter().map_err(|e| Fail::io("setting the terminal to raw mode", &e))?)
        } else {
            None
        };
        let detach = (self.stdin && self.tty).then_some(keys);
        let pump = Pump::start(hijacked, Streams { stdin: self.stdin, tty: self.tty, detach })?;
        Ok(Attached { pump, signals, raw, tty: self.tty, forward: self.sig_proxy && !self.tty })
    }
}

/// Streams under way.
pub(super) struct Attached {
    pump: Pump,
    signals: Caught,
    raw: Option<Raw>,
    tty: bool,
    forward: bool,
}

impl Attached {
    /// Stays until the output ends or the user detaches. `container` gets signals; `resized` is the path
    /// of what follows the terminal's size.
    pub(super) async fn stay(&mut self, api: &Api, container: Option<&str>, resized: &str) -> Result<Ended> {
        let sizes = async {
            if self.tty && size(io::stdout()).is_some() {
                follow_size(api, resized).await;
            }
            std::future::pending::<()>().await;
        };
        let (forward, signals) = (self.forward, &mut self.signals);
        let signals = async {
            match container {
                Some(container) if forward => signals.forward(api, container).await,
                _ => signals.die().await,
            }
        };
        tokio::select! {
            biased;
            ended = self.pump.ended() => ended,
            never = signals => never,
            () = sizes => Err(Fail::new("unreachable: sizes are followed for ever")),
        }
    }

    /// Gives the terminal back.
    pub(super) fn leave(&mut self) {
        self.raw.take();
    }
}

/// A wait that the daemon has registered.
pub(super) struct Exit<'a> {
    api: &'a Api,
    body: Incoming,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ExitBody {
    status_code: i64,
    #[serde(default)]
    error: Option<ExitError>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ExitError {
    #[serde(default)]
    message: String,
}

impl<'a> Exit<'a> {
    /// Registers with the daemon; the answer's head says that it has.
    pub(super) async fn watch(api: &'a Api, id: &str, condition: Option<&str>) -> Result<Self> {
        let ask = Ask::post(format!("/containers/{id}/wait")).maybe("condition", condition);
        Ok(Self { api, body: api.stream(ask).await?.into_body() })
    }

    /// The container's exit code.
    pub(super) async fn code(self) -> Result<u8> {
        let body = self.body.collect().await.map_err(|e| self.api.broken(&e).code(125))?.to_bytes();
        let exit: ExitBody = serde_json::from_slice(&body).map_err(|e| {
            Fail::new(format!("the daemon did not say how the container ended: {e}")).code(125)
        })?;
        match exit.error {
            Some(error) if !error.message.is_empty() => Err(Fail::new(error.message).code(125)),
            _ => Ok(u8::try_from(exit.status_code & 0xff).unwrap_or(u8::MAX)),
        }
    }

    /// Waits for the end without caring how: what failed to start is cleaned up by then.
    pub(super) async fn over(self) {
        self.body.collect().await.ok();
    }
}

/// The exit code of a start that failed, by its message (engine-api: run's 125, 126 and 127).
pub(super) fn start_code(message: &str) -> u8 {
    let has = |what: &str| message.contains(what);
    if has("executable file not found")
        || has("no such file or directory")
        || has("system cannot find the file")
    {
        127
    } else if has("permission denied") || has("is a directory") {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_failed_starts() {
        for (message, expected) in [
            ("exec: \"nosuch\": executable file not found in $PATH", 127),
            ("exec: \"/x\": stat /x: no such file or directory", 127),
            ("exec: \"/etc\": permission denied", 126),
            ("exec: \"/etc\": is a directory", 126),
            ("driver failed programming external connectivity", 125),
        ] {
            assert_eq!(start_code(message), expected, "{message}");
        }
    }
}
