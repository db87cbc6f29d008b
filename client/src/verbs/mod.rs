// SPDX-License-Identifier: Apache-2.0
//! One file a verb: its flags, and what it asks of the daemon.

pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod port;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod restart;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod start;
pub(crate) mod stop;
mod stopping;
pub(crate) mod tag;
pub(crate) mod version;
pub(crate) mod wait;

mod session;

use berth_api::Filters;

use crate::fail::{Fail, Result};

/// `--filter name=value`.
fn filters(flags: &[String]) -> Result<Filters> {
    let mut filters = Filters::default();
    for flag in flags {
        let (name, value) =
            flag.split_once('=').ok_or_else(|| Fail::new(format!("invalid argument {flag:?} for \"-f, --filter\" flag: bad format of filter (expected name=value)")).code(125))?;
        filters.add(name.trim().to_lowercase(), value.trim());
    }
    Ok(filters)
}
