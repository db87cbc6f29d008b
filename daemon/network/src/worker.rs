// SPDX-License-Identifier: Apache-2.0
//! The one thread that changes the kernel's state, and what it needs for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_domain::{Error, Result};
use tokio::sync::{mpsc, oneshot};

use crate::books::{self, Books};
use crate::changing::Changes;
use crate::dns::Dns;
use crate::netlink::Netlink;
use crate::netns;
use crate::nft::{Firewall, Known, Watch};
use crate::pool::{Kind, Pool, Sizes};
use crate::ports::Ports;
use crate::records::Records;
use crate::route::Routes;
use crate::{EndpointRequest, NetworkConfig, NetworkRecord, bridge, endpoint, macvlan};

/// How many requests wait at most; further callers wait until there is room.
const QUEUE: usize = 64;

/// Endpoints are not made ahead from the last addresses of a small subnet.
const SPARE: usize = 16;

pub(crate) type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// What jobs work with.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) config: NetworkConfig,
    books: Arc<Mutex<Books>>,
    pub(crate) records: Records,
    pub(crate) changes: Changes,
    pub(crate) routes: Routes,
    firewall: Option<(Firewall, Watch)>,
    jobs: mpsc::WeakSender<Job>,
    pub(crate) pool: Pool,
    pub(crate) ports: Ports,
    pub(crate) dns: Dns,
    /// Forgets flows.
    pub(crate) conntrack: Option<Netlink>,
    /// As the firewall's table has it.
    pub(crate) loopback6_is_lost: bool,
    /// All running containers are known.
    pub(crate) swept: bool,
}

pub(crate) fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread; answers once it is open. It ends when the sender is dropped.
pub(crate) async fn start(config: NetworkConfig, books: Arc<Mutex<Books>>) -> Result<mpsc::Sender<Job>> {
    let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
    let weak = jobs.downgrade();
    let dns = Dns::new(tokio::runtime::Handle::current(), Arc::clone(&books));
    let (opened, result) = oneshot::channel();
    let body = move || {
        let mut worker = match Worker::open(config, books, weak, dns) {
            Ok(worker) => worker,
            Err(error) => {
                // Whoever asked may have gone; nothing is left to undo.
                drop(opened.send(Err(error)));
                return;
            }
        };
        drop(opened.send(Ok(())));
        while let Some(job) = queue.blocking_recv() {
            // One request that meets a bug of ours must not take networking from all that follow. Its asker gets an
            // error, as the answer's channel goes with the job.
            if catch_unwind(AssertUnwindSafe(|| job(&mut worker))).is_err() {
                tracing::error!("a request to the network thread panicked");
            }
        }
        worker.pool.close();
    };
    let thread = std::thread::Builder::new().name("network".into()).spawn(body);
    thread.map_err(|e| Error::internal("starting the network thread").because(e))?;
    result.await.map_err(|_| Error::internal("the network thread ended as it started"))??;
    Ok(jobs)
}

impl Worker {
    fn open(
        config: NetworkConfig,
        books: Arc<Mutex<Books>>,
        jobs: mpsc::WeakSender<Job>,
        dns: Dns,
    ) -> Result<Self> {
        let mut worker = Self {
            records: Records::open(&config.data_root)?,
            changes: Changes::open(&config.data_root)?,
            routes: Routes::open().map_err(|e| Error::internal("opening a route socket").because(e))?,
            firewall: None,
            jobs,
            pool: Pool::start(
                Sizes { bare: config.namespace_pool, dressed: config.endpoint_pool },
                Kind { founder: config.founder.clone(), id_map: config.id_map.clone() },
            )?,
            ports: Ports::default(),
            dns,
            conntrack: None,
            loopback6_is_lost: false,
            swept: false,
            config,
            books,
        };
        let opened = worker.open_networks();
        if opened.is_err() {
            worker.pool.close();
        }
        opened.map(|()| worker)
    }

    /// What the kernel must have for these networks: bridges, forwarding, the firewall.
    fn open_networks(&mut self) -> Result<()> {
        let records = self.load_networks()?;
        let default = self.config.bridge.clone();
        for record in records {
            self.books().add_network(record);
        }
        let with_links = |n: &&Arc<NetworkRecord>| n.bridge.is_some() || n.macvlan.is_some();
        let linked: Vec<_> = self.books().networks().filter(with_links).cloned().collect();
        let bridges = linked.iter().any(|n| n.bridge.is_some());
        if bridges {
            self.prepare_host()?;
        }
        for network in linked {
            match self.raise(&network) {
                Ok(()) => {}
                Err(error) if network.name == books::DEFAULT && default.is_some() => {
                    return Err(error.context("setting up the default bridge"));
                }
                // The others, and what does not need this one, can go on.
                Err(error) => {
                    tracing::error!(network = %network.name, error = %error.chain(), "setting up a network");
                }
            }
        }
        if !bridges {
            return Ok(());
        }
        let known = self.books().firewall();
        self.firewall()?.ensure(&known)
    }

