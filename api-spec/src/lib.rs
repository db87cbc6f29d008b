// SPDX-License-Identifier: Apache-2.0
//! The Docker Engine API as data: wire types, the operations and their routes, stream framing.
//! No tokio, no hyper: the daemon, the client and the tests all read it.
#![forbid(unsafe_code)]

pub mod detach;
pub mod filters;
pub mod operation;
pub mod query;
pub mod route;
pub mod stdcopy;
pub mod text;
pub mod types;
pub mod version;

pub use filters::Filters;
pub use operation::Operation;
pub use query::Query;
pub use route::{Match, Method, ROUTES, Route};
pub use version::ApiVersion;
