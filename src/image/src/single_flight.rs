//! One run for all who want the same thing at the same time.
//!
//! The first caller's future runs as a task of its own, so that it survives any one caller;
//! when the last caller goes away (kubelet cancelled, deadline passed), the task is aborted.
//! The entry leaves the map when the run ends or is aborted, under the same lock by which
//! callers come and go: nobody joins a run that is over.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spec::Kind;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::Error;

type Outcome<V> = Option<Result<V, Error>>;

struct Run<V> {
    serial: u64,
    callers: usize,
    result: watch::Receiver<Outcome<V>>,
    task: AbortHandle,
}

struct Runs<K, V> {
    map: HashMap<K, Run<V>>,
    next: u64,
}

/// Runs in flight, by key.
pub(crate) struct SingleFlight<K, V>(Arc<Mutex<Runs<K, V>>>);

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Runs {
            map: HashMap::new(),
            next: 0,
        })))
    }
}

/// One caller's interest in a run.
struct Ticket<K: Eq + Hash, V> {
    runs: Arc<Mutex<Runs<K, V>>>,
    key: K,
    serial: u64,
}

fn lock<K, V>(runs: &Mutex<Runs<K, V>>) -> MutexGuard<'_, Runs<K, V>> {
    runs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash, V> Drop for Ticket<K, V> {
    fn drop(&mut self) {
        let mut runs = lock(&self.runs);
        if let Some(run) = runs.map.get_mut(&self.key).filter(|run| run.serial == self.serial) {
            run.callers -= 1;
            if run.callers == 0 {
                run.task.abort();
                runs.map.remove(&self.key);
            }
        }
    }
}

impl<K, V> SingleFlight<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The result of the run for `key`, started by `start` unless one is in flight. The flag
    /// says whether this caller started it.
    pub(crate) async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> (Result<V, Error>, bool)
    where
        F: Future<Output = Result<V, Error>> + Send + 'static,
    {
        let (mut result, _ticket, first) = self.join(key, start);
        let outcome = match result.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        // The sender is gone without a word only when the task panicked.
        let outcome = outcome.unwrap_or_else(|| Err(Error::new(Kind::Internal, "a pull ended without a result")));
        (outcome, first)
    }

    fn join<F>(&self, key: K, start: impl FnOnce() -> F) -> (watch::Receiver<Outcome<V>>, Ticket<K, V>, bool)
    where
        F: Future<Output = Result<V, Error>> + Send + 'static,
    {
        let mut runs = lock(&self.0);
        if let Some(run) = runs.map.get_mut(&key) {
            run.callers += 1;
            let ticket = Ticket {
                runs: Arc::clone(&self.0),
                key,
                serial: run.serial,
            };
            return (run.result.clone(), ticket, false);
        }
        let serial = runs.next;
        runs.next += 1;
        let (sender, receiver) = watch::channel(None);
        let future = start();
        let (own, own_key) = (Arc::clone(&self.0), key.clone());
        let task = tokio::spawn(async move {
            let result = future.await;
            // Lock first: from here on nobody can join, and the callers there are see the result.
            let mut runs = lock(&own);
            if runs.map.get(&own_key).is_some_and(|run| run.serial == serial) {
                runs.map.remove(&own_key);
            }
            drop(runs);
            sender.send_replace(Some(result));
        });
        let run = Run {
            serial,
            callers: 1,
            result: receiver.clone(),
            task: task.abort_handle(),
        };
        runs.map.insert(key.clone(), run);
        (
            receiver,
            Ticket {
                runs: Arc::clone(&self.0),
                key,
                serial,
            },
            true,
        )
    }

    #[cfg(test)]
    fn in_flight(&self) -> usize {
        lock(&self.0).map.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn many_callers_one_run() {
        let flights: SingleFlight<&str, u32> = SingleFlight::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let start = || {
            let runs = Arc::clone(&runs);
            || async move {
                runs.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(7)
            }
        };
        let (a, b, c) = tokio::join!(
            flights.run("k", start()),
            flights.run("k", start()),
            flights.run("other", start())
        );
        assert!(a.0.is_ok_and(|v| v == 7) && b.0.is_ok_and(|v| v == 7) && c.0.is_ok());
        assert!(a.1 && !b.1 && c.1);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        assert_eq!(flights.in_flight(), 0);
    }

    #[tokio::test]
    async fn the_run_lives_until_its_last_caller_leaves() {
        let flights: Arc<SingleFlight<u8, u32>> = Arc::default();
        let dropped = Arc::new(AtomicUsize::new(0));
        struct Guard(Arc<AtomicUsize>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let call = |flights: &Arc<SingleFlight<u8, u32>>| {
            let (flights, guard) = (Arc::clone(flights), Guard(Arc::clone(&dropped)));
            tokio::spawn(async move {
                flights
                    .run(1, || async move {
                        let _guard = guard;
                        std::future::pending::<()>().await;
                        Ok(1)
                    })
                    .await
            })
        };
        let first = call(&flights);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let second = call(&flights);
        tokio::time::sleep(Duration::from_millis(10)).await;
        // The second's own future was never started: its guard is dropped already.
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        first.abort();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!((dropped.load(Ordering::SeqCst), flights.in_flight()), (1, 1));
        second.abort();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!((dropped.load(Ordering::SeqCst), flights.in_flight()), (2, 0));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_the_key() {
        let flights: SingleFlight<u8, u32> = SingleFlight::default();
        let (result, _) = flights.run(1, || async { panic!("as the test wants it") }).await;
        assert_eq!(result.unwrap_err().kind(), Kind::Internal);
        assert!(flights.run(1, || async { Ok(3) }).await.0.is_ok());
    }
}
