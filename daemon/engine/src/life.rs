// SPDX-License-Identifier: Apache-2.0
//! What the task does when a start has its outcome and when a run has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use berth_domain::{Error, EventKind, Signal, Status};
use berth_network::SandboxRecord;
use berth_runtime::ShimError;
use berth_shim_proto::{ExitRecord, FailureKind};
use berth_volume::MountType;
use jiff::Timestamp;

use crate::cancel::Cancel;
use crate::container::start::{Flight, StartFailure, Started};
use crate::container::stop::Stopping;
use crate::handle::Reply;
use crate::marks::mark;
use crate::task::{Done, Starter, Starting, Task, Up, again, answer};
use crate::undo;

/// The exit code of a container whose end nobody saw.
pub(crate) const LOST: i32 = 255;

impl Task {
    /// Sets a start going; its outcome comes as [`Done::Start`].
    pub(crate) fn begin_start(&mut self, by: Starter, reply: Option<Reply<()>>, restart: bool) {
        let cancel = Cancel::default();
        let flight = Flight {
            engine: Arc::clone(&self.engine),
            id: self.now.id.clone(),
            asked: Arc::clone(&self.asked),
            now: self.now.clone(),
            state: self.state_record(),
            door: Arc::clone(&self.door),
            still: Arc::clone(&self.still),
            lingering: self.lingering.take(),
        };
        self.restart_at = None;
        self.op = Some(Box::pin({
            let cancel = cancel.clone();
            let gate = (by == Starter::Policy).then(|| Arc::clone(&self.engine.gate));
            async move {
                if by == Starter::Policy {
                    // After a reboot those that it is linked to are being started, too.
                    cancel.race(flight.engine.await_linked(&flight.now)).await;
                }
                let _permit = match gate {
                    // One that is cancelled while it waits finds out in its first step.
                    Some(gate) => cancel.race(gate.acquire_owned()).await.and_then(Result::ok),
                    None => None,
                };
                Done::Start(flight.fly(cancel).await)
            }
        }));
        self.starting =
            Some(Starting { by, cancel, replies: reply.into_iter().collect(), restart, kills: Vec::new() });
    }

    /// It runs.
    pub(crate) async fn started(&mut self, started: Started) {
        let Started { shim, events, pid, sandbox, cgroup, started_at, since, still } = started;
        let Some(starting) = self.starting.take() else { return };
        for guest in self.door.open(Arc::clone(&shim)) {
            // Those who came between the launch and now.
            let shim = Arc::clone(&shim);
            tokio::spawn(async move {
                use std::os::fd::AsFd as _;
                if let Err(error) = shim.attach(guest.attach, guest.socket.as_fd()).await {
                    tracing::debug!(%error, "a client that came late could not be attached");
                }
            });
        }
        self.up = Some(Up { shim, events, since, prober: None });
        self.by_hand = false;
        let state = &mut self.now.state;
        state.status = Status::Running;
        state.pid = pid;
        state.exit_code = 0;
        state.error.clear();
        state.oom_killed = false;
        state.started_at = Some(started_at);
        state.up_since = Some(since);
        match starting.by {
            Starter::Person => state.restart_count = 0,
            Starter::Policy => state.restart_count = state.restart_count.saturating_add(1),
        }
        self.now.sandbox = sandbox.map(Arc::new);
        self.now.cgroup = Some(cgroup.into());
        self.begin_probing();
        self.publish();
        drop(still);
        self.volume_events("mount");
        self.network_events("connect");
        self.event("start", &[]);
        if starting.restart {
            self.event("restart", &[]);
        }
        for reply in starting.replies {
            answer(reply, Ok(()));
        }
        self.relink();
        for (asked, signal, reply) in starting.kills {
            self.kill(&asked, signal, reply).await;
        }
        if let Some(removal) = &self.removal {
            if removal.deadline.is_none() {
                self.kill_for_removal().await;
            }
        }
        // Behind the answer: until then the record says `starting`, which a new daemon takes for running if the shim lives.
        mark(&self.now.id, "start", "published and answered");
        self.record_state().await;
        mark(&self.now.id, "start", "recorded");
    }

