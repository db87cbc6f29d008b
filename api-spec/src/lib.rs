// SPDX-License-Identifier: Apache-2.0
//! The Docker Engine API as data: wire types, the operations and their routes, stream framing.
//! No tokio, no hyper: the daemon, the client and the tests all read it.
#![forbid(unsafe_code)]

pub mod types;
