// SPDX-License-Identifier: Apache-2.0
//! A test's own little host: a network namespace with a registry on its loopback, a root directory, a daemon.
//!
//! The same tests run against another engine when `BERTH_TEST_TARGET=unix:///its/socket` is set (with
//! `BERTH_TEST_NETNS=/run/netns/name` if it runs in a named network namespace, where a registry with the fixtures
//! must be its mirror): a test that the reference engine fails is a wrong test. Such runs share one engine, so
//! they take `--test-threads=1`.

mod authority;
mod bed;
mod cli;
mod fault;
mod http;
pub(crate) mod leaks;
mod left_out;
mod netns;
mod pty;
mod registry;
mod stuck;
mod tokens;
mod volume;
mod wait;
mod world;

pub use authority::{Authority, Identity};
pub use bed::{Bed, Events, Options};
pub(crate) use cli::build_dir;
pub use cli::{Cli, Output};
pub use fault::{Fault, Line};
pub use http::{Response, simple as request};
pub use left_out::left_out;
pub use netns::NetNs;
pub use pty::Pty;
pub use registry::{Registry, Wanted};
pub use stuck::StuckFs;
pub use tokens::{Asked, IDENTITY, Issue, TokenServer};
pub use volume::Volume;
pub use wait::{DEADLINE, until};
pub use world::{Capture, HOST, OUTSIDER, World, is_dns_question};
