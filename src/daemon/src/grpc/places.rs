//! Places for connections: so many, and where all are taken, the connection that has been
//! idle the longest gives way to a new one.
//!
//! Without that, a client that opens connections and forgets them (critest opens two for each
//! of its specs; a broken agent does it for days) would lock the kubelet out. Giving way is
//! the GOAWAY of HTTP/2: a client that still wants something connects again by itself. One
//! with a call or a stream under way is never asked; if all are busy, the new one waits.
//! `Places` owns the list; a `Place` leaves it when it is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// What is known of a connection.
struct Known {
    calls: usize,
    idle_since: Instant,
    leave: CancellationToken,
}

type List = Arc<Mutex<HashMap<u64, Known>>>;

fn lock(list: &List) -> MutexGuard<'_, HashMap<u64, Known>> {
    // Nothing that can panic is done under the lock.
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All places.
pub(super) struct Places {
    free: Arc<Semaphore>,
    list: List,
    next: u64,
}

impl Places {
    /// `limit` free places.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(limit)),
            list: List::default(),
            next: 0,
        }
    }

    /// A place, if need be after the one that is idle the longest has gone. None once the
    /// server ends.
    pub(super) async fn take(&mut self) -> Option<Place> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.ask_one_to_leave();
                Arc::clone(&self.free).acquire_owned().await.ok()?
            }
        };
        let (number, leave) = (self.next, CancellationToken::new());
        self.next += 1;
        let known = Known {
            calls: 0,
            idle_since: Instant::now(),
            leave: leave.clone(),
        };
        lock(&self.list).insert(number, known);
        Some(Place {
            number,
            leave,
            list: Arc::clone(&self.list),
            _permit: permit,
        })
    }

    fn ask_one_to_leave(&self) {
        let list = lock(&self.list);
        let idle = list.values().filter(|k| k.calls == 0 && !k.leave.is_cancelled());
        if let Some(idlest) = idle.min_by_key(|k| k.idle_since) {
            idlest.leave.cancel();
        }
        tracing::warn!(
            connections = list.len(),
            "all places for connections are taken; an idle one gives way"
        );
    }
}

/// The place of one connection.
pub(super) struct Place {
    number: u64,
    leave: CancellationToken,
    list: List,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Ends when this connection is asked to give way.
    pub(super) fn leave(&self) -> CancellationToken {
        self.leave.clone()
    }

    /// Notes a call, until what is answered is dropped.
    pub(super) fn call(&self) -> Call {
        if let Some(known) = lock(&self.list).get_mut(&self.number) {
            known.calls += 1;
        }
        Call {
            number: self.number,
            list: Arc::clone(&self.list),
        }
    }

    /// No call is under way.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.list).get(&self.number).is_none_or(|k| k.calls == 0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.list).remove(&self.number);
    }
}

/// A call under way.
pub(super) struct Call {
    number: u64,
    list: List,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(known) = lock(&self.list).get_mut(&self.number) {
            known.calls -= 1;
            known.idle_since = Instant::now();
        }
    }
}
