// SPDX-License-Identifier: Apache-2.0
//! Managed plugins: there are none.

use std::sync::Arc;

use berth_domain::Error;

use crate::app::App;
use crate::http::{Answer, Call, ok};

/// `GET /plugins`
pub(crate) async fn plugin_list(_app: Arc<App>, call: Call) -> Answer {
    call.known_filters(&["enabled", "capability"])?;
    ok(&Vec::<()>::new())
}

/// Everything that names a plugin.
pub(crate) async fn no_such_plugin(_app: Arc<App>, call: Call) -> Answer {
    Err(Error::not_found(format!("plugin {:?} not found", call.name())))
}
