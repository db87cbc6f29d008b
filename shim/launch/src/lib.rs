// SPDX-License-Identifier: Apache-2.0
//! From an OCI runtime spec to a running process: the engine's own container launcher.
//!
//! The library takes an [`oci_spec::runtime::Spec`], file descriptors and nothing else of the engine.
//! It is meant for a **single-threaded** process (the shim): the child that becomes the container's
//! init is made by a bare `clone3` and runs ordinary code until it calls `execve`, which is sound only
//! when no other thread can have held a lock at that moment.
//!
//! # What is done where
//!
//! ```text
//! parent (host namespaces)                     child (new namespaces)
//! ------------------------------------------   --------------------------------------------------
//! plan: check the spec, clone bind sources
//! v2: make the cgroup
//! clone3 ------------------------------------> stage: /proc /sys /dev on a private tmpfs, masked
//! uid maps, oom_score_adj
//! v1: make the cgroups, set limits ----------> join them
//! make the overlay, views of the cgroups ----> attach the image, move the stage over, mount the rest,
//! wait for the end of the socket                pivot, drop privileges, execve
//! ```
//!
//! # Rules that keep it safe
//!
//! - Every mount is made detached and attached by file descriptor; the host's mount table never sees it.
//! - /proc, /sys, /dev, the masks and the read-only paths are built on a tmpfs of ours **before** the
//!   image is attached, so that nothing in the image can redirect them.
//! - A path inside the image is resolved once, by `openat2` with `RESOLVE_IN_ROOT` and
//!   `RESOLVE_NO_MAGICLINKS`, to a descriptor that is then acted on.
//! - Nothing is ever executed from the host's or the image's file system but the container's own program, and the
//!   hooks that a spec names: programs of the host's, by absolute path.
//! - `cgroup.procs` is never written on the way to a start: it costs an RCU grace period of about 10 ms.
//!   A v1 child writes `0` to `tasks`, a v2 child is born in its cgroup (`CLONE_INTO_CGROUP`).

mod caps;
pub mod cgroup;
mod channel;
mod child;
mod error;
mod exec;
mod hooks;
mod launch;
mod mounts;
mod namespaces;
mod path;
mod process;
mod sys;
mod sysctl;
pub mod trace;
pub mod user;

pub use error::{Error, Kind};
pub use exec::{ExecInput, exec};
pub use hooks::{Bundle, poststop};
pub use launch::{
    LaunchInput, Launched, Overlay, Root, Stdio, TerminalSize, launch, overlay, overlay_for_old_kernels,
};
pub use user::UserRequest;
