// SPDX-License-Identifier: Apache-2.0
//! The engine's own words: ids, references, states, limits and errors by meaning.
//! No serde, no tokio: what is here outlives wire formats and disk formats.
#![forbid(unsafe_code)]

pub mod error;
pub mod id;
pub mod platform;
pub mod progress;
pub mod reference;

pub use error::{Error, Meaning, Result};
pub use id::{ContainerId, Digest, EndpointId, ExecId, ImageId, NetworkId};
pub use platform::Platform;
pub use reference::Reference;
