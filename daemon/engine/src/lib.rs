// SPDX-License-Identifier: Apache-2.0
//! The container engine: one task owns one container; everything else holds a cheap handle to it.
//!
//! [`Engine`] is the whole of it. Its methods are named after the API's operations; each lives in
//! `container/<verb>.rs`, `exec/<verb>.rs` or a file of its own. Methods that change something hand the
//! work to the container's task (or a task of their own) and wait for the answer, so that a caller may
//! be dropped at any moment without leaving work half done. Methods that read use a published
//! [`Snapshot`] and never wait.
#![forbid(unsafe_code)]

mod config;
mod container;
mod engine;
mod events;
mod exec;
mod image_remove;
mod logs;
mod snapshot;

pub use config::{EngineConfig, NATIVE_RUNTIME, OciRuntime};
pub use container::attach::{AttachOptions, AttachTicket};
pub use container::create::Created;
pub use container::list::ListOptions;
pub use container::prune::PruneReport;
pub use container::remove::RemoveOptions;
pub use container::size::Sizes;
pub use container::top::Top;
pub use container::update::Update;
pub use container::wait::{Condition, WaitHandle, WaitOutcome};
pub use engine::{Counts, Engine};
pub use events::EventStream;
pub use exec::{ExecConfig, ExecInspect, ExecStart, ExecTicket};
pub use image_remove::{ImageRemoveOptions, Removed};
pub use logs::{LogEntry, LogOptions, LogStream, Tail};
pub use snapshot::{
    Endpoint, Health, HealthStatus, MountKind, MountPoint, Paths, Probe, PublishedPort, Sandbox, Snapshot,
    State,
};
