// SPDX-License-Identifier: Apache-2.0
//! Swarm: absent on purpose. Clients (`docker inspect`, compose) rely on the answers of an engine outside a swarm.

use std::sync::Arc;

use berth_domain::Error;

use crate::app::App;
use crate::http::{Answer, Call};

/// Everything that only a manager can answer.
pub(crate) async fn not_a_manager(_app: Arc<App>, _call: Call) -> Answer {
    Err(Error::unavailable(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
    ))
}

/// `POST /swarm/leave`
pub(crate) async fn swarm_leave(_app: Arc<App>, _call: Call) -> Answer {
    Err(Error::unavailable("This node is not part of a swarm"))
}
