// SPDX-License-Identifier: Apache-2.0
//! Namespaces made ahead of need: bare ones, and ones that are on the default bridge already.
//!
//! What a start needs of the network takes about a millisecond when the kernel's network lock is free, and tens of them when the
//! kernel is taking another container's namespace apart. Made ahead, it takes neither. The thread that makes them
//! waits until starts are over, as it would take the lock from them.
//!
//! Nothing of it outlives the daemon: links vanish with their namespaces, those with the last descriptor, and leases
//! are in memory.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_domain::{Error, IdMap, Result};

use crate::EndpointRecord;
use crate::netns::{Maker, Namespace};
use crate::{Founder, UserNamespace};

/// Making is put off until nothing has been taken for so long: the start that took it is then probably done with
/// the kernel's lock...
const QUIET: Duration = Duration::from_millis(5);
/// ... but not for longer than this, or a steady stream of starts would find nothing ready.
const PATIENCE: Duration = Duration::from_millis(15);

/// Puts a namespace on the default network, unless that is better left for now.
pub(crate) type Dresser = Box<dyn FnMut(&mut Namespace) -> Result<Option<EndpointRecord>> + Send>;

/// How long making ahead rests after the first failure; twice as long after each further one.
const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// A namespace with its endpoint on the default network.
#[derive(Debug)]
pub(crate) struct Dressed {
    pub(crate) namespace: Namespace,
    pub(crate) endpoint: EndpointRecord,
}

/// How many of each are kept ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) bare: usize,
    pub(crate) dressed: usize,
}

/// The namespaces that are ready.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    sizes: Sizes,
    kind: Kind,
}

/// What is made ahead of need.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kind {
    pub(crate) founder: Option<Founder>,
    pub(crate) id_map: Option<IdMap>,
}

impl Kind {
    fn user(&self) -> UserNamespace {
        self.id_map.clone().map_or(UserNamespace::Host, UserNamespace::Mapped)
    }
}

#[derive(Default)]
struct State {
    bare: VecDeque<Namespace>,
    dressed: VecDeque<Dressed>,
    dresser: Option<Dresser>,
    /// How many wait for a bare one.
    waiting: usize,
    /// Why the last one that somebody waited for could not be made.
    failed: Option<Error>,
    bare_rest: Rest,
    dressed_rest: Rest,
    taken_at: Option<Instant>,
    /// Since when one is missing.
    short_since: Option<Instant>,
    closed: bool,
}

enum Work {
    Bare,
    Dressed(Dresser),
}

impl Pool {
    /// Starts the thread. Namespaces are made from the one that the calling thread is in.
    pub(crate) fn start(sizes: Sizes, kind: Kind) -> Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), sizes, kind });
        let mut maker = Maker::new()?;
        let pool = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("netns".into())
            .spawn(move || pool.work(&mut maker))
            .map_err(|e| Error::internal("starting the thread that makes network namespaces").because(e))?;
        Ok(Self { shared })
    }

    /// Namespaces are put on the default network from now on.
    pub(crate) fn dress_with(&self, dresser: Dresser) {
        self.shared.lock().dresser = Some(dresser);
        self.shared.changed.notify_all();
    }

    /// Whether what is made ahead is for such a container.
    pub(crate) fn suits(&self, user: &UserNamespace) -> bool {
        match (user, &self.shared.kind.id_map) {
            (UserNamespace::Host, None) => true,
            (UserNamespace::Mapped(one), Some(other)) => one == other,
            _ => false,
        }
    }

    /// A bare namespace of another kind than those that are made ahead; the calling thread makes it.
    pub(crate) fn make_apart(&self, user: &UserNamespace) -> Result<Namespace> {
        Maker::new()?.make_for(user, self.shared.kind.founder.as_ref())
    }

    /// A bare namespace: a ready one, else as soon as it is made.
    pub(crate) fn take(&self) -> Result<Namespace> {
        let mut state = self.shared.lock();
        state.taken();
        state.waiting += 1;
        self.shared.changed.notify_all();
        let taken = loop {
            if let Some(namespace) = state.bare.pop_front() {
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

    /// A namespace on the default network, if one is ready.
    pub(crate) fn take_dressed(&self) -> Option<Dressed> {
        let mut state = self.shared.lock();
        state.taken();
        let taken = state.dressed.pop_front();
        self.shared.changed.notify_all();
        taken
    }

    /// Those that are ready on the default network: their links or addresses are needed, or no longer right.
    pub(crate) fn strip(&self) -> Vec<Dressed> {
        let mut state = self.shared.lock();
        state.taken();
        state.dressed.drain(..).collect()
    }

    /// Ends the thread and lets go of what is ready.
    pub(crate) fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let unused =
            (std::mem::take(&mut state.bare), std::mem::take(&mut state.dressed), state.dresser.take());
        drop(state);
        drop(unused);
        self.shared.changed.notify_all();
    }
}

/// A bug of ours must not end the thread: who waits for a namespace would wait for ever.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::internal("making a network namespace panicked")))
}

