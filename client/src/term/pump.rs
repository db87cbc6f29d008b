// SPDX-License-Identifier: Apache-2.0
//! Moves bytes between a hijacked connection and our own standard streams, on two threads.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;

use berth_api::stdcopy::{Decoder, Stream};
use tokio::sync::oneshot;

use super::keys::DetachKeys;
use crate::api::hijack::{Hijacked, Socket};
use crate::fail::{Fail, Result};

/// Big enough that a container's flood of output costs few calls.
const CHUNK: usize = 128 * 1024;

/// What goes which way.
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    /// Raw bytes instead of frames.
    pub(crate) tty: bool,
    /// Looked for in what is typed; `None` for none.
    pub(crate) detach: Option<Vec<u8>>,
}

/// How the connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The container closed its output.
    Output,
    /// The user typed the detach keys.
    Detached,
}

/// A connection under way.
pub(crate) struct Pump {
    ended: oneshot::Receiver<Result<Ended>>,
    detached: oneshot::Receiver<()>,
}

impl Pump {
    /// Starts moving bytes at once.
    pub(crate) fn start(hijacked: Hijacked, streams: Streams) -> Result<Self> {
        let Hijacked { socket, early, framed } = hijacked;
        let (tell_ended, ended) = oneshot::channel();
        let (tell_detached, detached) = oneshot::channel();
        let fail = |e: io::Error| Fail::io("starting a thread", &e);
        if streams.stdin {
            let to = socket.try_clone().map_err(fail)?;
            let detach = streams.detach.map(DetachKeys::new);
            std::thread::Builder::new()
                .name("stdin".into())
                .spawn(move || {
                    if send_input(to, detach) {
                        tell_detached.send(()).ok();
                    } else {
                        // Kept so that the other end does not take a closed stdin for detaching.
                        std::mem::forget(tell_detached);
                    }
                })
                .map_err(fail)?;
        } else {
            std::mem::forget(tell_detached);
        }
        let framed = framed.unwrap_or(!streams.tty) && !streams.tty;
        std::thread::Builder::new()
            .name("output".into())
            .spawn(move || {
                tell_ended.send(receive_output(socket, &early, framed).map(|()| Ended::Output)).is_ok()
            })
            .map_err(fail)?;
        Ok(Self { ended, detached })
    }

    /// Waits for the output's end or for the detach keys.
    pub(crate) async fn ended(&mut self) -> Result<Ended> {
        tokio::select! {
            biased;
            ended = &mut self.ended => ended.unwrap_or_else(|_| Err(Fail::new("the output's thread has died"))),
            Ok(()) = &mut self.detached => Ok(Ended::Detached),
        }
    }
}

/// True when the detach keys were typed.
fn send_input(mut to: Socket, mut detach: Option<DetachKeys>) -> bool {
    let mut from = io::stdin().lock();
    let mut buffer = vec![0; CHUNK];
    let mut filtered = Vec::new();
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal that has gone (EIO) is an end like any other.
            Err(_) => break,
        };
        let (bytes, stop): (&[u8], bool) = match &mut detach {
            None => (&buffer[..read], false),
            Some(keys) => {
                filtered.clear();
                let stop = keys.filter(&buffer[..read], &mut filtered);
                (&filtered, stop)
            }
        };
        // The container may have closed its end; its output still counts.
        if to.write_all(bytes).is_err() {
            return stop;
        }
        if stop {
            return true;
        }
    }
    to.shutdown(Shutdown::Write).ok();
    false
}

fn receive_output(mut from: Socket, early: &[u8], framed: bool) -> Result<()> {
    let mut output = Output { decoder: framed.then(Decoder::new) };
    output.write(early)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => output.write(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The daemon or the shim has gone: that is the end of the output, the exit code is asked for elsewhere.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(Fail::io("reading the container's output", &e)),
        }
    }
}

/// Our stdout and stderr, fed with what attach and logs send.
pub(crate) struct Output {
    decoder: Option<Decoder>,
}

impl Output {
    pub(crate) fn new(framed: bool) -> Self {
        Self { decoder: framed.then(Decoder::new) }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(put(&mut io::stdout().lock(), bytes)?);
        };
        let mut failed: Result<()> = Ok(());
        let malformed = decoder.feed(bytes, |stream, payload| {
            if failed.is_err() {
                return;
            }
            failed = match stream {
                Stream::Stdin | Stream::Stdout => put(&mut io::stdout().lock(), payload).map_err(Fail::from),
                Stream::Stderr => put(&mut io::stderr().lock(), payload).map_err(Fail::from),
                Stream::System => Err(Fail::new(format!(
                    "error from daemon in stream: {}",
                    String::from_utf8_lossy(payload)
                ))),
            };
        });
        failed?;
        malformed.map_err(|e| Fail::new(e.to_string()))
    }
}

fn put(to: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
