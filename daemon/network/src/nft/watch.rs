// SPDX-License-Identifier: Apache-2.0
//! Noticing that somebody else changed our table (`nft flush ruleset`, a firewall service that reloads).
//!
//! The kernel tells everybody of every change, with the port of the socket it came by. What came by ours is
//! passed over. What is said is only a reason to look: the table is then compared with what it should be.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use berth_domain::{Error, Result};
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::encode::Kind;
use crate::netlink::{Attributes, Messages, NETLINK_NETFILTER};

const NFNLGRP_NFTABLES: u32 = 7;
const NFPROTO_INET: u8 = 1;
/// Between two looks: a reload is many changes, and two daemons at odds over a table must not wear the machine out.
const REST: Duration = Duration::from_millis(200);

/// The thread that listens; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    _ends: OwnedFd,
}

impl Watch {
    /// Calls `changed` after somebody with another netlink port than `own` may have changed `table`, until it answers false.
    pub(crate) fn start(table: &str, own: u32, changed: impl Fn() -> bool + Send + 'static) -> Result<Self> {
        let fail = |e: io::Error| Error::internal("listening for changes of the firewall").because(e);
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(fail)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(fail)?;
        socket.add_membership(NFNLGRP_NFTABLES).map_err(fail)?;
        socket.set_non_blocking(true).map_err(fail)?;
        let (end, ends) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
        let table = table.to_owned();
        let body = move || {
            if let Err(error) = listen(&socket, &end, &table, own, &changed) {
                tracing::error!(%error, "no longer listening for changes of the firewall");
            }
        };
        std::thread::Builder::new().name("nft-watch".into()).spawn(body).map_err(fail)?;
        Ok(Self { _ends: ends })
    }
}

fn listen(
    socket: &Socket,
    end: &OwnedFd,
    table: &str,
    own: u32,
    changed: &dyn Fn() -> bool,
) -> io::Result<()> {
    loop {
        let mut ready = [PollFd::new(socket, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        match poll(&mut ready, None) {
            // A signal that was somebody else's.
            Err(Errno::INTR) => continue,
            polled => polled?,
        };
        if !ready[1].revents().is_empty() {
            return Ok(());
        }
        if drain(socket, table, own)? {
            if !changed() {
                return Ok(());
            }
            let rest = Timespec::try_from(REST).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            let mut ready = [PollFd::new(end, PollFlags::IN)];
            match poll(&mut ready, Some(&rest)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads all that is there; whether any of it is about our table and not of our doing.
fn drain(socket: &Socket, table: &str, own: u32) -> io::Result<bool> {
    let mut suspicious = false;
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => {
                suspicious |= Messages(&buffer).any(|m| m.port != own && concerns(m.kind, m.payload, table));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(suspicious),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // More was said than could be kept.
            Err(e) if e.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => suspicious = true,
            Err(e) => return Err(e),
        }
    }
}

/// In all objects the first attribute is the table's name.
fn concerns(kind: u16, payload: &[u8], table: &str) -> bool {
    let of_nftables = kind >> 8 == Kind::NewTable.number() >> 8;
    of_nftables
        && payload.first() == Some(&NFPROTO_INET)
        && Attributes(payload.get(4..).unwrap_or_default())
            .any(|(kind, value)| kind == 1 && value.strip_suffix(&[0]).unwrap_or(value) == table.as_bytes())
}
