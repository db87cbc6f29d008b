// SPDX-License-Identifier: Apache-2.0
//! The container engine: one task owns one container; everything else holds a cheap handle to it.
//!
//! [`Engine`] is the whole of it. Its methods are named after the API's operations; each lives in
//! `container/<verb>.rs`, `exec/<verb>.rs` or a file of its own. Methods that change something hand the
//! work to the container's task (or a task of their own) and wait for the answer, so that a caller may
//! be dropped at any moment without leaving work half done. Methods that read use a published
//! [`Snapshot`] and never wait.
//!
//! | module | what it knows |
//! |---|---|
//! | `engine`, `index`, `handle` | the containers by id and name, and how to reach their tasks |
//! | `task`, `life` | one container's life: what wakes its task, what a start and an end come to |
//! | `container/*`, `exec/*`, `network/*` | one file a verb |
//! | `asked`, `merge`, `health`, `log_config` | what was asked, checked |
//! | `record`, `files`, `recover` | what is kept on disk, and what a new daemon makes of it |
//! | `door`, `logs`, `events` | streams: attached clients, recorded output, what happened |
//! | `tarball` | a container's files as an archive |
//! | `undo` | taking a start back |
//! | `seam`, `adapter` | the crates below, behind traits that tests can stand in for |
#![forbid(unsafe_code)]

mod adapter;
mod asked;
mod cancel;
mod config;
mod container;
mod devices;
mod door;
mod engine;
mod etc;
mod etc_mounts;
mod events;
mod exec;
#[cfg(test)]
mod fake;
mod files;
mod handle;
mod health;
mod image_remove;
mod index;
mod life;
#[cfg(test)]
mod life_tests;
mod links;
mod log_config;
mod logs;
mod marks;
mod merge;
mod names;
mod network;
mod probe;
mod realtime;
mod record;
mod recover;
#[cfg(test)]
mod recover_tests;
mod seam;
mod snapshot;
mod storage;
mod tarball;
mod task;
mod undo;
mod users;

pub use berth_image::{RemoveOptions as ImageRemoveOptions, Removed};
pub use berth_network::{EndpointRecord, PublishedPort, SandboxRecord};
pub use berth_runtime::cdi::{Cdi, DEFAULT_DIRS as DEFAULT_CDI_DIRS};
pub use berth_volume::{MountPoint, MountType};
pub use config::{EngineConfig, NATIVE_RUNTIME, OciRuntime};
pub use container::archive::{ArchivePieces, PathStat};
pub use container::attach::{AttachOptions, AttachTicket};
pub use container::changes::{ChangeKind, Changes};
pub use container::commit::CommitOptions;
pub use container::create::Created;
pub use container::list::{FILTERS as LIST_FILTERS, ListOptions};
pub use container::prune::PruneReport;
pub use container::put_archive::PutOptions;
pub use container::remove::RemoveOptions;
pub use container::size::Sizes;
pub use container::stats::StatsMode;
pub use container::top::Top;
pub use container::update::Update;
pub use container::wait::{Condition, WaitHandle, WaitOutcome};
pub use engine::{Counts, Engine};
pub use events::EventStream;
pub use exec::{ExecConfig, ExecInspect, ExecStart, ExecTicket};
pub use log_config::{LOG_DRIVERS, check_log_options};
pub use logs::{LogOptions, LogStream, Tail};
pub use network::NetworksPruned;
pub use realtime::check_realtime;
pub use snapshot::{Health, HealthStatus, Paths, Probe, Snapshot, State};
