//! The streaming server: exec, attach and port-forward over SPDY/3.1 and WebSocket, behind
//! one-time URLs. It knows protocols and nothing of containers: those are behind `Backend`.
//!
//! May use: spec.

pub mod backend;

pub use backend::{
    AttachParams, Backend, BackendError, ExecParams, PortForwardParams, Reader, Size, Streams, Wants, Writer,
};
