//! The CRI services: pods, containers, images, streaming back end, state.
//!
//! One verb is one file, read as a script: `sandbox/run.rs`, `container/create.rs`, …
//! `service.rs` is the gRPC glue, `instrument.rs` logs and turns errors into statuses, `counters.rs` counts for
//! Prometheus, `encoded.rs` answers the lists from bytes, `measures/` are the metrics of pods, `events.rs` tells of every change,
//! `container/plan/` and `sandbox/plan.rs` decide (pure), `undo.rs` takes back, `store/`
//! remembers, `monitor/` talks to the processes that keep containers, `restore.rs` compares
//! all of it with what is there when the daemon starts.
//!
//! Who owns what: names and network results are in `store`; run status and exits belong to
//! the monitors; images to `image`; limits to the cgroup files.
//!
//! May use: proto, config, spec, sys, cgroup, seccomp, image, stream, cni-types, cni-invoke, cni-netlink.
//! Never isolation: its code runs in the monitor alone.

mod apart;
mod apparmor;
mod categories;
mod cdi;
mod chunks;
mod clock;
mod container;
mod counters;
mod encoded;
mod error;
mod events;
mod fdio;
mod handler;
mod host;
mod image;
mod instrument;
mod kept;
mod measures;
mod monitor;
mod node;
mod nofile;
mod port_forward;
mod restore;
mod runtime;

mod sandbox;
mod scope;
mod service;
mod store;
mod streaming;
mod subject;
mod trace;
mod undo;

pub use encoded::Lists;
pub use error::Error;
pub use nofile::raise as raise_open_files;
pub use runtime::{Parts, Runtime};
pub use service::{Services, services};
pub use streaming::Streaming;

use std::future::Future;
use std::sync::LazyLock;

use spec::Kind;
use tracing::Instrument;

fn panicked(what: &tokio::task::JoinError) -> Error {
    Error::new(Kind::Internal, format!("a step ended without a result: {what}"))
}

/// Runs blocking work on a thread for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .unwrap_or_else(|e| Err(panicked(&e)))
}

/// Objects that one thread reads the statistics of before a second one is worth waking.
const SHARE: usize = 8;

/// Does blocking work with each of `all`, on as many threads as there are processors for it; the answers are in the order
/// of `all`. What `begin` makes is a thread's own.
async fn spread<I, O, S>(
    all: Vec<I>,
    begin: impl Fn() -> S + Clone + Send + 'static,
    each: impl Fn(&mut S, I) -> Result<O, Error> + Clone + Send + 'static,
) -> Result<Vec<O>, Error>
where
    I: Send + 'static,
    O: Send + 'static,
{
    // Asking reads two files of cgroups each time.
    static THREADS: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    let share = all.len().div_ceil(*THREADS).max(SHARE);
    let mut all = all.into_iter();
    let mut rounds = Vec::new();
    loop {
        let part: Vec<I> = all.by_ref().take(share).collect();
        if part.is_empty() {
            break;
        }
        let (begin, each) = (begin.clone(), each.clone());
        rounds.push(blocking(move || {
            let mut own = begin();
            part.into_iter()
                .map(|one| each(&mut own, one))
                .collect::<Result<Vec<O>, Error>>()
        }));
    }
    let done = futures_util::future::try_join_all(rounds).await?;
    Ok(done.into_iter().flatten().collect())
}

/// Runs a verb's work in a task of its own, so that it outlives a caller who goes away.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work.in_current_span())
        .await
        .unwrap_or_else(|e| Err(panicked(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_spread_comes_back_in_order_and_a_failure_is_the_answer() {
        for count in [0_usize, 1, SHARE, 5 * SHARE + 3] {
            let all = spread(
                (0..count).collect(),
                || 0,
                |seen, one| {
                    *seen += 1;
                    Ok((one, *seen))
                },
            );
            let all = all.await.unwrap();
            assert!(all.iter().map(|(one, _)| *one).eq(0..count));
            // Each thread has one beginning, and goes on with it.
            assert!(all.iter().filter(|(_, seen)| *seen == 1).count() <= count.div_ceil(SHARE));
        }
        let odd = |(): &mut (), one: usize| {
            if one == 20 {
                Err(Error::not_found("20"))
            } else {
                Ok(one)
            }
        };
        assert_eq!(
            spread((0..40).collect(), || (), odd).await.unwrap_err().kind(),
            Kind::NotFound
        );
    }
}
