// SPDX-License-Identifier: Apache-2.0
//! Events: a bus with a short memory.
//!
//! The last [`REMEMBERED`] events are kept for `since`. Publishing never waits: a subscriber that is
//! [`QUEUED`] events behind loses the oldest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_api::Filters;
use berth_domain::{Error, Event, EventKind, Result};
use tokio::sync::broadcast;

use crate::Engine;

/// How many past events are remembered.
const REMEMBERED: usize = 256;
/// How far a subscriber may fall behind.
const QUEUED: usize = 1024;

/// Where events come together.
#[derive(Debug)]
pub(crate) struct Bus {
    memory: Mutex<Memory>,
    sender: Mutex<Option<broadcast::Sender<Arc<Event>>>>,
}

#[derive(Debug, Default)]
struct Memory {
    past: VecDeque<Arc<Event>>,
    last_time: i64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Now, in Unix nanoseconds.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

impl Bus {
    pub(crate) fn new() -> Self {
        Self { memory: Mutex::default(), sender: Mutex::new(Some(broadcast::channel(QUEUED).0)) }
    }

    /// Publishes; times never go back, so that `since` with the last seen time misses nothing.
    pub(crate) fn publish(
        &self,
        kind: EventKind,
        action: impl Into<String>,
        actor: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let mut memory = lock(&self.memory);
        let time = now().max(memory.last_time.saturating_add(1));
        memory.last_time = time;
        let event =
            Arc::new(Event { kind, action: action.into(), actor: actor.to_owned(), attributes, time });
        if memory.past.len() == REMEMBERED {
            memory.past.pop_front();
        }
        memory.past.push_back(Arc::clone(&event));
        // Sent under the lock: a subscriber sees each event once, in the replay or live. Nobody listening is no error.
        if let Some(sender) = lock(&self.sender).as_ref() {
            let _nobody_listens = sender.send(event).is_err();
        }
    }

    /// Ends all streams.
    pub(crate) fn close(&self) {
        lock(&self.sender).take();
    }

    fn subscribe(
        &self,
        since: Option<i64>,
    ) -> (VecDeque<Arc<Event>>, Option<broadcast::Receiver<Arc<Event>>>) {
        let memory = lock(&self.memory);
        let replay = match since {
            Some(since) => memory.past.iter().filter(|e| e.time >= since).cloned().collect(),
            None => VecDeque::new(),
        };
        (replay, lock(&self.sender).as_ref().map(broadcast::Sender::subscribe))
    }
}

/// Events as they happen, the remembered ones first. A reader that is too slow misses some.
#[derive(Debug)]
pub struct EventStream {
    replay: VecDeque<Arc<Event>>,
    live: Option<broadcast::Receiver<Arc<Event>>>,
    filters: Filters,
    until: Option<i64>,
    deadline: Option<tokio::time::Instant>,
}

impl EventStream {
    /// The next one; `None` when `until` has passed or the engine shuts down. Safe to drop while it waits.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            let event = match self.replay.pop_front() {
                Some(event) => event,
                None => self.next_live().await?,
            };
            if self.until.is_some_and(|until| event.time > until) {
                return None;
            }
            if passes(&self.filters, &event) {
                return Some(event);
            }
        }
    }

    async fn next_live(&mut self) -> Option<Arc<Event>> {
        let live = self.live.as_mut()?;
        loop {
            let received = match self.deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, live.recv()).await.ok()?,
                None => live.recv().await,
            };
            match received {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "a reader of events is too slow");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Whether an event passes. A name without a value passes everything; ids and names may be cut short.
fn passes(filters: &Filters, event: &Event) -> bool {
    let attribute = |key: &str| event.attributes.get(key).map_or("", String::as_str);
    let starts = |filter: &str| {
        filters.any(filter, |wanted| event.actor.starts_with(wanted) || attribute("name").starts_with(wanted))
    };
    let image = || {
        let name = if event.kind == EventKind::Image { attribute("name") } else { attribute("image") };
        filters.any("image", |wanted| {
            [&*event.actor, name].iter().any(|have| *have == wanted || without_tag(have) == wanted)
        })
    };
    filters.is("type", event.kind.as_str())
        && filters.any("event", |wanted| event.action == wanted || event.verb() == wanted)
        && filters.labels("label", &event.attributes)
        && filters.is("scope", "local")
        && ["container", "daemon", "network", "plugin", "volume", "service", "node", "secret", "config"]
            .into_iter()
            .all(starts)
        && image()
}

/// `a:5000/b` of `a:5000/b:tag`.
fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((bare, tag)) if !tag.contains('/') => bare,
        _ => name,
    }
}

impl Engine {
    /// Listens. Times are Unix nanoseconds. Without `since` nothing is replayed.
    ///
    /// # Errors
    ///
    /// `since` after `until`. Unknown filters say nothing, as with the reference.
    pub fn events_subscribe(
        &self,
        since: Option<i64>,
        until: Option<i64>,
        filters: Filters,
    ) -> Result<EventStream> {
        if let (Some(since), Some(until)) = (since, until) {
            if since > until {
                let (since, until) = (since / 1_000_000_000, until / 1_000_000_000);
                return Err(Error::invalid(format!(
                    "`since` time ({since}) cannot be after `until` time ({until})"
                )));
            }
        }
        // `until` without `since` asks for the past as well.
        let (replay, live) = self.bus.subscribe(since.or(until.map(|_| i64::MIN)));
        let left = until.map(|until| Duration::from_nanos(u64::try_from(until - now()).unwrap_or(0)));
        let deadline = left.map(|left| tokio::time::Instant::now() + left);
        Ok(EventStream { replay, live, filters, until, deadline })
    }

    /// Publishes an event about something that is not a container (those publish theirs themselves).
    pub fn publish(&self, kind: EventKind, action: &str, actor: &str, attributes: BTreeMap<String, String>) {
        self.bus.publish(kind, action, actor, attributes);
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
