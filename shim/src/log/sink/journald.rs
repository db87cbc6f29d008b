// SPDX-License-Identifier: Apache-2.0
//! systemd-journald's native protocol: one datagram an entry, `NAME=value` lines, values that hold a newline
//! behind their length. An entry too large for a datagram goes in a sealed memfd that a datagram carries.

use std::io::{IoSlice, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::log::lines::Line;
use crate::log::time;
use crate::stdcopy::Stream;

#[derive(Debug)]
pub(super) struct Journald {
    /// The fields of every entry.
    fields: Vec<u8>,
    /// Tells the parts of one line from those of another, by stream.
    partial: [Option<Partial>; 2],
    /// This run, and how many entries it made: order where times are equal.
    epoch: String,
    ordinal: u64,
}

#[derive(Debug)]
struct Partial {
    id: String,
    ordinal: u64,
}

impl Journald {
    pub(super) fn new(fields: &[(String, String)]) -> Self {
        let mut bytes = Vec::new();
        for (name, value) in fields {
            push(&mut bytes, name, value.as_bytes());
        }
        Self { fields: bytes, partial: [None, None], epoch: random(), ordinal: 0 }
    }

    pub(super) fn message(&mut self, stream: Stream, line: &Line<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.fields.len() + line.text.len() + 256);
        push(&mut out, "MESSAGE", line.text);
        // err and info.
        push(&mut out, "PRIORITY", if stream == Stream::Stderr { b"3" } else { b"6" });
        out.extend_from_slice(&self.fields);
        let mut at = Vec::new();
        time::push(&mut at, line.at);
        push(&mut out, "SYSLOG_TIMESTAMP", &at);
        self.ordinal += 1;
        push(&mut out, "CONTAINER_LOG_EPOCH", self.epoch.as_bytes());
        push(&mut out, "CONTAINER_LOG_ORDINAL", self.ordinal.to_string().as_bytes());
        let unfinished = &mut self.partial[stream.index()];
        if !line.whole || unfinished.is_some() {
            let partial = unfinished.get_or_insert_with(|| Partial { id: random(), ordinal: 0 });
            partial.ordinal += 1;
            push(&mut out, "CONTAINER_PARTIAL_ID", partial.id.as_bytes());
            push(&mut out, "CONTAINER_PARTIAL_ORDINAL", partial.ordinal.to_string().as_bytes());
            push(&mut out, "CONTAINER_PARTIAL_LAST", if line.whole { b"true" } else { b"false" });
            if line.whole {
                *unfinished = None;
            } else {
                push(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
        }
        out
    }
}

fn push(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if memchr::memchr(b'\n', value).is_some() {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// 64 hexadecimal digits.
fn random() -> String {
    let mut bytes = [0u8; 32];
    // An id that is not random does no harm: it only tells lines of one stream apart.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).ok();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends an entry of any size.
pub(super) fn send_by_memfd(socket: &OwnedFd, entry: &[u8]) -> rustix::io::Result<()> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("log", flags)?);
    file.write_all(entry).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(&[])], &mut control, flags).map(|_| ())
}
