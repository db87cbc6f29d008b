// SPDX-License-Identifier: Apache-2.0
//! The messages between `berthd` and `berth-shim`.
//!
//! # Transport
//!
//! A `SOCK_SEQPACKET` Unix socket: one packet is one message, and file descriptors ride along as
//! `SCM_RIGHTS`. A shim is born with one end of a socketpair as its file descriptor 0; it also
//! listens on [`SOCKET_NAME`] in the container's run directory (mode 0600), so that a daemon that
//! was restarted finds it again. Only a peer with the shim's own uid is spoken to (`SO_PEERCRED`).
//! At most one daemon is connected; a new connection replaces the old one.
//!
//! # Packet
//!
//! ```text
//! 0        4        6        8            12
//! +--------+--------+--------+------------+----------------
//! | "BSH1" | version| #fds   | body bytes | JSON body ...
//! +--------+--------+--------+------------+----------------
//!            u16 LE   u16 LE   u32 LE
//! ```
//!
//! A message of more than [`MAX_PACKET`] bytes (an exec's environment may be) travels in a memfd, the packet's last
//! descriptor; the magic is "BSHM" then and the packet ends with the header.
//!
//! # Compatibility
//!
//! A newer daemon must drive the shims that an older one left running: fields are only ever added,
//! with `#[serde(default)]`, and a request that a shim does not know is answered with
//! [`FailureKind::Unsupported`].
#![forbid(unsafe_code)]

pub mod local;
mod log;
mod message;
mod packet;

pub use log::*;
pub use message::*;
pub use packet::{MAX_FDS, MAX_MESSAGE, MAX_PACKET, PROTOCOL_VERSION, Packet, PacketError, recv, send};

/// Name of the shim's listening socket in the container's run directory.
pub const SOCKET_NAME: &str = "shim.sock";
/// Name of the file in the run directory that holds the [`ExitRecord`] once init has ended.
pub const EXIT_FILE: &str = "exit.json";
/// Name of the OCI runtime spec in the run directory.
pub const SPEC_FILE: &str = "config.json";
/// Name of the file in the run directory with the shim's and init's pids ([`PidRecord`]), written
/// before [`Reply::Launched`] is sent.
pub const PID_FILE: &str = "pids.json";