    /// It does not run, and nothing of the attempt is left.
    pub(crate) async fn start_failed(&mut self, failure: StartFailure) {
        let Some(starting) = self.starting.take() else { return };
        self.door.close();
        let StartFailure { error, exit_code, cancelled, lingering } = failure;
        self.lingering = lingering;
        if self.now.state.status == Status::Restarting {
            self.settle(Status::Exited);
        }
        if !cancelled {
            self.now.state.error = error.chain();
            self.now.state.exit_code = exit_code;
            tracing::info!(container = %self.now.id, error = error.chain(), "a container did not start");
        }
        self.now.sandbox = None;
        self.publish();
        self.record_state().await;
        for reply in starting.replies {
            answer(reply, Err(again(&error)));
        }
        for (_, _, reply) in starting.kills {
            answer(reply, Ok(()));
        }
        if self.asked.auto_remove {
            self.want_removal(true);
        }
    }

    /// The run has ended: with the shim's record, or with the shim gone and none.
    pub(crate) async fn ended(&mut self, record: Option<ExitRecord>) {
        let Some(mut up) = self.up.take() else { return };
        mark(&self.now.id, "exit", "begin");
        let ran = up.since.elapsed();
        self.door.close();
        let lost = record.is_none();
        let record = record.unwrap_or_else(|| {
            tracing::error!(container = %self.now.id, "the shim is gone and left no exit code");
            ExitRecord { code: LOST, oom_killed: false, exited_at: crate::events::now(), execs: Vec::new() }
        });
        if lost {
            undo::clear_cgroup(self.engine.cgroup_path(&self.now)).await;
        }
        for (exec, code) in &record.execs {
            self.engine.exec_ended(&self.now, exec, *code);
        }
        self.engine.execs_end(&self.now.id);
        mark(&self.now.id, "exit", "execs");
        self.engine.backends.networks.release(&self.now.id).await;
        mark(&self.now.id, "exit", "network");

        let stopping = self.stopping.take();
        let was = self.now.clone();
        let state = &mut self.now.state;
        state.exit_code = record.code;
        state.oom_killed |= record.oom_killed;
        state.finished_at =
            Some(Timestamp::from_nanosecond(record.exited_at.into()).unwrap_or_else(|_| Timestamp::now()));
        state.exits = state.exits.saturating_add(1);
        let again = self.removal.is_none()
            && !self.engine.closing.is_raised()
            && self.asked.restart.again(record.code, self.by_hand, state.restart_count);
        self.settle(if again { Status::Restarting } else { Status::Exited });
        if again {
            self.restart_at = Some(Instant::now() + self.backoff.after(ran));
        }
        // Waiters of a container that removes itself are answered when it is gone, not before.
        self.publish();
        mark(&self.now.id, "exit", "published");
        network_events(&self.engine, &was, "disconnect");
        volume_events(&self.engine, &was, "unmount");
        let duration = ran.as_secs().to_string();
        self.event("die", &[("exitCode", record.code.to_string()), ("execDuration", duration)]);
        if stopping.as_ref().is_some_and(|stopping| stopping.asked_to_stop) {
            self.event("stop", &[]);
        }
        self.record_state().await;
        mark(&self.now.id, "exit", "recorded");
        self.lingering = Some(tokio::spawn(linger(
            std::mem::replace(&mut up.events, tokio::sync::mpsc::channel(1).1),
            Arc::clone(&up.shim),
            was.paths.run_dir.clone(),
            lost,
            undo::unmount_volumes(self.engine.backends.volumes.clone(), was.mounts, was.id),
        )));
        if let Some(Stopping { waiters, restarts, .. }) = stopping {
            for reply in waiters {
                answer(reply, Ok(()));
            }
            if !restarts.is_empty() && self.removal.is_none() {
                self.begin_start(Starter::Person, None, true);
                if let Some(starting) = &mut self.starting {
                    starting.replies = restarts;
                }
                return;
            }
        }
        if self.asked.auto_remove {
            self.want_removal(true);
        }
    }

    /// Sends a signal without waiting for the shim's answer.
    pub(crate) fn send(&self, signal: Signal) {
        let Some(up) = &self.up else { return };
        let delivery = self.delivery(Arc::clone(&up.shim), signal);
        tokio::spawn(async move {
            if let Err(error) = delivery.await {
                tracing::debug!(error = error.chain(), "a signal was not delivered");
            }
        });
    }

