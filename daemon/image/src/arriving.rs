// SPDX-License-Identifier: Apache-2.0
//! A client's bytes, handed from the async side to a thread that may block.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_domain::{Error, Result};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use crate::pull::blocking;

/// Read from the client at once.
pub(crate) const CHUNK: usize = 256 << 10;
const CHUNKS_AHEAD: usize = 8;

struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

enum Message {
    Bytes(Bytes),
    Broken(io::Error),
    End,
}

/// The bytes on the blocking side. A client that breaks off is an error there, never an end.
pub(crate) struct Arriving {
    arriving: mpsc::Receiver<Message>,
    chunk: Bytes,
    ended: bool,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.arriving.blocking_recv() {
                Some(Message::Bytes(chunk)) => self.chunk = chunk,
                Some(Message::End) => self.ended = true,
                Some(Message::Broken(e)) => return Err(e),
                None => return Err(io::Error::other(Error::cancelled("the archive stopped arriving"))),
            }
        }
        let n = self.chunk.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}

/// Runs `work` on what the reader gives, on a thread that may block. When the returned future is dropped, `work` is told
/// to give up, and runs to its own end.
pub(crate) async fn read<T: Send + 'static>(
    mut reader: impl AsyncRead + Send + Unpin + 'static,
    work: impl FnOnce(Arriving, &AtomicBool) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (chunks, arriving) = mpsc::channel(CHUNKS_AHEAD);
    let given_up = Arc::new(AtomicBool::new(false));
    let _until_dropped = GiveUp(Arc::clone(&given_up));
    let task = tokio::spawn(blocking(move || {
        work(Arriving { arriving, chunk: Bytes::new(), ended: false }, &given_up)
    }));
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        let message = match reader.read_buf(&mut buffer).await {
            Ok(0) => Message::End,
            Ok(_) => Message::Bytes(buffer.freeze()),
            Err(e) => Message::Broken(e),
        };
        let last = !matches!(message, Message::Bytes(_));
        // The other side is gone: it has its result, good or bad, before the archive's end.
        if chunks.send(message).await.is_err() || last {
            break;
        }
    }
    drop(chunks);
    task.await.map_err(|e| Error::internal("reading an archive").because(e))?
}
