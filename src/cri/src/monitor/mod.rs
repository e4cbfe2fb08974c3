//! The daemon's side of the monitors.
//!
//! `spawner.rs` keeps the one process that forks monitors and pins namespaces;
//! `client.rs` is the connection to one monitor: a task that sends requests, hands each
//! reply to who asked, and tells of exits; `frame.rs` puts frames and descriptors on the
//! wire. The protocol is `proto/monitor/v1/monitor.proto`.
//!
//! Who owns what: the container's run status and exit belong to its monitor. The daemon
//! keeps a copy for its lists, written only in `container/exit.rs` and `container/start.rs`.

pub(crate) mod client;
pub(crate) mod frame;
pub(crate) mod spawner;

pub(crate) use client::{Client, Outcome};
pub(crate) use spawner::{Home, Placeholder, Spawner};
