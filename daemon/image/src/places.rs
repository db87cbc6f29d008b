// SPDX-License-Identifier: Apache-2.0
//! A bound on how much is done at once, which a reload of the configuration may change.

use std::sync::{Arc, Mutex, PoisonError};

use berth_domain::{Error, Result};
use tokio::sync::{Semaphore, SemaphorePermit};

#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    /// How many there are to be.
    count: Mutex<usize>,
}

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        let count = count.max(1);
        Self { free: Arc::new(Semaphore::new(count)), count: Mutex::new(count) }
    }

    /// Waits for a place.
    pub(crate) async fn take(&self) -> Result<SemaphorePermit<'_>> {
        self.free.acquire().await.map_err(|_| Error::unavailable("the engine is stopping"))
    }

    /// From now on there are so many; what is under way is not stopped. Must be called within a runtime.
    pub(crate) fn set(&self, wanted: usize) {
        let wanted = wanted.max(1);
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted >= *count {
            self.free.add_permits(wanted - *count);
        } else {
            // Places that are taken go away as they become free.
            let (places, fewer) = (Arc::clone(&self.free), *count - wanted);
            tokio::spawn(async move {
                for _ in 0..fewer {
                    if let Ok(place) = places.acquire().await {
                        place.forget();
                    }
                }
            });
        }
        *count = wanted;
    }
}
