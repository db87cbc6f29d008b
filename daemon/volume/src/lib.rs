// SPDX-License-Identifier: Apache-2.0
//! Volumes of the `local` driver and of plugins, and the mounts of a container: what `-v`, `--mount`, `--tmpfs`, `--volumes-from` and
//! an image's `VOLUME` come to.
//!
//! ```text
//! <data-root>/volumes/<name>/_data/      what containers see, or where it is mounted; not for a plugin's volume
//!                            meta.json   labels, options, time of creation
//!                            .filling/   a copy of the image's content on its way to become _data
//!                    .making-<random>/   on its way to become <name>
//!                    .removing-<random>/ on its way out; nothing with a leading dot survives the next start
//! ```
//!
//! # Order
//!
//! create: [`plan`] (pure: refuses what cannot be) then [`Volumes::realise`] (makes, acquires and fills volumes).
//! Each start: [`Volumes::oci_mounts`], and [`Volumes::unmount_all`] after it. Removal: [`Volumes::release_all`]. At daemon
//! start the engine repeats [`Volumes::acquire`] from its records and [`Volumes::claim`] for what runs, then [`Volumes::adopt`],
//! [`Volumes::unmount_unused`]: who uses what is not written down twice.
//!
//! All calls block; none holds a lock over work on a volume's content.
#![forbid(unsafe_code)]

mod copy_up;
mod disk;
mod elsewhere;
mod idmap;
mod mounted;
pub mod mounts;
mod options;
mod plugin;
mod realise;
mod sources;
mod store;
mod usage;

pub use disk::bound;
pub use idmap::{IdMapped, OwnerMap};
pub use mounted::Held;
pub use mounts::{MountPlan, MountPoint, MountType, PlanInput, ReadOnly, parse_volumes_from, plan};
pub use options::bytes;
pub use sources::{Sources, Start, clear_places};
pub use store::{Pruned, Volume, Volumes};
