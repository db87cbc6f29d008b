// SPDX-License-Identifier: Apache-2.0
//! `GET /events`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something happened. Versions before 1.52 add `status`, `id` and `from`, which the daemon's door does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// `container`, `image`, `network`, `volume`, `daemon`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `start`, `die`, `exec_create: sh -c true`, ...
    #[serde(rename = "Action")]
    pub action: String,
    /// To whom.
    #[serde(rename = "Actor")]
    pub actor: EventActor,
    /// `local`.
    pub scope: String,
    /// Unix seconds.
    pub time: i64,
    /// Unix nanoseconds.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// To whom something happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventActor {
    /// Its id; an image's or volume's may be a name.
    #[serde(rename = "ID")]
    pub id: String,
    /// What else is known: image, name, labels, exit code.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}
