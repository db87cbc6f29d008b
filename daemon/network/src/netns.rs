// SPDX-License-Identifier: Apache-2.0
//! Network namespaces, made ahead of need.
//!
//! A thread of its own makes them: it leaves the host's namespace for a new one, opens it, sets it up, and comes
//! back. Nothing is forked, and nothing of it appears in the file system: a namespace lives as long as somebody has
//! a descriptor of it, so that those made ahead vanish with the daemon.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_domain::{Error, Result};
use nix::sched::{CloneFlags, setns};

use crate::route::Routes;

/// Refilling takes the kernel's network lock: it is put off until a start that just took a namespace is probably done with it.
const QUIET: Duration = Duration::from_millis(20);

/// A namespace with loopback up and IPv6 off on links to come.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) fd: OwnedFd,
    /// Acts inside it.
    pub(crate) routes: Routes,
    /// The index that the kernel will probably give the next link.
    pub(crate) next_index: u32,
}

/// The namespaces that are ready.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    size: usize,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Namespace>,
    /// Somebody waits for one.
    waiting: usize,
    failed: Option<Error>,
    taken_at: Option<Instant>,
    closed: bool,
}

impl Pool {
    /// Starts the thread. Namespaces come back to the one that the calling thread is in.
    pub(crate) fn start(size: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                waiting: 0,
                failed: None,
                taken_at: None,
                closed: false,
            }),
            changed: Condvar::new(),
            size,
        });
        let home = current()?;
        let maker = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("netns".into())
            .spawn(move || fill(&maker, &home))
            .map_err(|e| Error::internal("starting the thread that makes network namespaces").because(e))?;
        Ok(Self { shared })
    }

    /// A namespace: a ready one, else as soon as it is made.
    pub(crate) fn take(&self) -> Result<Namespace> {
        let mut state = self.shared.lock();
        state.taken_at = Some(Instant::now());
        state.waiting += 1;
        self.shared.changed.notify_all();
        let taken = loop {
            if let Some(namespace) = state.ready.pop_front() {
                break Ok(namespace);
            }
            if let Some(error) = state.failed.take() {
                break Err(error);
            }
            if state.closed {
                break Err(Error::unavailable("the engine is stopping"));
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.waiting -= 1;
        taken
    }

    /// Ends the thread and lets go of what is ready.
    pub(crate) fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let unused = std::mem::take(&mut state.ready);
        drop(state);
        drop(unused);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The maker's life.
fn fill(shared: &Shared, home: &OwnedFd) {
    let mut state = shared.lock();
    loop {
        if state.closed {
            return;
        }
        let urgent = state.waiting > state.ready.len() && state.failed.is_none();
        let room = state.ready.len() < shared.size;
        let quiet_for = state.taken_at.map_or(QUIET, |at| at.elapsed());
        if !(urgent || room && quiet_for >= QUIET) {
            state = if room {
                let rest = QUIET.saturating_sub(quiet_for);
                shared.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0
            } else {
                shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
            continue;
        }
        drop(state);
        let made = make(home);
        state = shared.lock();
        match made {
            Ok(namespace) => state.ready.push_back(namespace),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "making a network namespace");
                let wanted = state.waiting > state.ready.len();
                if wanted {
                    state.failed = Some(error);
                } else {
                    // Nobody waits for it: try again when somebody does.
                    shared.changed.notify_all();
                    state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            }
        }
        shared.changed.notify_all();
    }
}

/// The namespace that the calling thread is in.
pub(crate) fn current() -> Result<OwnedFd> {
    let path = "/proc/thread-self/ns/net";
    File::open(path).map(OwnedFd::from).map_err(|e| Error::io("opening", path, e))
}

fn make(home: &OwnedFd) -> Result<Namespace> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|e| Error::internal("making a network namespace").because(io::Error::from(e)))?;
    let made = set_up();
    come_home(home.as_fd());
    made
}

fn set_up() -> Result<Namespace> {
    let fd = current()?;
    // Links inherit this when they appear. Loopback is there already and keeps ::1, as programs expect.
    write_sysctl("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
    let fail = |doing: &'static str| move |e: crate::netlink::Refused| Error::internal(doing).because(e);
    let mut routes = Routes::open().map_err(|e| Error::internal("opening a route socket").because(e))?;
    let links = routes.links().map_err(fail("listing the links of a new network namespace"))?;
    routes.set_up(1).map_err(fail("bringing up loopback"))?;
    let next_index = links.iter().map(|l| l.index).max().unwrap_or(1) + 1;
    Ok(Namespace { fd, routes, next_index })
}

/// A thread that cannot come back to the host's namespace must not go on.
fn come_home(home: BorrowedFd<'_>) {
    if let Err(error) = setns(home, CloneFlags::CLONE_NEWNET) {
        tracing::error!(%error, "leaving a network namespace");
        std::process::abort();
    }
}

/// A socket that acts inside a namespace which is not of this pool's making.
pub(crate) fn routes_inside(netns: BorrowedFd<'_>) -> Result<Routes> {
    let home = current()?;
    setns(netns, CloneFlags::CLONE_NEWNET)
        .map_err(|e| Error::internal("entering a network namespace").because(io::Error::from(e)))?;
    let routes = Routes::open();
    come_home(home.as_fd());
    routes.map_err(|e| Error::internal("opening a route socket").because(e))
}

/// Writes a kernel setting of the calling thread's namespace unless it has that value. A setting that the
/// kernel does not have (IPv6 compiled out) is as good as off.
pub(crate) fn write_sysctl(path: impl AsRef<Path>, value: &str) -> Result<()> {
    let path = path.as_ref();
    match std::fs::read_to_string(path) {
        Ok(now) if now.trim() == value => return Ok(()),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("reading", path, e)),
    }
    std::fs::write(path, value).map_err(|e| Error::io("writing", path, e))
}