    /// Others may be linked to this one; behind the answer.
    fn relink(&self) {
        let (engine, now) = (Arc::clone(&self.engine), self.now.clone());
        if engine.has_links.load(Ordering::Relaxed) {
            self.engine.background(async move {
                let done = crate::files::blocking(move || {
                    engine.relink(&now);
                    Ok(())
                });
                if let Err(error) = done.await {
                    tracing::error!(error = error.chain(), "telling linked containers of an address");
                }
            });
        }
    }

    pub(crate) fn network_events(&self, action: &str) {
        network_events(&self.engine, &self.now, action);
    }

    fn volume_events(&self, action: &str) {
        volume_events(&self.engine, &self.now, action);
    }
}

/// Waits for the shim's end and clears its run directory away.
async fn linger(
    events: tokio::sync::mpsc::Receiver<berth_runtime::ShimEvent>,
    shim: Arc<dyn crate::seam::Shim>,
    run_dir: std::path::PathBuf,
    gone: bool,
    volumes: impl Future<Output = ()> + Send,
) {
    if !gone {
        let mut events = events;
        let end =
            async { while !matches!(events.recv().await, None | Some(berth_runtime::ShimEvent::Gone)) {} };
        // It drains output to slow clients; then it is in the way of the next start.
        if tokio::time::timeout(Duration::from_secs(10), end).await.is_err() {
            tracing::warn!(run_dir = %run_dir.display(), "a shim outlives its container; killing it");
            shim.kill();
        }
    }
    volumes.await;
    undo::unmount(&run_dir.join("shm"));
    undo::remove_dir(run_dir).await;
}

fn network_events(engine: &crate::Engine, now: &crate::Snapshot, action: &str) {
    let Some(sandbox): Option<&SandboxRecord> = now.sandbox.as_deref() else { return };
    for endpoint in &sandbox.endpoints {
        let attributes = [
            ("container", now.id.to_string()),
            ("name", endpoint.network_name.clone()),
            ("type", engine.backends.networks.driver(&endpoint.network_id)),
        ];
        engine.bus.publish(
            EventKind::Network,
            action,
            &endpoint.network_id,
            attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        );
    }
}

fn volume_events(engine: &crate::Engine, now: &crate::Snapshot, action: &str) {
    for mount in now.mounts.iter().filter(|mount| mount.r#type == MountType::Volume) {
        let mut attributes = vec![("container", now.id.to_string()), ("driver", mount.driver.clone())];
        if action == "mount" {
            attributes.extend([
                ("destination", mount.destination.clone()),
                ("propagation", mount.propagation.clone()),
                ("read/write", mount.rw.to_string()),
            ]);
        }
        engine.bus.publish(
            EventKind::Volume,
            action,
            &mount.name,
            attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        );
    }
}

impl Task {
    /// Delivers a signal; a shim that does not answer a SIGKILL is itself killed with all it has.
    pub(crate) fn delivery(
        &self,
        shim: Arc<dyn crate::seam::Shim>,
        signal: Signal,
    ) -> impl Future<Output = berth_domain::Result<()>> + Send + use<> {
        // A container in another's pid namespace is not ended by the end of its init.
        let all = signal == Signal::KILL && self.asked.pid != crate::asked::NamespaceChoice::Private;
        let thaw = self.now.state.status == Status::Paused
            && (signal == Signal::KILL || signal == self.asked.stop_signal);
        async move {
            use berth_shim_proto::Target;
            let sent = async {
                shim.signal(Target::Init, signal.number(), all).await?;
                if !thaw {
                    return Ok(());
                }
                // A frozen process takes its signal when it is thawed; one that was killed may have gone before that.
                match shim.freeze(false).await {
                    Err(ShimError::Gone) => Ok(()),
                    Err(ShimError::Failed(failure)) if failure.kind == FailureKind::NotRunning => Ok(()),
                    thawed => thawed,
                }
            };
            match tokio::time::timeout(crate::task::SIGNAL_PATIENCE, sent).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(Error::conflict("sending a signal").because(error)),
                Err(_) if signal == Signal::KILL => {
                    shim.kill();
                    Ok(())
                }
                Err(_) => Err(Error::unavailable("the container's shim does not answer")),
            }
        }
    }
}
