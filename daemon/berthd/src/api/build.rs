// SPDX-License-Identifier: Apache-2.0
//! Builds: not there yet, and so is their cache empty.

use std::sync::Arc;

use crate::app::App;
use crate::http::{Answer, Call, ok};

/// `POST /build/prune`, which `docker system prune` relies on.
pub(crate) async fn build_prune(_app: Arc<App>, _call: Call) -> Answer {
    ok(&serde_json::json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }))
}
