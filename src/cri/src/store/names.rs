//! Name reservation: one object for each name, and repeated requests joined.
//!
//! ```text
//!            reserve, name free                 finish(Ok)
//! (free) ──────────────────────────▶ InFlight ────────────▶ Taken ──release──▶ (free)
//!    ▲                                   │ finish(Err), or the ticket is dropped
//!    └───────────────────────────────────┘
//! ```
//!
//! The verb itself runs in a task of its own, so that it outlives a caller whose deadline
//! passed. The same request asked again while it runs waits for the same result; asked
//! again afterwards it finds the finished object (the verb decides whether it was made by that
//! request and is still what the caller wants). A different request in flight is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spec::Kind;
use tokio::sync::watch;

use crate::error::Error;

type Outcome = Option<Result<String, Error>>;

enum Entry<R> {
    InFlight {
        request: Arc<R>,
        outcome: watch::Receiver<Outcome>,
    },
    Taken {
        id: String,
    },
}

type Table<R> = Mutex<HashMap<String, Entry<R>>>;

/// The names of one kind of object; with the request, while it is being worked on.
pub(crate) struct Names<R> {
    kind: &'static str,
    table: Arc<Table<R>>,
}

impl<R> std::fmt::Debug for Names<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// What `reserve` found.
pub(crate) enum Reserved<R> {
    /// The name was free: do the work, then `finish` the ticket.
    New(Ticket<R>, Waiter),
    /// The same request is being worked on: wait with it.
    Join(Waiter),
    /// This object has it: the verb knows by which request it was made, and whether it is still what the caller wants.
    Taken(String),
}

/// The right to use a name; dropping it without `finish` frees the name.
pub(crate) struct Ticket<R> {
    table: Arc<Table<R>>,
    key: String,
    outcome: watch::Sender<Outcome>,
    finished: bool,
}

/// Waits for the outcome of a verb that runs in a task.
#[derive(Debug)]
pub(crate) struct Waiter {
    outcome: watch::Receiver<Outcome>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: PartialEq> Names<R> {
    /// An empty table; `kind` is used in messages.
    pub(crate) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            table: Arc::default(),
        }
    }

    /// Takes `key` for `request`, joins the same request, or says who has it.
    pub(crate) fn reserve(&self, key: &str, request: &Arc<R>) -> Result<Reserved<R>, Error> {
        let mut table = locked(&self.table);
        match table.get(key) {
            Some(Entry::InFlight {
                request: other,
                outcome,
            }) if **other == **request => Ok(Reserved::Join(Waiter {
                outcome: outcome.clone(),
            })),
            Some(Entry::InFlight { .. }) => Err(Error::new(
                Kind::AlreadyExists,
                format!(
                    "{} name {key:?} is being made by another request with other contents; retry with another attempt number",
                    self.kind
                ),
            )),
            Some(Entry::Taken { id }) => Ok(Reserved::Taken(id.clone())),
            None => {
                let (outcome, receiver) = watch::channel(None);
                let entry = Entry::InFlight {
                    request: Arc::clone(request),
                    outcome: receiver.clone(),
                };
                table.insert(key.to_owned(), entry);
                let ticket = Ticket {
                    table: Arc::clone(&self.table),
                    key: key.to_owned(),
                    outcome,
                    finished: false,
                };
                Ok(Reserved::New(ticket, Waiter { outcome: receiver }))
            }
        }
    }

    /// The error that says who has `key`.
    pub(crate) fn taken(&self, key: &str, id: &str) -> Error {
        Error::new(
            Kind::AlreadyExists,
            format!(
                "{} name {key:?} is taken by {id}; remove it first or use another attempt number",
                self.kind
            ),
        )
    }

    /// Notes a name that a restored object has. False if another has it already.
    pub(crate) fn adopt(&self, key: &str, id: &str) -> bool {
        let mut table = locked(&self.table);
        if table.contains_key(key) {
            return false;
        }
        table.insert(key.to_owned(), Entry::Taken { id: id.to_owned() });
        true
    }

    /// Frees `key` if `id` has it.
    pub(crate) fn release(&self, key: &str, id: &str) {
        let mut table = locked(&self.table);
        if matches!(table.get(key), Some(Entry::Taken { id: owner }) if owner == id) {
            table.remove(key);
        }
    }
}

