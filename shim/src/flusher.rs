// SPDX-License-Identifier: Apache-2.0
//! Output for clients that are slower than the container's end.
//!
//! A client may read the last megabyte of a container's output long after the container has ended (a
//! pager that waits for a key), and so may a log server. The shim's own end is news that others wait for, so what is left to send
//! is given to a child that holds the clients' sockets and nothing else.

use std::time::Instant;

use rustix::event::PollFlags;

use crate::process::{LINGER, Progress};
use crate::say::say;
use crate::stdio::Stdio;
use crate::sys;
use crate::watch::{Token, Watch};

/// Sends what is left to send; in a child, if there is anything.
pub(crate) fn flush(mut streams: Vec<Stdio>) -> rustix::io::Result<()> {
    dismiss(&mut streams);
    if streams.is_empty() {
        return Ok(());
    }
    match sys::fork() {
        Ok(Some(_)) => {
            // The child has the sockets now: what ends here must not shut them down.
            streams.into_iter().for_each(std::mem::forget);
            Ok(())
        }
        Ok(None) => linger(streams),
        Err(error) => {
            say!("fork: {error}");
            linger(streams)
        }
    }
}

fn linger(mut streams: Vec<Stdio>) -> rustix::io::Result<()> {
    let mut ready = Vec::new();
    let mut progress = Progress::new();
    while !streams.is_empty() {
        let since = progress.note(streams.iter().map(Stdio::backlog).sum());
        let left = (since + LINGER).saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let due = streams.iter().filter_map(Stdio::deadline).min();
        let left = due.map_or(left, |due| left.min(due.saturating_duration_since(Instant::now())));
        let mut watch = Watch::default();
        for (key, stdio) in (0u64..).zip(&streams) {
            stdio.watch(key, &mut watch);
        }
        watch.wait(Some(left), &mut ready)?;
        for (token, flags) in ready.drain(..) {
            on_ready(&mut streams, token, flags);
        }
        streams.iter_mut().for_each(Stdio::tick);
        dismiss(&mut streams);
    }
    Ok(())
}

fn on_ready(streams: &mut [Stdio], token: Token, flags: PollFlags) {
    let Token::Stdio(key, part) = token else { return };
    let place = usize::try_from(key).ok();
    if let Some(stdio) = place.and_then(|place| streams.get_mut(place)) {
        stdio.on_ready(part, flags, &mut []);
    }
}

fn dismiss(streams: &mut Vec<Stdio>) {
    streams.iter_mut().for_each(Stdio::dismiss);
    streams.retain(Stdio::has_listeners);
}
