// SPDX-License-Identifier: Apache-2.0
//! The engine's own words: ids, references, states, limits and errors by meaning.
//! No serde, no tokio: what is here outlives wire formats and disk formats.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod container;
pub mod duration;
pub mod error;
pub mod event;
pub mod id;
pub mod idmap;
pub mod platform;
pub mod port;
pub mod progress;
pub mod reference;
pub mod restart;
pub mod signal;
pub mod step;

pub use cgroup::CgroupDriver;
pub use container::Status;
pub use error::{Error, Meaning, Result};
pub use event::{Event, EventKind};
pub use id::{ContainerId, Digest, EndpointId, ExecId, ImageId, NetworkId};
pub use idmap::{Extent, IdMap};
pub use platform::Platform;
pub use reference::Reference;
pub use restart::RestartPolicy;
pub use signal::Signal;
