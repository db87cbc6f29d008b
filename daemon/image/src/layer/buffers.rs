// SPDX-License-Identifier: Apache-2.0
//! Buffers between the two threads of an extraction: bounded, reused, and with an end that cannot be mistaken.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel as unbounded, sync_channel};

use berth_domain::Error;

const SIZE: usize = 256 << 10;
const AHEAD: usize = 8;

enum Message {
    Bytes(Vec<u8>, usize),
    End,
}

pub(super) struct Sink {
    full: SyncSender<Message>,
    empty: Receiver<Vec<u8>>,
}

pub(super) struct Source {
    full: Receiver<Message>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    filled: usize,
    ended: bool,
}

pub(super) fn channel() -> (Sink, Source) {
    let (full, from) = sync_channel(AHEAD);
    let (back, empty) = unbounded();
    let source = Source { full: from, empty: back, current: Vec::new(), at: 0, filled: 0, ended: false };
    (Sink { full, empty }, source)
}

const HUNG_UP: &str = "the unpacking side has ended";

/// Whether the error only says that the other thread ended first.
pub(super) fn is_hung_up(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

impl Sink {
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.empty.try_recv().unwrap_or_else(|_| vec![0; SIZE])
    }

    pub(super) fn send(&mut self, buffer: Vec<u8>, filled: usize) -> io::Result<()> {
        let message = Message::Bytes(buffer, filled);
        self.full.send(message).map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, HUNG_UP))
    }

    /// The stream is whole.
    pub(super) fn finish(self) {
        // A source that is gone has an error of its own to tell.
        drop(self.full.send(Message::End));
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.filled && !self.ended {
            match self.full.recv() {
                Ok(Message::Bytes(bytes, filled)) => {
                    let used = std::mem::replace(&mut self.current, bytes);
                    (self.at, self.filled) = (0, filled);
                    if !used.is_empty() {
                        // Not wanted any more when the sink has ended.
                        drop(self.empty.send(used));
                    }
                }
                Ok(Message::End) => self.ended = true,
                Err(_) => return Err(io::Error::other(Error::cancelled("the layer's stream broke off"))),
            }
        }
        Ok(&self.current[self.at..self.filled])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}