impl<R> Ticket<R> {
    /// Hands the outcome to everybody who waits; the name stays taken if it is an object.
    pub(crate) fn finish(mut self, outcome: Result<String, Error>) {
        self.settle(outcome);
    }

    fn settle(&mut self, outcome: Result<String, Error>) {
        self.finished = true;
        {
            let mut table = locked(&self.table);
            match (&outcome, table.remove(&self.key)) {
                (Ok(id), Some(Entry::InFlight { .. })) => {
                    table.insert(self.key.clone(), Entry::Taken { id: id.clone() });
                }
                (_, _removed) => {}
            }
        }
        self.outcome.send_replace(Some(outcome));
    }
}

impl<R> Drop for Ticket<R> {
    fn drop(&mut self) {
        if !self.finished {
            self.settle(Err(Error::new(
                Kind::Internal,
                "the request ended without a result; retry it",
            )));
        }
    }
}

impl Waiter {
    /// The id of the finished object, or why there is none.
    pub(crate) async fn wait(mut self) -> Result<String, Error> {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome
                .clone()
                .unwrap_or_else(|| Err(Error::new(Kind::Internal, "no result"))),
            Err(_) => Err(Error::new(
                Kind::Internal,
                "the request ended without a result; retry it",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(names: &Names<u32>, key: &str, request: u32) -> (Ticket<u32>, Waiter) {
        match names.reserve(key, &Arc::new(request)).unwrap() {
            Reserved::New(ticket, waiter) => (ticket, waiter),
            _ => panic!("{key} is not free"),
        }
    }

    #[tokio::test]
    async fn the_same_request_joins_and_a_retry_finds_the_object() {
        let names = Names::new("sandbox");
        let (ticket, first) = new(&names, "a", 1);
        let Reserved::Join(second) = names.reserve("a", &Arc::new(1)).unwrap() else {
            panic!("not joined")
        };
        drop(first); // the first caller's deadline passed
        ticket.finish(Ok("id".into()));
        assert_eq!(second.wait().await.unwrap(), "id");
        assert!(matches!(names.reserve("a", &Arc::new(1)).unwrap(), Reserved::Taken(id) if id == "id"));
    }

    #[tokio::test]
    async fn another_request_is_refused_until_the_name_is_free() {
        let names = Names::new("sandbox");
        let (ticket, _waiter) = new(&names, "a", 1);
        let error = names.reserve("a", &Arc::new(2)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
        ticket.finish(Ok("id".into()));
        assert!(matches!(names.reserve("a", &Arc::new(2)).unwrap(), Reserved::Taken(id) if id == "id"));
        let error = names.taken("a", "id");
        assert!(error.to_string().contains("taken by id"), "{error}");
        names.release("a", "someone else");
        assert!(matches!(names.reserve("a", &Arc::new(2)).unwrap(), Reserved::Taken(_)));
        names.release("a", "id");
        new(&names, "a", 2);
    }

    #[tokio::test]
    async fn a_failure_or_a_panic_frees_the_name_at_once() {
        let names = Names::new("sandbox");
        let (ticket, waiter) = new(&names, "a", 1);
        ticket.finish(Err(Error::invalid("no")));
        assert_eq!(waiter.wait().await.unwrap_err(), Error::invalid("no"));
        let (ticket, waiter) = new(&names, "a", 1);
        drop(ticket);
        assert_eq!(waiter.wait().await.unwrap_err().kind(), Kind::Internal);
        new(&names, "a", 3);
    }
}
