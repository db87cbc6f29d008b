// SPDX-License-Identifier: Apache-2.0
//! The public doors.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use berth_domain::{ContainerId, Error, Result};
use tokio::sync::{mpsc, oneshot};

use crate::books::Books;
use crate::worker::{self, Job, Worker};
use crate::{
    EndpointRecord, EndpointRequest, NetworkConfig, NetworkRecord, NetworkRequest, SandboxRecord,
    SandboxRequest,
};

/// All networks of this host that are ours. Cheap to clone. The last clone to go ends the threads; what they made stays.
#[derive(Debug, Clone)]
pub struct Networks {
    books: Arc<Mutex<Books>>,
    jobs: mpsc::Sender<Job>,
}

/// A sandbox as it was made.
#[derive(Debug)]
pub struct Sandbox {
    /// The namespace for the container's processes; none means the host's.
    pub netns: Option<OwnedFd>,
    /// The user namespace that owns it, if it was made for this sandbox.
    pub userns: Option<OwnedFd>,
    /// What to keep with the container's state.
    pub record: SandboxRecord,
    /// Descriptors for the shim to hold under these names while the container runs: they reserve the host ports, and take the
    /// questions of the embedded resolver.
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
    /// adopted; published ports of containers that still run keep working. Acts in the network namespace of the calling
    /// thread, then and later.
    ///
    /// # Errors
    ///
    /// The kernel refuses (the message names the feature that is missing), or a record is unreadable.
    pub async fn open(config: NetworkConfig) -> Result<Self> {
        let books = Arc::new(Mutex::new(Books::new(config.direct_routing)));
        let jobs = worker::start(config, Arc::clone(&books)).await?;
        Ok(Self { books, jobs })
    }

    /// Makes a sandbox: whole, or not at all.
    ///
    /// # Errors
    ///
    /// No such network (not found), an address or port that is taken (in Docker's words), a full
    /// subnet or bridge. The caller puts `failed to set up container networking` on top.
    pub async fn sandbox_create(&self, container: &ContainerId, request: SandboxRequest) -> Result<Sandbox> {
        let container = container.clone();
        let unwanted = container.clone();
        self.on_worker(
            move |worker| worker.create(&container, request),
            // Whoever asked has gone, and would never release it.
            move |worker, made| {
                if made.is_ok() {
                    worker.release(&unwanted);
                }
            },
        )
        .await?
    }

    /// Takes back the sandbox of a container that ran on while the daemon was away: `netns` and `held` are what the shim
    /// gives back.
    ///
    /// # Errors
    ///
    /// An address or port in the record already belongs to another sandbox.
    pub async fn sandbox_adopt(
        &self,
        container: &ContainerId,
        record: SandboxRecord,
        netns: Option<OwnedFd>,
        held: Vec<(String, OwnedFd)>,
    ) -> Result<()> {
        let container = container.clone();
        self.run(move |worker| worker.adopt(&container, record, netns, held)).await?
    }

    /// Gives back a container's addresses and ports, once no process of it runs any more. Knows no error: a
    /// container without a sandbox is already so. The kernel destroys links and namespace when the last
    /// descriptor of the namespace is closed; nobody waits for that.
    pub async fn sandbox_release(&self, container: &ContainerId) {
        let id = container.clone();
        if let Err(error) = self.run(move |worker| worker.release(&id)).await {
            tracing::error!(container = %container, error = %error.chain(), "releasing a sandbox");
        }
    }

    /// Puts a running container on one more network.
    ///
    /// # Errors
    ///
    /// As [`Networks::sandbox_create`]; forbidden if it is on the network already.
    pub async fn sandbox_connect(
        &self,
        container: &ContainerId,
        netns: BorrowedFd<'_>,
        request: EndpointRequest,
    ) -> Result<SandboxRecord> {
        let container = container.clone();
        let netns = netns.try_clone_to_owned();
        let netns = netns.map_err(|e| Error::internal("copying a namespace's descriptor").because(e))?;
        self.run(move |worker| worker.connect(&container, &netns, &request)).await?
    }

    /// Takes a running container off a network. Answers the record as it is then.
    ///
    /// # Errors
    ///
    /// It is not on that network.
    pub async fn sandbox_disconnect(
        &self,
        container: &ContainerId,
        netns: BorrowedFd<'_>,
        network: &str,
    ) -> Result<SandboxRecord> {
        let (container, network) = (container.clone(), network.to_owned());
        let netns = netns.try_clone_to_owned();
        let netns = netns.map_err(|e| Error::internal("copying a namespace's descriptor").because(e))?;
        self.run(move |worker| worker.disconnect(&container, &netns, &network)).await?
    }

    /// Called once after the last [`Networks::sandbox_adopt`]: releases sandboxes of containers that are not in
    /// `live`, removes links of ours that belong to no sandbox, and replaces the firewall table by what is known, in one
    /// transaction.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub async fn sweep(&self, live: &[ContainerId]) -> Result<()> {
        let live = live.to_vec();
        self.run(move |worker| worker.sweep(&live)).await?
    }

    /// All networks, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<NetworkView> {
        worker::lock(&self.books).views()
    }

    /// The network with this name, this id, or the only one whose id begins so (`default` is the default bridge).
    ///
    /// # Errors
    ///
    /// `network X not found`; several ids begin so (invalid).
    pub fn resolve(&self, name: &str) -> Result<Arc<NetworkRecord>> {
        worker::lock(&self.books).resolve(name).cloned()
    }

    /// As [`Networks::resolve`], with who is on it.
    ///
    /// # Errors
    ///
    /// As [`Networks::resolve`].
    pub fn inspect(&self, name: &str) -> Result<NetworkView> {
        let books = worker::lock(&self.books);
        books.resolve(name).map(|network| books.view(network))
    }

    /// The sandbox of a container, if it has one.
    #[must_use]
    pub fn sandbox(&self, container: &ContainerId) -> Option<SandboxRecord> {
        worker::lock(&self.books).sandbox(container).cloned()
    }

    /// Tells how a container is called now (it was renamed).
    pub fn rename(&self, container: &ContainerId, name: &str) {
        if let Some(record) = worker::lock(&self.books).sandbox_mut(container) {
            name.clone_into(&mut record.name);
        }
    }

    /// Makes a network that survives a power cut.
    ///
    /// # Errors
    ///
    /// The name is taken (conflict), subnets overlap (forbidden), a field is wrong (invalid).
    pub async fn network_create(&self, request: NetworkRequest) -> Result<Arc<NetworkRecord>> {
        self.run(move |worker| worker.network_create(request)).await?
    }

    /// Removes a network nobody is on.
    ///
    /// # Errors
    ///
    /// Not found; forbidden for the predefined ones and while containers are on it.
    pub async fn network_remove(&self, name: &str) -> Result<Arc<NetworkRecord>> {
        let name = name.to_owned();
        self.run(move |worker| worker.network_remove(&name)).await?
    }

    /// Runs on the worker's thread, to its end even if the caller goes away.
    async fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Worker) -> T + Send + 'static) -> Result<T> {
        self.on_worker(job, |_, _| {}).await
    }

    /// As [`Networks::run`]; `unwanted` gets the outcome if the caller has gone away.
    async fn on_worker<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Worker) -> T + Send + 'static,
        unwanted: impl FnOnce(&mut Worker, T) + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |worker| {
            let outcome = job(worker);
            if let Err(outcome) = reply.send(outcome) {
                unwanted(worker, outcome);
            }
        });
        let ended = || Error::unavailable("the network thread has ended");
        self.jobs.send(job).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }
}
