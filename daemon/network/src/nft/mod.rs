// SPDX-License-Identifier: Apache-2.0
//! nftables, spoken by this process (nfnetlink): no library, no program.

mod encode;
mod expr;
mod table;
mod watch;

pub(crate) use table::{Bridge, Firewall, Forward, Known};
pub(crate) use watch::Watch;