impl State {
    fn taken(&mut self) {
        let now = Instant::now();
        self.taken_at = Some(now);
        self.short_since.get_or_insert(now);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life.
    fn work(&self, maker: &mut Maker) {
        while let Some(work) = self.next() {
            let made = guarded(|| maker.make_for(&self.kind.user(), self.kind.founder.as_ref()));
            let mut state = match work {
                Work::Bare => {
                    let mut state = self.lock();
                    state.put_bare(made);
                    state
                }
                Work::Dressed(mut dresser) => {
                    let made = made.and_then(|mut namespace| {
                        let endpoint = guarded(|| dresser(&mut namespace))?;
                        Ok(endpoint.map(|endpoint| Dressed { namespace, endpoint }))
                    });
                    let mut state = self.lock();
                    state.dresser = Some(dresser);
                    state.put_dressed(made);
                    state
                }
            };
            self.changed.notify_all();
            if state.closed {
                let unused = std::mem::take(&mut *state);
                state.closed = true;
                drop(state);
                drop(unused);
            }
        }
    }

    /// Waits for something to do. `None` is the end.
    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if state.waiting > state.bare.len() && state.failed.is_none() {
                return Some(Work::Bare);
            }
            let wants_dressed = state.dressed.len() < self.sizes.dressed && state.dresser.is_some();
            let wants_bare = state.bare.len() < self.sizes.bare;
            let pause = state.pause();
            let until_dressed = wants_dressed.then(|| pause.max(state.dressed_rest.left()));
            let until_bare = wants_bare.then(|| pause.max(state.bare_rest.left()));
            let Some(wait) = until_dressed.into_iter().chain(until_bare).min() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if !wait.is_zero() {
                state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            // The first container after the daemon's start is most often one on the default bridge.
            let dress = until_dressed.is_some_and(|wait| wait.is_zero());
            state.short_since = None;
            match state.dresser.take_if(|_| dress) {
                Some(dresser) => return Some(Work::Dressed(dresser)),
                None => return Some(Work::Bare),
            }
        }
    }
}

impl State {
    /// How long making one is still put off for the sake of starts.
    fn pause(&self) -> Duration {
        let quiet = self.taken_at.map_or(Duration::ZERO, |at| QUIET.saturating_sub(at.elapsed()));
        let patience = self.short_since.map_or(PATIENCE, |at| PATIENCE.saturating_sub(at.elapsed()));
        quiet.min(patience)
    }

    fn put_bare(&mut self, made: Result<Namespace>) {
        match made {
            Ok(namespace) => {
                self.bare.push_back(namespace);
                self.bare_rest = Rest::default();
            }
            Err(error) if self.waiting > self.bare.len() => self.failed = Some(error),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "making a network namespace ahead of need");
                self.bare_rest.begin();
            }
        }
    }

    fn put_dressed(&mut self, made: Result<Option<Dressed>>) {
        match made {
            Ok(Some(dressed)) => {
                self.dressed.push_back(dressed);
                self.dressed_rest = Rest::default();
            }
            Ok(None) => self.dressed_rest.begin(),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "putting a network namespace on the default network ahead of need");
                self.dressed_rest.begin();
            }
        }
    }
}

/// Nothing is tried again at once that failed.
#[derive(Default)]
struct Rest {
    until: Option<Instant>,
    failures: u32,
}

impl Rest {
    fn begin(&mut self) {
        let rest = FIRST_REST.saturating_mul(1 << self.failures.min(16)).min(LONGEST_REST);
        self.until = Some(Instant::now() + rest);
        self.failures += 1;
    }

    fn left(&self) -> Duration {
        self.until.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("sizes", &self.sizes).finish_non_exhaustive()
    }
}
