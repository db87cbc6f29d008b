// SPDX-License-Identifier: Apache-2.0
//! The public doors.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use berth_domain::{ContainerId, Error, Result};

use crate::{
    EndpointRecord, EndpointRequest, NetworkConfig, NetworkRecord, NetworkRequest, SandboxRecord,
    SandboxRequest,
};

/// All networks of this host that are ours. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Networks {
    _private: Arc<()>,
}

/// A sandbox as it was made.
#[derive(Debug)]
pub struct Sandbox {
    /// The namespace for the container's processes; none means the host's.
    pub netns: Option<OwnedFd>,
    /// What to keep with the container's state.
    pub record: SandboxRecord,
    /// Descriptors for the shim to hold under these names while the container runs: they reserve the host ports.
    pub held: Vec<(String, OwnedFd)>,
}

/// A network and who is on it.
#[derive(Debug, Clone)]
pub struct NetworkView {
    /// The network.
    pub record: Arc<NetworkRecord>,
    /// Containers with their names and endpoints.
    pub endpoints: Vec<(ContainerId, String, EndpointRecord)>,
}

impl Networks {
    /// Opens the networks: the default bridge, the firewall table, the kernel's settings. What is there already is
    /// adopted; published ports of containers that still run keep working.
    ///
    /// # Errors
    ///
    /// The kernel refuses (the message names the feature that is missing), or a record is unreadable.
    pub async fn open(_config: NetworkConfig) -> Result<Self> {
        Ok(Self { _private: Arc::new(()) })
    }

    /// Makes a sandbox: whole, or not at all.
    ///
    /// # Errors
    ///
    /// No such network (not found), an address or port that is taken (internal, in Docker's words), a full
    /// subnet or bridge. The caller puts `failed to set up container networking` on top.
    pub async fn sandbox_create(
        &self,
        _container: &ContainerId,
        _request: SandboxRequest,
    ) -> Result<Sandbox> {
        Err(Error::not_implemented("networking"))
    }

    /// Takes back the sandbox of a container that ran on while the daemon was away: `held` is what the shim gives back.
    ///
    /// # Errors
    ///
    /// An address or port in the record already belongs to another sandbox.
    pub async fn sandbox_adopt(
        &self,
        _container: &ContainerId,
        _record: SandboxRecord,
        _held: Vec<(String, OwnedFd)>,
    ) -> Result<()> {
        Err(Error::not_implemented("networking"))
    }

    /// Gives back a container's addresses and ports, once no process of it runs any more. Knows no error: a
    /// container without a sandbox is already so. The kernel destroys links and namespace when the last
    /// descriptor of the namespace is closed; nobody waits for that.
    pub async fn sandbox_release(&self, _container: &ContainerId) {}

    /// Puts a running container on one more network.
    ///
    /// # Errors
    ///
    /// As [`Networks::sandbox_create`]; forbidden if it is on the network already.
    pub async fn sandbox_connect(
        &self,
        _container: &ContainerId,
        _netns: BorrowedFd<'_>,
        _request: EndpointRequest,
    ) -> Result<SandboxRecord> {
        Err(Error::not_implemented("connecting a running container to a network"))
    }

    /// Takes a running container off a network. Answers the record as it is then.
    ///
    /// # Errors
    ///
    /// It is not on that network.
    pub async fn sandbox_disconnect(
        &self,
        _container: &ContainerId,
        _network: &str,
    ) -> Result<SandboxRecord> {
        Err(Error::not_implemented("disconnecting a running container from a network"))
    }

    /// Called once after the last [`Networks::sandbox_adopt`]: releases sandboxes of containers that are not in
    /// `live`, removes links of ours that belong to no sandbox, and replaces the firewall table by what is known, in one transaction.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub async fn sweep(&self, _live: &[ContainerId]) -> Result<()> {
        Ok(())
    }

    /// All networks, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<NetworkView> {
        Vec::new()
    }

    /// The network with this name, this id, or the only one whose id begins so (`default` is the default bridge).
    ///
    /// # Errors
    ///
    /// `network X not found`; several ids begin so (invalid).
    pub fn resolve(&self, name: &str) -> Result<Arc<NetworkRecord>> {
        Err(Error::not_found(format!("network {name} not found")))
    }

    /// As [`Networks::resolve`], with who is on it.
    ///
    /// # Errors
    ///
    /// As [`Networks::resolve`].
    pub fn inspect(&self, name: &str) -> Result<NetworkView> {
        Err(Error::not_found(format!("network {name} not found")))
    }

    /// The sandbox of a container, if it has one.
    #[must_use]
    pub fn sandbox(&self, _container: &ContainerId) -> Option<SandboxRecord> {
        None
    }

    /// Tells how a container is called now (it was renamed).
    pub fn rename(&self, _container: &ContainerId, _name: &str) {}

    /// Makes a network that survives a power cut.
    ///
    /// # Errors
    ///
    /// The name is taken (conflict), subnets overlap (forbidden), a field is wrong (invalid).
    pub async fn network_create(&self, _request: NetworkRequest) -> Result<Arc<NetworkRecord>> {
        Err(Error::not_implemented("user-defined networks"))
    }

    /// Removes a network nobody is on.
    ///
    /// # Errors
    ///
    /// Not found; forbidden for the predefined ones and while containers are on it.
    pub async fn network_remove(&self, _name: &str) -> Result<Arc<NetworkRecord>> {
        Err(Error::not_implemented("user-defined networks"))
    }
}