    /// Has namespaces put on the default network ahead of need, by the pool's thread. Not before every sandbox that
    /// is to be adopted was: it would take their addresses.
    pub(crate) fn make_ahead(&mut self) -> Result<()> {
        let network = self.books().by_name(books::DEFAULT).cloned();
        let Some(network) = network.filter(|_| self.config.endpoint_pool > 0) else { return Ok(()) };
        let mut routes = Routes::open().map_err(|e| Error::internal("opening a route socket").because(e))?;
        let books = Arc::clone(&self.books);
        let request = EndpointRequest::on(books::DEFAULT);
        self.pool.dress_with(Box::new(move |namespace| {
            let (endpoint, bridge) = {
                let mut books = lock(&books);
                if books.free_addresses(&network.id) < SPARE {
                    return Ok(None);
                }
                let bridge = books.link(&network.id);
                let mut endpoints = vec![endpoint::lease(&mut books, &[], &network, &request)?];
                endpoint::assign_gateways(&books, &mut endpoints);
                let Some(endpoint) = endpoints.pop() else { return Ok(None) };
                books.dress(&endpoint);
                (endpoint, bridge.unwrap_or(0))
            };
            let dressed = endpoint::dress(&mut routes, &network, bridge, &endpoint, namespace);
            if dressed.is_err() {
                lock(&books).undress(&endpoint);
            }
            dressed.map(|()| Some(endpoint))
        }));
        Ok(())
    }

    /// Once before the first bridge network: forwarding, and the door to nftables.
    pub(crate) fn prepare_host(&mut self) -> Result<()> {
        let path = "/proc/sys/net/ipv4/ip_forward";
        if self.config.ip_forward {
            netns::write_sysctl(path, "1").map_err(|e| e.context("turning on IP forwarding"))?;
        } else if std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))?.trim() != "1" {
            tracing::warn!(
                "IP forwarding is off: containers reach nothing beyond this host, and published ports only work from it"
            );
        }
        self.firewall().map(|_| ())
    }

    /// Sees that a network's bridge is there, or what else its containers' links are on.
    pub(crate) fn raise(&mut self, network: &NetworkRecord) -> Result<()> {
        let index = match &network.macvlan {
            Some(macvlan) => macvlan::ensure(&mut self.routes, network, macvlan)?,
            None => {
                if network.ipv6 && !network.internal {
                    self.forward_ipv6()?;
                }
                bridge::ensure(&mut self.routes, network)?.0
            }
        };
        self.books().set_link(&network.id, index);
        Ok(())
    }

    /// Before the first bridge network with IPv6 that leads anywhere.
    fn forward_ipv6(&mut self) -> Result<()> {
        let path = "/proc/sys/net/ipv6/conf/all/forwarding";
        let now = std::fs::read_to_string(path).map_err(|e| {
            Error::invalid("this host has no IPv6, which a network is to have")
                .because(Error::io("reading", path, e))
        })?;
        if now.trim() == "1" {
            return Ok(());
        }
        if !self.config.ip_forward {
            tracing::warn!("IPv6 forwarding is off: containers reach nothing beyond this host by IPv6");
            return Ok(());
        }
        // A host that forwards takes no routes from its routers any more, unless it is told to all the same (2).
        for link in self.routes.links().map_err(|e| Error::internal("listing links").because(e))? {
            let path = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.name);
            if std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
                netns::write_sysctl(&path, "2")
                    .map_err(|e| e.context("keeping the routes of this host's routers"))?;
            }
        }
        netns::write_sysctl(path, "1").map_err(|e| e.context("turning on IPv6 forwarding"))
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    pub(crate) fn firewall(&mut self) -> Result<&mut Firewall> {
        if self.firewall.is_none() {
            let table = self.config.table();
            let firewall = Firewall::open(&table)?;
            let jobs = self.jobs.clone();
            let watch = Watch::start(&table, firewall.port(), move || {
                let Some(jobs) = jobs.upgrade() else { return false };
                jobs.blocking_send(Box::new(Self::repair_firewall)).is_ok()
            })?;
            self.firewall = Some((firewall, watch));
        }
        match &mut self.firewall {
            Some((firewall, _)) => Ok(firewall),
            None => Err(Error::internal("no firewall")),
        }
    }

    /// Somebody may have changed our table.
    fn repair_firewall(&mut self) {
        // Until the sweep the table holds ports of containers that are not adopted yet.
        if !self.swept {
            return;
        }
        let known = Known { loopback6_is_lost: self.loopback6_is_lost, ..self.books().firewall() };
        let repaired = self.firewall().and_then(|firewall| {
            if firewall.is_intact(&known)? {
                return Ok(());
            }
            tracing::warn!("somebody changed our firewall table; replacing it");
            firewall.replace(&known)
        });
        if let Err(error) = repaired {
            tracing::error!(error = %error.chain(), "repairing the firewall table");
        }
    }

    /// Replaces our table by what the books say.
    pub(crate) fn rebuild_firewall(&mut self) -> Result<()> {
        let known = self.books().firewall();
        self.loopback6_is_lost = known.loopback6_is_lost;
        if known.bridges.is_empty() && self.firewall.is_none() {
            return Ok(());
        }
        self.firewall()?.replace(&known)
    }

    /// Until now it held the ports of containers that were not adopted yet.
    pub(crate) fn remove_old_firewall(&mut self) -> Result<()> {
        match &mut self.firewall {
            Some((firewall, _)) => firewall.remove_predecessor(),
            None => Ok(()),
        }
    }

    /// Changes the table by a few elements; where it is not as it should be (somebody flushed it), all of it is made anew from the books, which must
    /// say already what the change leads to.
    pub(crate) fn change_firewall(&mut self, change: impl FnOnce(&mut Firewall) -> Result<()>) -> Result<()> {
        match change(self.firewall()?) {
            Ok(()) => Ok(()),
            // The sweep that is to come will.
            Err(error) if !self.swept => Err(error),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "the firewall table is not as we left it; replacing it");
                self.rebuild_firewall()
            }
        }
    }

    /// A network by what the user calls it.
    pub(crate) fn resolve(&self, name: &str) -> Result<Arc<NetworkRecord>> {
        self.books().resolve(name).cloned()
    }
}
