// SPDX-License-Identifier: Apache-2.0
//! Black-box tests of the engine, through its socket and the command lines people use.
//!
//! [`harness`] gives each test its own daemon, root and network namespace, and looks for leftovers at the
//! end. [`fixtures`] makes the images that tests pull, from Debian's packages. [`bench`] measures the engine beside its peers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)] // A test's way to fail.

pub mod bench;
pub mod fixtures;
pub mod floor;
pub mod harness;
