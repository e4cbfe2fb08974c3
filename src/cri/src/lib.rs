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

mod apparmor;
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
mod measures;
mod monitor;
mod node;
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
pub use runtime::{Parts, Runtime};
pub use service::{Services, services};
pub use streaming::Streaming;

use std::future::Future;

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

/// Runs a verb's work in a task of its own, so that it outlives a caller who goes away.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work.in_current_span())
        .await
        .unwrap_or_else(|e| Err(panicked(&e)))
}
