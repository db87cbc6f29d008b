// SPDX-License-Identifier: Apache-2.0
//! nftables, spoken by this process (nfnetlink): no library, no program.

mod encode;
mod expr;
mod redirect;
mod schema;
mod table;
mod watch;

pub(crate) use redirect::redirect;
pub(crate) use schema::{Bridge, Forward, Known};
pub(crate) use table::Firewall;
pub(crate) use watch::Watch;
