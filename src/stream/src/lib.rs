//! The streaming server: exec, attach and port-forward over SPDY/3.1 and WebSocket, behind
//! one-time URLs. It knows protocols and nothing of containers: those are behind `Backend`.
//!
//! The way of a session, downwards only:
//!
//! | step | module | does |
//! |------|--------|------|
//! | 1 | `token` | the RPC's parameters wait behind a random one-time path |
//! | 2 | `server` (`tls`) | accepts, reads one HTTP request, takes the token |
//! | 3 | `negotiate` | picks protocol and version from the headers, pure |
//! | 4 | `spdy` or `ws` | wire format; turns channels into a `link::Link` |
//! | 5 | `session`, `forward` | protocol-free: calls `Backend`, copies, writes the status |
//!
//! Every queue is bounded and every byte is pushed back end to end: a client that does not
//! read stops its process, a process that does not read stops its client, and neither costs
//! more than the buffers of `link`.
//!
//! May use: spec.

pub mod backend;

mod activity;
mod forward;
mod link;
mod negotiate;
mod server;
mod session;
mod spdy;
mod status;
mod tls;
mod token;
mod ws;

pub use backend::{
    AttachParams, Backend, BackendError, ExecParams, PortForwardParams, Reader, Size, Streams, Wants, Writer,
};
pub use server::{Options, Server};
pub use tls::{Tls, TlsOptions, TlsVersion};
