// SPDX-License-Identifier: Apache-2.0
//! The commit thread: whatever commits wait are applied, made durable by one flush and one sync, and answered
//! together.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use berth_domain::{Error, Result};

use crate::durable::Files;
use crate::{Op, guarded};

/// Commits that share one sync at most; those beyond wait for the next.
const BATCH_MAX: usize = 256;
/// Commits that may queue before callers block.
const QUEUE: usize = 256;

struct Job {
    ops: Vec<Op>,
    done: SyncSender<Result<(), String>>,
}

pub(crate) struct Committer {
    queue: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    pub(crate) fn start(db: sled::Db, files: Files) -> Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-commit".into())
            .spawn(move || run(&db, files, &jobs))
            .map_err(|e| Error::internal("starting the index's commit thread").because(e))?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn commit(&self, ops: Vec<Op>) -> Result<()> {
        let gone = || Error::internal("the index's commit thread has ended");
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(gone)?;
        let (done, answer) = sync_channel(1);
        queue.send(Job { ops, done }).map_err(|_| gone())?;
        match answer.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(Error::internal("writing the index").because(cause)),
            Err(_) => Err(gone()),
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the index's commit thread panicked");
        }
    }
}

fn run(db: &sled::Db, mut files: Files, jobs: &Receiver<Job>) {
    // The first failure: sled's state is unknown after it, so nothing more may be acknowledged.
    let mut broken: Option<String> = None;
    while let Ok(first) = jobs.recv() {
        let mut waiting = vec![first];
        while waiting.len() < BATCH_MAX {
            match jobs.try_recv() {
                Ok(job) => waiting.push(job),
                Err(_) => break,
            }
        }
        if broken.is_none() {
            if let Err(error) = write(db, &mut files, &waiting) {
                let text = error.chain();
                tracing::error!(error = %text, "the index refuses writes until it is opened anew");
                broken = Some(text);
            }
        }
        let answer = broken.clone().map_or(Ok(()), Err);
        for job in waiting {
            // A caller that has gone needs no answer.
            drop(job.done.send(answer.clone()));
        }
    }
}

fn write(db: &sled::Db, files: &mut Files, jobs: &[Job]) -> Result<()> {
    for job in jobs {
        let mut batch = sled::Batch::default();
        for (key, value) in &job.ops {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        guarded("applying a batch to the index", || db.apply_batch(batch))?;
    }
    files.sync(db)
}
