// SPDX-License-Identifier: Apache-2.0
//! The kernel as the daemon needs it: descriptors, processes, paths beneath a root, mounts, cgroups, files that
//! survive a power cut. The daemon's only `unsafe` lives here.

pub mod activation;
pub mod atomic;
pub mod cgroup;
pub mod filesystem;
pub mod idmap;
pub mod in_root;
pub mod limits;
pub mod links;
pub mod lock;
pub mod mapped;
pub mod memfd;
pub mod mount;
pub mod pidfd;
pub mod quota;
pub mod seqpacket;
pub mod view;
