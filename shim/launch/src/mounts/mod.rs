// SPDX-License-Identifier: Apache-2.0
//! A container's mounts: planned and, where they come from the host, cloned by the parent; built by the
//! child in its own mount namespace.

mod cgroupfs;
mod devices;
mod fs;
mod idmap;
mod options;
mod overlay;
mod plan;
mod root;
mod stage;

pub(crate) use devices::{make_node, nodes, open_terminal};
pub(crate) use fs::{attach, bind_of, bind_tree, filesystem};
pub(crate) use overlay::{make_overlay, overlay_by_mount};
pub(crate) use plan::{RootPlan, Source};
pub(crate) use root::{Image, enter_root};
pub(crate) use stage::{Stage, make_read_only, open_if_there};
