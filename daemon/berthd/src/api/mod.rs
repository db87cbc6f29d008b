// SPDX-License-Identifier: Apache-2.0
//! Handlers, one file a noun. Each reads its parameters, calls one use case and gives the answer its wire shape.

pub(crate) mod attach;
pub(crate) mod build;
pub(crate) mod commit;
pub(crate) mod containers;
pub(crate) mod containers_files;
pub(crate) mod disk_usage;
pub(crate) mod distribution;
pub(crate) mod exec;
pub(crate) mod images;
mod images_import;
pub(crate) mod networks;
pub(crate) mod plugins;
pub(crate) mod registry;
pub(crate) mod search;
pub(crate) mod swarm;
pub(crate) mod system;
pub(crate) mod system_check;
pub(crate) mod volumes;
