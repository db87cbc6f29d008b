// SPDX-License-Identifier: Apache-2.0
//! From the API's words to a running container: the OCI runtime spec, the default posture (capabilities,
//! seccomp, masks, devices), compiled seccomp filters, and the asynchronous link to shims.
//!
//! ```text
//! HostConfig --normalise--> HostConfig --spec::build--> oci_spec Spec --(engine writes config.json)
//!                                         `--SeccompCache::get--> sealed memfd --.
//! Shims::spawn --> Shim --launch(Launch, fds)------------------------------------'--> berth-shim
//! ```
//!
//! Nothing here touches the container's filesystem: that is the shim's, beneath the container's root.
#![forbid(unsafe_code)]

pub mod cdi;
mod host;
pub mod link;
mod scope;
pub mod seccomp;
pub mod spec;

pub use host::{CgroupLayout, HostFacts, Limits};
pub use link::{
    Adoption, HeldFds, Launched, Shim, ShimConfig, ShimError, ShimEvent, Shims, kill_remains, read_pids,
};
pub use scope::Scope;
pub use seccomp::{SeccompCache, SeccompFilter};
