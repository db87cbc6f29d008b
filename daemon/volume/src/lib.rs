// SPDX-License-Identifier: Apache-2.0
//! Volumes of the `local` driver, and the mounts of a container: what `-v`, `--mount`, `--tmpfs`, `--volumes-from` and
//! an image's `VOLUME` come to.
//!
//! ```text
//! <data-root>/volumes/<name>/_data/      what containers see
//!                            meta.json   labels, options, time of creation
//! ```
//!
//! All calls block; none holds a lock over slow work on a volume's content.
#![forbid(unsafe_code)]

pub mod mounts;
mod store;

pub use mounts::{MountPlan, MountPoint, MountType, PlanInput, plan};
pub use store::{Pruned, Volume, Volumes};
