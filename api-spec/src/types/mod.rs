// SPDX-License-Identifier: Apache-2.0
//! Bodies of requests and answers, in the newest version's shape. Differences between versions are
//! made at the daemon's door, not here.

pub mod container_create;
