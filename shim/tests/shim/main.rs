// SPDX-License-Identifier: Apache-2.0
//! The shim as its daemon sees it: real containers of busybox, built by the launcher of our own and by
//! whatever OCI runtimes the host has. Needs root and `busybox-static`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod rig;

mod daemon;
mod exec;
mod lifecycle;
mod logs;
mod streams;

/// Makes a test of each function for each builder.
macro_rules! with_each_builder {
    ($($name:ident)*) => {
        mod native { $(#[test] fn $name() { crate::with($crate::rig::Builder::Native, super::$name) })* }
        mod crun { $(#[test] fn $name() { crate::with($crate::rig::Builder::Crun, super::$name) })* }
        mod runc { $(#[test] fn $name() { crate::with($crate::rig::Builder::Runc, super::$name) })* }
    };
}
pub(crate) use with_each_builder;

fn with(builder: rig::Builder, test: fn(rig::Builder)) {
    match builder.program() {
        Ok(_) => test(builder),
        Err(missing) => eprintln!("SKIPPED: {missing} is not on this host (apt-get install crun runc)"),
    }
}
